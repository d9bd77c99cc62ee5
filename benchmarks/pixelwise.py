"""The pixelwise part of a ConvNeXt block. In inference: layer by layer, in strips with torch's matrix products, and
with products of our own. In training, forward and backward: layer by layer, the same compiled, and with our products.

One process; the variants take turns (A B C A B C …), medians. Shapes: ConvNeXt-T's four stages at 224². As in a
network, a call finds its weights in memory rather than in a cache: it takes the next of as many blocks as fill 100 MB.
Weights are float32; bfloat16 computes as autocast does. The share is of what torch's 2048³ product reaches in the same
type.

    python benchmarks/pixelwise.py --rounds 9
    python benchmarks/pixelwise.py --rounds 5 --training

Results: docs/benchmarks.md.
"""

import argparse
import platform
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import matrix_peak, timed
from torch import Tensor

from nextify.kernels.pixelwise import products, strips, training
from nextify.kernels.pixelwise.products import Weights
from nextify.system.environment import describe

STAGES = ((56, 96), (28, 192), (14, 384), (7, 768))  # side, channels
WEIGHTS_BYTES = 100_000_000
Way = Callable[[Tensor, Tensor, Weights, torch.dtype], Tensor]


def block(channels: int) -> Weights:
    wide = 4 * channels
    weight1, weight2 = torch.randn(wide, channels) / channels**0.5, torch.randn(channels, wide) / wide**0.5
    one, zero = torch.ones(channels), torch.zeros(channels)
    return Weights(one, zero, weight1, torch.zeros(wide), weight2, zero.clone(), one.clone(), 1e-6)


def by_layers(x: Tensor, shortcut: Tensor, b: Weights, dtype: torch.dtype) -> Tensor:
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        y = F.layer_norm(x.float(), (x.shape[-1],), b.norm_weight, b.norm_bias, b.eps)
        y = F.linear(F.gelu(F.linear(y, b.weight1, b.bias1)), b.weight2, b.bias2)
        return shortcut + b.scale * y


def in_strips(ours: bool) -> Way:
    return lambda x, shortcut, b, dtype: torch.ops.nextify.strips(x, shortcut, *b, dtype, ours)


INFERENCE = {"layers": by_layers, "strips": in_strips(ours=False), "ours": in_strips(ours=True)}
TRAINING = {"layers": by_layers, "compiled": torch.compile(by_layers), "ours": training.pixelwise}


def run_all(way: Way, blocks: list[Weights], x: Tensor, shortcut: Tensor, dtype: torch.dtype, training: bool) -> None:
    for b in blocks:
        if training:
            way(x, shortcut, b, dtype).backward(shortcut)
            for t in (x, *b.values()):
                t.grad = None
        else:
            way(x, shortcut, b, dtype)


def medians(
    ways: dict[str, Way], x: Tensor, shortcut: Tensor, blocks: list[Weights], dtype: torch.dtype, rounds: int
) -> dict[str, float]:
    """Seconds of a block in each of the ways, in turn."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    training = x.requires_grad
    with torch.inference_mode(not training):
        for turn in range(rounds + 1):
            for name, way in ways.items():
                seconds = timed(lambda way=way: run_all(way, blocks, x, shortcut, dtype, training))  # type: ignore[misc]
                if turn:  # the first warms up
                    found[name].append(seconds / len(blocks))
    return {name: statistics.median(kept) for name, kept in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="a block's pixelwise part: torch's layers and products beside ours")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--training", action="store_true", help="forward and backward; otherwise inference")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--precision", choices=("bf16", "fp32"), nargs="+", default=["bf16", "fp32"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for build in (products._build(), strips._build(), training._build()):
        if not build.usable:
            raise SystemExit(build.note)
    here = describe()
    print(f"{here['cpu']}, {options.threads} threads; torch {torch.__version__}, Python {platform.python_version()}")
    print(f"{here['date']}, n = {options.rounds} rounds\n")
    ways = TRAINING if options.training else INFERENCE
    others = [name for name in ways if name != "ours"]
    print(f"{'type':9}{'pixels':>7}{'channels':>9}" + "".join(f"{name + ' ms':>12}" for name in ways), end="")
    print("".join(f"{name + '/ours':>15}" for name in others) + f"{'share':>7}")
    for precision in options.precision:
        dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
        peak = matrix_peak(dtype)
        for batch in options.batch:
            for side, channels in STAGES:
                torch.manual_seed(0)
                pixels = batch * side * side
                blocks = [block(channels) for _ in range(min(16, 1 + WEIGHTS_BYTES // (32 * channels * channels)))]
                x, shortcut = torch.randn(pixels, channels).to(dtype), torch.randn(pixels, channels)
                for t in (x, *(t for b in blocks for t in b[:-1])):
                    t.requires_grad_(options.training)
                found = medians(ways, x, shortcut, blocks, dtype, options.rounds)
                share = (3 if options.training else 1) * 8 * pixels * channels * channels / found["ours"] / peak
                print(f"{str(dtype).removeprefix('torch.'):9}{pixels:7}{channels:9}", end="")
                print("".join(f"{found[name] * 1e3:12.2f}" for name in ways), end="")
                print("".join(f"{found[name] / found['ours']:15.2f}" for name in others) + f"{share:7.0%}", flush=True)


if __name__ == "__main__":
    main()
