"""What a GPU is measured on, in one run of under 8 minutes, each step with a time limit of its own.

A step is a process; what it printed stays when the next ones fail or are cut. On a CPU the steps run in small, which
shows that they run.

Command:  python benchmarks/gpu.py [--out FOLDER] [--only STEP …]
Results:  none yet; it has not run on a GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

HERE = Path(__file__).resolve().parent
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"


def models(*more: str) -> list[str]:
    """ConvNeXt-T beside other libraries'."""
    size = ("--device", "cuda", "--precision", "bf16", "--channels-last") if GPU else ("--precision", "bf16")
    return [str(HERE / "models.py"), *size, "--no-memory", *more]


def steps() -> dict[str, tuple[int, list[str]]]:
    """Name: most seconds, and the arguments to Python."""
    batch = ("--batch", "256" if GPU else "2", "--rounds", "7" if GPU else "1")
    single = ("--batch", "1", "--rounds", "30" if GPU else "1", "--only", "inference")
    return {
        "tests": (110, ["-m", "pytest", "-q", "-m", "gpu", "tests"]),
        "small networks": (60, [str(HERE / "gpu.py"), "--small"]),
        "eager": (70, models(*batch)),
        "compiled": (180, models(*batch, "--compiled")),
        "one image": (40, models(*single)),
    }


def small_networks(rounds: int, taken: int) -> None:
    """Images/s of whole trainings' steps, with and without ``--capture``, in turns."""
    import numpy as np

    from nextify.data import ImageSet, open_images
    from nextify.data.images import UniformStore
    from nextify.data.kept import Kept
    from nextify.training.prepare import prepare
    from nextify.training.request import Request
    from nextify.training.trainer import Trainer
    from nextify.training.trial import Runtime

    rng = np.random.default_rng(0)
    noise = ImageSet(
        rng.integers(0, 10, 10_000), UniformStore(Kept(rng.integers(0, 256, (10_000, 32, 32, 3), np.uint8)))
    )
    images = replace(open_images("digits"), train=noise, test=noise, native_size=(32, 32))
    for model in ("convnext_pooled", "convnext_atto@tiny"):
        batch = 256 if GPU else 8
        name, _, scale = model.partition("@")
        request = Request(name, epochs=30, scale=scale or "full", settings={"batch_size": batch, "precision": "bf16"})
        trial = prepare(request, images).trial
        kinds = (False, True) if GPU else (False,)
        trainers = [Trainer(trial, images, Runtime(DEVICE, workers=4 if GPU else 0, capture=kind)) for kind in kinds]
        batches = [trainer.batches.iterate(0, trainer.total_steps) for trainer in trainers]
        seconds: list[list[float]] = [[] for _ in trainers]
        for number in range(rounds + 1):
            for trainer, made, spent in zip(trainers, batches, seconds, strict=True):
                start = time.perf_counter()
                for _ in range(taken):
                    loss = trainer.train_step(*next(made))
                float(loss)  # waits for the device
                if number:  # the first round chooses kernels and captures
                    spent.append((time.perf_counter() - start) / taken)
        for trainer, spent in zip(trainers, seconds, strict=True):
            how = "captured" if trainer.runtime.capture else "eager"
            failure = getattr(trainer.update, "failure", "")
            print(
                f"{model}, batch {batch}, {how}: {batch / median(spent):,.0f} images/s "
                f"({batch / max(spent):,.0f} to {batch / min(spent):,.0f}, n = {rounds}) {failure}".rstrip(),
                flush=True,
            )
        if len(seconds) > 1:
            ratios = [a / b for a, b in zip(*seconds, strict=True)]
            print(
                f"{model}: captured {median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--only", nargs="+", choices=steps(), default=list(steps()))
    parser.add_argument("--small", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.small:
        small_networks(*((7, 50) if GPU else (1, 2)))
        return
    from nextify.system.environment import describe

    options.out.mkdir(parents=True, exist_ok=True)
    print({name: value for name, value in describe().items() if name != "date"}, flush=True)
    for name in options.only:
        limit, arguments = steps()[name]
        start = time.monotonic()
        with open(options.out / f"{name.replace(' ', '-')}.txt", "w+", encoding="utf-8") as log:
            try:
                done = subprocess.run([sys.executable, *arguments], cwd=HERE.parent, stdout=log,
                                      stderr=subprocess.STDOUT, timeout=limit, check=False)  # fmt: skip
                ended = "done" if done.returncode == 0 else f"failed with {done.returncode}"
            except subprocess.TimeoutExpired:
                ended = f"cut after {limit} s"
            log.seek(0)
            shown = log.read().splitlines()[-40:]
        print(f"\n== {name}: {ended}, {time.monotonic() - start:.0f} s", *shown, sep="\n", flush=True)


if __name__ == "__main__":
    main()
