"""A training step of a RetinaNet at 320²: ConvNeXt-T of nextify against timm's, under the same pyramid and head.

One process and the same images and boxes; the two take turns. Medians over the rounds, the ratio round by round. A step
is forward, losses, backward and fused AdamW. timm's maps go into the pyramid as ``features_only`` gives them, without
the norms that nextify's backbone has at its outputs; ``--channels-last`` gives timm's network channels-last weights and
images too. Peak memory is the largest resident size of a process that does nothing else.

Command:  python benchmarks/dense.py --batch 8 --rounds 7
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import torch
from timing import timed
from torch import nn

import nextify.kernels
from nextify.networks.dense.cost import dense_cost
from nextify.networks.dense.design import DenseDesign, fitted_head
from nextify.networks.dense.network import DenseNetwork
from nextify.networks.foreign import timm_network
from nextify.networks.zoo import find_design
from nextify.system.environment import describe, resident_bytes, version

BACKBONES = {"nextify": find_design("convnext_tiny"), "timm": timm_network("convnext_tiny")}
CLASSES, OBJECTS = 20, 8


def design(library: str, options: argparse.Namespace) -> DenseDesign:
    if options.published:
        return DenseDesign(BACKBONES[library], "retinanet")
    return fitted_head(BACKBONES[library], "retinanet", (options.side, options.side))


def runner(library: str, options: argparse.Namespace) -> Callable[[], None]:
    """A function that does one step on a fixed batch."""
    torch.manual_seed(0)
    side = options.side
    network = DenseNetwork(design(library, options), CLASSES, (side, side)).train()
    if library == "nextify":
        nextify.kernels.install(network, options.kernels)
    else:
        network.backbone.norms = nn.ModuleList()
    images = torch.randn(options.batch, 3, side, side)
    if options.channels_last and library == "timm":
        network, images = (x.to(memory_format=torch.channels_last) for x in (network, images))
    rows = []
    for _ in range(options.batch):
        corners, sizes = torch.rand(OBJECTS, 2) * side / 2, 16 + torch.rand(OBJECTS, 2) * (side / 2 - 16)
        boxes = torch.cat([corners, corners + sizes], 1)
        labels, crowd = torch.randint(CLASSES, (OBJECTS,)), torch.zeros(OBJECTS, dtype=torch.bool)
        rows.append(SimpleNamespace(boxes=boxes, labels=labels, crowd=crowd, masks=None))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
            loss = sum(network(images, rows).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def peak_memory_mib(library: str) -> float:
    """Of two steps in a fresh process."""
    command = [sys.executable, __file__, *sys.argv[1:], "--one", library]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--published", action="store_true", help="RetinaNet's own width of 256 and depth of 4")
    parser.add_argument("--channels-last", action="store_true", help="give timm channels-last weights and images")
    parser.add_argument("--kernels", choices=("auto", "on", "off"), default="auto", help="in nextify's network")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: by autocast, for both")
    parser.add_argument("--one", choices=tuple(BACKBONES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        run = runner(options.one, options)
        run()
        run()
        print(resident_bytes()[1] / 2**20)
        return
    here, side = describe(), options.side
    plan = design("nextify", options)
    macs = dense_cost(plan, CLASSES, side, side) / 1e9
    print(
        f"RetinaNet on ConvNeXt-T at {side}², width {plan.width}, {plan.convolutions} convolutions, {macs:.1f} G "
        f"multiply-adds, batch {options.batch}, {options.precision}"
    )
    print(f"{here['cpu']}, {options.threads} threads; {here['date']}; python {here['python']}")
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", *BACKBONES)))
    runs = {library: runner(library, options) for library in BACKBONES}
    for run in runs.values():
        timed(run, repeats=2)
    seconds: dict[str, list[float]] = {library: [] for library in BACKBONES}
    for _, library in itertools.product(range(options.rounds), BACKBONES):
        seconds[library].append(timed(runs[library]))
    del runs, run
    print(f"training step (n = {options.rounds} rounds)")
    print(f"{'':10s}{'images/s':>10s}{'range':>16s}{'ours / it':>11s}{'peak MiB':>10s}")
    for library, found in seconds.items():
        speed = [options.batch / s for s in found]
        ratio = statistics.median(theirs / ours for theirs, ours in zip(found, seconds["nextify"], strict=True))
        spread = f"{min(speed):.2f}–{max(speed):.2f}"
        memory = peak_memory_mib(library)
        print(f"{library:10s}{statistics.median(speed):10.2f}{spread:>16s}{ratio:11.2f}{memory:10.0f}")


if __name__ == "__main__":
    main()
