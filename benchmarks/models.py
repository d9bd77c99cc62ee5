"""ConvNeXt-T of nextify against timm, torchvision and Hugging Face transformers: images/s and peak memory.

One process, or with --apart one for each, and the same images; the libraries take turns (A B C D A B C D …). Medians
over the rounds, ratios round by round. A training step is forward, cross-entropy, backward and fused AdamW. Peak memory
is the largest resident size of a process that does nothing else; on a CUDA device, the allocator's peak in a second
step beyond what it held before. "Share of peak" is the multiply-adds of convolutions and linear layers (for training,
three times the forward pass) over what a 2048³ matrix product reaches.

Command:  python benchmarks/models.py --batch 16 --rounds 5
Results:  docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from timing import matrix_peak, timed
from torch import Tensor, nn

import nextify.kernels
from nextify.system.allocator import keep_freed_memory
from nextify.system.environment import describe, resident_bytes, version

LIBRARIES = ("nextify", "timm", "torchvision", "transformers")
STEPS = 5
"""Steps of a round with --apart."""
MACS = nextify.macs(nextify.roadmap("resnet50")[-1].design)


class Logits(nn.Module):
    """transformers returns an object; the others logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


def build(library: str, kernels: str) -> nn.Module:
    """ConvNeXt-T with 1000 classes as the library makes it, stochastic depth off."""
    if library == "nextify":
        model = nextify.create_model("convnext_tiny")
        nextify.kernels.install(model, kernels)
        return model
    if library == "timm":
        import timm

        return timm.create_model("convnext_tiny")
    if library == "torchvision":
        import torchvision

        return torchvision.models.convnext_tiny(stochastic_depth_prob=0.0)
    from transformers import ConvNextConfig, ConvNextForImageClassification

    return Logits(ConvNextForImageClassification(ConvNextConfig(num_labels=1000)))


def runner(library: str, training: bool, options: argparse.Namespace) -> Callable[[], None]:
    """A function that does one step on a fixed batch."""
    torch.manual_seed(0)
    model = build(library, options.kernels).to(options.device).train(training)
    if options.channels_last:
        model = model.to(memory_format=torch.channels_last)
    images = torch.randn(options.batch, 3, 224, 224, device=options.device)
    images = images.contiguous(memory_format=torch.channels_last) if options.channels_last else images
    labels = torch.randint(1000, (options.batch,), device=options.device)
    forward: Any = torch.compile(model) if options.compiled else model
    bf16 = options.precision == "bf16"
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True) if training else None

    def context() -> Any:
        return torch.autocast(options.device, torch.bfloat16) if bf16 else nullcontext()

    def train() -> None:
        with context():
            loss = F.cross_entropy(forward(images).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def infer() -> None:
        with torch.inference_mode(), context():
            forward(images)

    return train if training else infer


def peak_memory_mib(library: str, training: bool, options: argparse.Namespace) -> float:
    """Of two steps in a fresh process; on a CUDA device of the second step here."""
    if options.device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        run = runner(library, training, options)
        run()
        torch.cuda.reset_peak_memory_stats()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    return in_own_process(library, training, options)[1]


def in_own_process(library: str, training: bool, options: argparse.Namespace, steps: int = 0) -> tuple[float, float]:
    """In a fresh process: the median seconds of a step, after two more, and the peak memory in MiB."""
    command = [sys.executable, __file__, "--one", library, "--batch", str(options.batch), "--precision"]
    command += [options.precision, "--threads", str(options.threads), "--steps", str(steps)]
    command += ["--training"] if training else []
    command += ["--channels-last"] if options.channels_last else []
    command += ["--compiled"] if options.compiled else []
    command += ["--keep-memory"] if options.keep_memory else []
    command += ["--kernels", options.kernels]
    seconds, memory = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-2:]
    return float(seconds), float(memory)


def kernels_ms(run: Callable[[], None]) -> float:
    """Of a CUDA device in one profiled step: what is left of its time when calls cost nothing."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    events = [event for event in profiler.key_averages() if event.device_type.name == "CUDA"]
    return sum(event.self_device_time_total for event in events) / 1e3


def one(options: argparse.Namespace) -> None:
    run = runner(options.one, options.training, options)
    run()
    run()
    seconds = [timed(run, options.device, 1) for _ in range(options.steps)]
    print(statistics.median(seconds or [0.0]), resident_bytes()[1] / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--channels-last", action="store_true", help="give the others channels-last weights and images")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    parser.add_argument(
        "--kernels", choices=("auto", "on", "off"), default="auto", help="our own, in nextify's network"
    )
    parser.add_argument("--kernel-time", action="store_true", help="on a CUDA device: also its time in one step")
    parser.add_argument(
        "--keep-memory", action="store_true", help="let the C library keep freed memory, as our commands do"
    )
    parser.add_argument(
        "--apart", action="store_true", help="each library in a process of its own, in turns; a round is five steps"
    )
    parser.add_argument("--steps", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=("training", "inference"))
    parser.add_argument("--one", choices=LIBRARIES, help=argparse.SUPPRESS)
    parser.add_argument("--training", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.keep_memory and not keep_freed_memory():
        raise SystemExit("--keep-memory needs glibc")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.precision == "tf32"
    if options.one:
        return one(options)

    here = describe()
    print(
        f"ConvNeXt-T, 224², batch {options.batch}, {options.precision}, {'compiled' if options.compiled else 'eager'}"
        f"{', freed memory kept' if options.keep_memory else ''}"
    )
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{here['cpu']}, {options.threads} threads"
    print(f"{where}; {here['date']}; python {here['python']}")
    print(", ".join(f"{name} {version(name)}" for name in ("torch", *LIBRARIES)))
    peak = matrix_peak(torch.bfloat16 if options.precision == "bf16" else torch.float32, options.device)
    print(f"2048³ matrix product: {2 * peak / 1e9:.0f} GFLOP/s\n")
    for training in (True, False):
        if options.only and training != (options.only == "training"):
            continue
        runs = {} if options.apart else {library: runner(library, training, options) for library in LIBRARIES}
        for run in runs.values():
            timed(run, options.device, 2)
        repeats = 10 if options.device == "cuda" else 1 if training or options.batch > 4 else 5
        seconds: dict[str, list[float]] = {library: [] for library in LIBRARIES}
        for _, library in itertools.product(range(options.rounds), LIBRARIES):
            run = runs.get(library)
            took = timed(run, options.device, repeats) if run else in_own_process(library, training, options, STEPS)[0]
            seconds[library].append(took)
        kernels = {library: kernels_ms(run) for library, run in runs.items()} if options.kernel_time else {}
        del runs
        print(f"{'training step' if training else 'inference'} (n = {options.rounds} rounds)")
        print(f"{'':14s}{'images/s':>10s}{'range':>16s}{'ours / it':>11s}{'share of peak':>15s}{'peak MiB':>10s}")
        for library, found in seconds.items():
            speed = [options.batch / s for s in found]
            ratios = [theirs / ours for theirs, ours in zip(found, seconds["nextify"], strict=True)]
            share = statistics.median(speed) * MACS * (3 if training else 1) / peak
            memory = "" if options.no_memory else f"{peak_memory_mib(library, training, options):.0f}"
            spread = f"{min(speed):.2f}–{max(speed):.2f}"
            alone = f"   kernels alone {kernels[library]:.2f} ms" if kernels else ""
            print(
                f"{library:14s}{statistics.median(speed):10.2f}{spread:>16s}{statistics.median(ratios):11.2f}"
                f"{share:15.0%}{memory:>10s}{alone}"
            )
        print()
    return None


if __name__ == "__main__":
    main()
