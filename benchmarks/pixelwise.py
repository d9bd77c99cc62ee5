"""The pixelwise part of a ConvNeXt block in inference: layer by layer (A), in strips with torch's matrix products (B),
and with products of our own (C).

One process; A, B and C in turn (A B C A B C …), medians. Shapes: ConvNeXt-T's four stages at 224². As in a network, a
call finds its weights in memory and not in a cache: each takes the next of as many blocks as fill 100 MB. Float32
weights; bfloat16 computes as autocast does. The share is of what a 2048³ product of torch's reaches in the same type.

    python benchmarks/pixelwise.py --rounds 15

RESULTS
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nextify.environment import describe
from nextify.nn import pixelwise, strips

STAGES = ((56, 96), (28, 192), (14, 384), (7, 768))  # side, channels
WEIGHTS_BYTES = 100_000_000
Block = dict[str, Tensor]


def block(channels: int) -> Block:
    wide = 4 * channels
    return {
        "norm_weight": torch.ones(channels),
        "norm_bias": torch.zeros(channels),
        "weight1": torch.randn(wide, channels) / channels**0.5,
        "bias1": torch.zeros(wide),
        "weight2": torch.randn(channels, wide) / wide**0.5,
        "bias2": torch.zeros(channels),
        "scale": torch.ones(channels),
    }


def by_layers(x: Tensor, shortcut: Tensor, b: Block, dtype: torch.dtype) -> Tensor:
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        y = F.layer_norm(x.float(), (x.shape[-1],), b["norm_weight"], b["norm_bias"], 1e-6)
        y = F.linear(F.gelu(F.linear(y, b["weight1"], b["bias1"])), b["weight2"], b["bias2"])
        return shortcut + b["scale"] * y


def in_strips(ours: bool) -> Callable[[Tensor, Tensor, Block, torch.dtype], Tensor]:
    def run(x: Tensor, shortcut: Tensor, b: Block, dtype: torch.dtype) -> Tensor:
        pixelwise.pays = lambda: ours
        norm = b["norm_weight"], b["norm_bias"], 1e-6
        return strips._run(x, shortcut, *norm, b["weight1"], b["bias1"], b["weight2"], b["bias2"], b["scale"], dtype)

    return run


WAYS = (by_layers, in_strips(ours=False), in_strips(ours=True))


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def matrix_peak(dtype: torch.dtype) -> float:
    """Multiply-adds a second of a 2048³ product, the best of 9."""
    a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    return float(2048**3 / min(timed(lambda: a @ b) for _ in range(9)))


@torch.inference_mode()
def medians(x: Tensor, shortcut: Tensor, blocks: list[Block], dtype: torch.dtype, rounds: int) -> list[float]:
    """Seconds of a block in each of the WAYS."""
    found: list[list[float]] = [[] for _ in WAYS]

    def all_of_them(way: Callable[[Tensor, Tensor, Block, torch.dtype], Tensor]) -> None:
        for b in blocks:
            way(x, shortcut, b, dtype)

    for turn in range(rounds + 1):
        for way, kept in zip(WAYS, found, strict=True):
            seconds = timed(lambda way=way: all_of_them(way))  # type: ignore[misc]
            if turn:  # the first warms up
                kept.append(seconds / len(blocks))
    return [statistics.median(kept) for kept in found]


def main() -> None:
    parser = argparse.ArgumentParser(description="a block's pixelwise part: layers, strips, our products")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not pixelwise._build().usable or not strips._ready():
        raise SystemExit(pixelwise._build().note)
    here = describe()
    print(f"{here['cpu']}, {options.threads} threads; torch {torch.__version__}, Python {platform.python_version()}")
    print(f"{here['date']}, n = {options.rounds} rounds\n")
    print(f"{'type':9}{'pixels':>7}{'channels':>9}{'layers ms':>11}{'strips ms':>11}{'ours ms':>9}", end="")
    print(f"{'layers/ours':>13}{'strips/ours':>13}{'share':>7}")
    for dtype in (torch.bfloat16, torch.float32):
        peak = matrix_peak(dtype)
        for batch in (1, 16):
            for side, channels in STAGES:
                torch.manual_seed(0)
                pixels = batch * side * side
                blocks = [block(channels) for _ in range(min(16, 1 + WEIGHTS_BYTES // (32 * channels * channels)))]
                x, shortcut = torch.randn(pixels, channels).to(dtype), torch.randn(pixels, channels)
                layers, strip, ours = medians(x, shortcut, blocks, dtype, options.rounds)
                share = 8 * pixels * channels * channels / ours / peak
                print(f"{str(dtype).removeprefix('torch.'):9}{pixels:7}{channels:9}{layers * 1e3:11.2f}", end="")
                print(f"{strip * 1e3:11.2f}{ours * 1e3:9.2f}{layers / ours:13.2f}{strip / ours:13.2f}{share:7.0%}")


if __name__ == "__main__":
    main()
