"""What exported files are worth: their speed beside torch's and timm's, and whether int8 keeps its promise.

``speed``: ConvNeXt-T with fresh weights at 224², batches of 1 and 16: ours plain, with our kernels, in bf16 and
compiled, timm's eager and compiled, ONNX Runtime, and OpenVINO in fp32, bf16 and int8. All are made
first, then take turns round by round; images/s are medians over the rounds, with the lowest and the highest.

``gate``: each bundle is quantized with each seed on one half of the held-out images; the written file and the bundle
are then compared on the other half, which nothing has seen. A violation is a loss of more than ``--max-drop`` points
there.

Command:  python benchmarks/deploy.py speed --rounds 7
          python benchmarks/deploy.py gate BUNDLE … --data cifar10 --seeds 0 1 2
Results:  docs/export.md
"""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from timing import timed

import nextify
import nextify.kernels
from nextify.data.images import ImageSet, Labels, Pixels
from nextify.deploy import formats
from nextify.deploy.export import Source
from nextify.deploy.gate import Answers, change
from nextify.deploy.quantize import INT8, quantize, write_int8
from nextify.deploy.runners import Exported, open_runner, quiet, start
from nextify.evaluation.evaluate import match_classes
from nextify.evaluation.runner import Network, Runner, probabilities
from nextify.networks.zoo import find_design
from nextify.system.environment import describe, version
from nextify.weights import About, Preprocessing

Runs = dict[str, Callable[[np.ndarray], object]]


def in_torch(model: torch.nn.Module, bf16: bool = False) -> Callable[[np.ndarray], object]:
    def run(inputs: np.ndarray) -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return model(torch.from_numpy(inputs))

    return run


def contestants(name: str, size: int, folder: Path, compiled: bool) -> Runs:
    """Everything that takes part, ready to run."""
    import timm

    torch.manual_seed(0)
    model = nextify.create_model(name).eval()
    settings = Preprocessing.from_crop_ratio(size, 0.875)
    source = Source(model, About(find_design(name), 1000, preprocessing=settings), False, name)
    images = [np.random.default_rng(i).standard_normal((1, 3, size, size), np.float32) for i in range(32)]
    runs: Runs = {"nextify, plain torch": in_torch(model)}
    fast = nextify.create_model(name).eval()
    fast.load_state_dict(model.state_dict())
    nextify.kernels.install(fast)
    runs["nextify, kernels"] = in_torch(fast)
    runs["nextify, kernels, bf16"] = in_torch(fast, bf16=True)
    theirs = timm.create_model(name).eval()
    runs["timm, eager"] = in_torch(theirs)
    if compiled:
        runs["nextify, compiled"] = in_torch(torch.compile(fast))
        runs["timm, compiled"] = in_torch(torch.compile(theirs))
    for to, precision, how in (
        ("onnx", "fp32", None),
        ("openvino", "fp32", None),
        ("openvino", "bf16", None),
        ("openvino", "int8", INT8[0]),
    ):
        own = folder / f"{to}-{precision}"
        own.mkdir()
        narrow = precision == "bf16" or (precision == "int8" and torch.cpu._is_avx512_bf16_supported())
        exported = Exported(to, precision, settings.size, bf16=narrow)
        with quiet():
            if how is None:
                formats.write(exported, model, False, settings, own)
            else:
                write_int8(exported, how, source, images, own)
            runs[f"{to} {precision}"] = start(own / exported.file, exported)
    return runs


def speed(options: argparse.Namespace) -> None:
    with TemporaryDirectory() as folder:
        runs = contestants(options.model, options.size, Path(folder), not options.no_compile)
        for batch in options.batches:
            inputs = np.random.default_rng(0).standard_normal((batch, 3, options.size, options.size), np.float32)
            found: dict[str, list[float]] = {name: [] for name in runs}
            for turn in range(options.rounds + 1):
                for name, run in runs.items():
                    run(inputs)
                    seconds = timed(partial(run, inputs), repeats=max(1, 8 // batch))
                    if turn:  # the first round warms up
                        found[name].append(batch / seconds)
            print(f"\n{options.model}, {options.size}², batch {batch}, n = {options.rounds} rounds, images/s")
            base = statistics.median(found["nextify, plain torch"])
            for name, rates in sorted(found.items(), key=lambda item: -statistics.median(item[1])):
                rate = statistics.median(rates)
                print(f"{name:26s} {rate:8.2f} ({min(rates):.2f} to {max(rates):.2f})  {rate / base:.2f}×", flush=True)


class Half:
    """Some images of a set, as a store of their own."""

    def __init__(self, images: ImageSet, places: Labels) -> None:
        self.images, self.places = images, places

    def load(self, index: int) -> Pixels:
        return self.images.load(int(self.places[index]))


def gate(options: argparse.Namespace) -> None:
    images = nextify.open_images(options.data)
    shuffled = np.random.default_rng(12345).permutation(len(images.test))
    halves = []
    for places in np.array_split(shuffled, 2):
        own = ImageSet(images.test.labels[places], Half(images.test, places), None, None)
        halves.append(replace(images, test=own))
    violations = 0
    for bundle in options.bundles:
        network = Network(bundle, kernels="off")
        labels = match_classes(network.about, images, [])[halves[1].test.labels]
        inputs = [network.preprocessing(halves[1].test.load(i)).numpy() for i in range(len(labels))]
        parts = [np.stack(inputs[i : i + 64]) for i in range(0, len(inputs), 64)]

        def answers(run: Runner, parts: list[np.ndarray] = parts, labels: np.ndarray = labels) -> Answers:
            return Answers.of(np.concatenate([probabilities(run(part), run.about) for part in parts]), labels)

        before = answers(network)
        for seed in options.seeds:
            with TemporaryDirectory() as folder:
                out = Path(folder, "out")
                done = quantize(bundle, halves[0], out, to=options.to, max_drop=options.max_drop, seed=seed)
                chosen = next(c for c in done.candidates if c.verdict == "chosen")
                runner = open_runner(out)
                after = Answers.of(
                    np.concatenate([probabilities(runner(part), network.about) for part in parts]), labels
                )
            found = change(before, after)
            violated = found.value < -options.max_drop
            violations += violated
            print(
                f"{bundle} seed {seed}: {chosen.name}; gate's own check {done.final.value:+.2f} "
                f"[{done.final.low:+.2f}, {done.final.high:+.2f}]; second holdout {found.value:+.2f} "
                f"[{found.low:+.2f}, {found.high:+.2f}] on {found.images:,}{' VIOLATION' if violated else ''}",
                flush=True,
            )
    print(f"{violations} violations in {len(options.bundles) * len(options.seeds)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    modes = parser.add_subparsers(dest="mode", required=True)
    one = modes.add_parser("speed")
    one.add_argument("--model", default="convnext_tiny", help="a name that timm has too")
    one.add_argument("--size", type=int, default=224)
    one.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    one.add_argument("--rounds", type=int, default=7)
    one.add_argument("--no-compile", action="store_true")
    two = modes.add_parser("gate")
    two.add_argument("bundles", nargs="+")
    two.add_argument("--data", default="cifar10")
    two.add_argument("--to", default="openvino", choices=("openvino", "onnx"))
    two.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    two.add_argument("--max-drop", type=float, default=0.5)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    here = describe()
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "timm", "onnxruntime", "openvino", "nncf"))
    print(f"{here['cpu']}, {torch.get_num_threads()} threads; {packages}; {here['date']}", flush=True)
    (speed if options.mode == "speed" else gate)(options)


if __name__ == "__main__":
    main()
