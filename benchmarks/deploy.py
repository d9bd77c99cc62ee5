"""What exported files are worth: their speed beside torch's and timm's, and whether int8 keeps its promise.

``speed``: ConvNeXt-T with fresh weights at 224², batches of 1 and 16: ours plain, with our kernels, in bf16 and
compiled, timm's eager and compiled, ONNX Runtime, and OpenVINO in fp32, bf16 and int8. All are made
first, then take turns round by round; images/s are medians over the rounds, with the lowest and the highest.

``gate``: each bundle is quantized with each seed on one half of the held-out images; the written file and the bundle
are then compared on the other half, which nothing has seen. A violation is a loss of more than ``--max-drop`` points
there. With ``--any-speed`` int8 is tested also where it is no faster.

``fastest``: what ``nextify export --fastest`` writes for a bundle, in turns with the bundle in plain torch and with
OpenVINO's int8 as NNCF quantizes by default; and its loss of top-1 on images that chose nothing.

Command:  python benchmarks/deploy.py speed --rounds 7
          python benchmarks/deploy.py gate BUNDLE … --data cifar10 --seeds 0 1 2
          python benchmarks/deploy.py fastest BUNDLE --data cifar10 --rounds 7
Results:  docs/export.md
"""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Callable, Sequence
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
from nextify.deploy import quantize as quantizing
from nextify.deploy.export import Source
from nextify.deploy.gate import Answers, change
from nextify.deploy.int8 import INT8, write_int8
from nextify.deploy.quantize import fastest, quantize
from nextify.deploy.runners import Exported, open_runner, quiet, start
from nextify.evaluation.evaluate import match_classes
from nextify.evaluation.runner import Network, Runner, probabilities
from nextify.networks.zoo import find_design
from nextify.system.environment import describe, version
from nextify.weights import About, Preprocessing, WeightsError

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
    for to, precision in (("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8")):
        own = folder / f"{to}-{precision}"
        own.mkdir()
        bf16 = precision == "bf16" or (precision == "int8" and narrow())
        exported = Exported(to, precision, settings.size, bf16=bf16)
        with quiet():
            if precision == "int8":
                write_int8(exported, INT8[0], source, images, own)
            else:
                formats.write(exported, model, False, settings, own)
            runs[f"{to} {precision}"] = start(own / exported.file, exported)
    runs |= nncf_default(source, images, folder)
    return runs


def narrow() -> bool:
    """Whether OpenVINO, left to itself, computes in bfloat16 here what is not int8."""
    return torch.cpu._is_avx512_bf16_supported()


def nncf_default(source: Source, images: list[np.ndarray], folder: Path) -> Runs:
    """OpenVINO's int8 of a network as NNCF quantizes without any option; nothing where OpenVINO refuses the file."""
    import nncf
    import openvino

    settings = source.about.preprocessing
    exported = Exported("openvino", "int8", settings.size, bf16=narrow())
    path = folder / "default.xml"
    try:
        with quiet():
            program = formats.trace(replace(exported, precision="fp32"), source.model, source.mirror, settings)
            quantized = nncf.quantize(formats.openvino_model(program), nncf.Dataset(images))
            openvino.save_model(quantized, path, compress_to_fp16=False)
            run = start(path, exported)
            run(np.concatenate(images[:2]))
    except (RuntimeError, WeightsError) as error:
        print(f"openvino int8, NNCF's default: refused ({str(error).strip().splitlines()[-1]})")
        return {}
    return {"openvino int8, NNCF's default": run}


def race(runs: Runs, inputs: np.ndarray, rounds: int) -> dict[str, list[float]]:
    """Images/s of each, in each of the rounds in which they take turns."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            run(inputs)
            seconds = timed(partial(run, inputs), repeats=max(1, 8 // len(inputs)))
            if turn:  # the first round warms up
                found[name].append(len(inputs) / seconds)
    return found


def speed(options: argparse.Namespace) -> None:
    with TemporaryDirectory() as folder:
        runs = contestants(options.model, options.size, Path(folder), not options.no_compile)
        for batch in options.batches:
            inputs = np.random.default_rng(0).standard_normal((batch, 3, options.size, options.size), np.float32)
            found = race(runs, inputs, options.rounds)
            print(f"\n{options.model}, {options.size}², batch {batch}, n = {options.rounds} rounds, images/s")
            show(found, "nextify, plain torch")


def show(found: dict[str, list[float]], base: str) -> None:
    """Medians with the lowest and the highest, fastest first, and their ratio to that of ``base``."""
    for name, rates in sorted(found.items(), key=lambda item: -statistics.median(item[1])):
        rate = statistics.median(rates)
        ratio = rate / statistics.median(found[base])
        print(f"{name:30s} {rate:8.2f} ({min(rates):.2f} to {max(rates):.2f})  {ratio:.2f}×", flush=True)


def fast(options: argparse.Namespace) -> None:
    images = nextify.open_images(options.data)
    source = Source.of(options.bundle)
    settings = source.about.preprocessing
    calibration = [settings(images.train.load(i)).numpy()[None] for i in range(min(300, len(images.train)))]
    with TemporaryDirectory() as folder:
        out = Path(folder, "out")
        done = fastest(options.bundle, images, out, max_drop=options.max_drop)
        for one in done.candidates:
            rate = f"{one.images_per_second:8.1f} images/s"
            print(f"  {one.name:42s} {one.change.value:+.2f} points, {rate}  {one.verdict}")
        chosen = next(c for c in done.candidates if c.verdict == "chosen").name
        final = done.final
        print(
            f"written: {chosen}; top-1 {final.value:+.2f} [{final.low:+.2f}, {final.high:+.2f}] points on "
            f"{final.images:,} unseen images, allowed −{options.max_drop:g}"
        )
        runs: Runs = {"the bundle, plain torch, fp32": source.run, f"--fastest: {chosen}": open_runner(out)}
        runs |= nncf_default(source, calibration, Path(folder))
        for batch in options.batches:
            inputs = np.stack([settings(images.test.load(i)).numpy() for i in range(batch)])
            print(f"\nbatch {batch}, n = {options.rounds} rounds, images/s")
            show(race(runs, inputs, options.rounds), "the bundle, plain torch, fp32")


class Half:
    """Some images of a set, as a store of their own."""

    def __init__(self, images: ImageSet, places: Labels) -> None:
        self.images, self.places = images, places

    def load(self, index: int) -> Pixels:
        return self.images.load(int(self.places[index]))


def untimed(tried: Sequence[quantizing._Tried], inputs: np.ndarray) -> None:
    """Every candidate as fast as the others, and faster than the first, which is fp32."""
    for one in tried:
        one.single = one.batched = [1.0 if one is tried[0] else 0.5]


def gate(options: argparse.Namespace) -> None:
    images = nextify.open_images(options.data)
    shuffled = np.random.default_rng(12345).permutation(len(images.test))
    halves = []
    for places in np.array_split(shuffled, 2):
        own = ImageSet(images.test.labels[places], Half(images.test, places), None, None)
        halves.append(replace(images, test=own))
    if options.any_speed:  # int8 first, in the order of INT8
        quantizing._time = untimed
    violations = int8 = 0
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
            int8 += "int8" in chosen.name
            found = change(before, after)
            violated = found.value < -options.max_drop
            violations += violated
            print(
                f"{bundle} seed {seed}: {chosen.name}; gate's own check {done.final.value:+.2f} "
                f"[{done.final.low:+.2f}, {done.final.high:+.2f}]; second holdout {found.value:+.2f} "
                f"[{found.low:+.2f}, {found.high:+.2f}] on {found.images:,}{' VIOLATION' if violated else ''}",
                flush=True,
            )
            print(*(f"  {c.name}: {c.change.value:+.2f}, {c.verdict}" for c in done.candidates), sep="\n", flush=True)
    runs = len(options.bundles) * len(options.seeds)
    print(f"{violations} violations in {runs} runs, of which {int8} chose int8")


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
    two.add_argument("--any-speed", action="store_true", help="choose by accuracy alone, as on a machine that is busy")
    three = modes.add_parser("fastest")
    three.add_argument("bundle")
    three.add_argument("--data", default="cifar10")
    three.add_argument("--max-drop", type=float, default=0.3)
    three.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    three.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    here = describe()
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "timm", "onnxruntime", "openvino", "nncf"))
    print(f"{here['cpu']}, {torch.get_num_threads()} threads; {packages}; {here['date']}", flush=True)
    {"speed": speed, "gate": gate, "fastest": fast}[options.mode](options)


if __name__ == "__main__":
    main()
