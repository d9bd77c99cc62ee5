"""The pixelwise part of a ConvNeXt block. In inference: layer by layer, in strips with torch's matrix products, and
with products of our own. In training, forward and backward: layer by layer, the same compiled, and with our products.

One process; the ways in turn (A B C A B C …), medians. Shapes: ConvNeXt-T's four stages at 224². As in a network, a
call finds its weights in memory and not in a cache: each takes the next of as many blocks as fill 100 MB. Float32
weights; bfloat16 computes as autocast does. The share is of what a 2048³ product of torch's reaches in the same type.

    python benchmarks/pixelwise.py --rounds 9
    python benchmarks/pixelwise.py --rounds 5 --training

Inference, measured 2026-11-27, commit a17a53e: AMD EPYC with AVX512-bf16, 2 cores shared with other machines, two
threads; torch 2.15.0, Python 3.11.7, g++ 12.2.0; n = 9. Part of "layers" is memory given back to
the system and got again.

    type      pixels channels  layers ms  strips ms  ours ms  layers/ours  strips/ours  share
    bfloat16    3136       96       1.87       1.80     1.45         1.29         1.25    75%
    bfloat16     784      192       1.66       1.67     1.41         1.18         1.18    77%
    bfloat16     196      384       1.65       1.66     1.37         1.20         1.21    79%
    bfloat16      49      768       2.24       2.39     1.63         1.37         1.47    66%
    bfloat16   50176       96      35.76      28.23    24.12         1.48         1.17    72%
    bfloat16   12544      192      26.63      23.09    21.62         1.23         1.07    80%
    bfloat16    3136      384      22.73      21.81    19.74         1.15         1.10    88%
    bfloat16     784      768      22.19      21.51    19.08         1.16         1.13    91%
    float32     3136       96       3.30       3.14     2.61         1.27         1.20    96%
    float32      784      192       2.80       2.89     2.50         1.12         1.16   100%
    float32      196      384       2.87       2.95     2.39         1.20         1.24   105%
    float32       49      768       4.39       4.58     3.26         1.35         1.41    77%
    float32    50176       96     112.07      53.52    44.31         2.53         1.21    91%
    float32    12544      192      65.33      45.34    42.59         1.53         1.06    94%
    float32     3136      384      50.01      46.84    41.63         1.20         1.13    96%
    float32      784      768      43.75      45.99    37.33         1.17         1.23   107%

Training, on the same processor and versions, 2026-11-27, commit 4cd91c6, n = 5. Of batches of 16 a good part is fresh
memory, for all three.

    type      pixels channels   layers ms compiled ms     ours ms    layers/ours  compiled/ours  share
    bfloat16    3136       96        6.91        6.56        6.01           1.15           1.09    56%
    bfloat16     784      192        6.00        5.73        5.07           1.18           1.13    66%
    bfloat16     196      384        5.22        5.22        4.93           1.06           1.06    68%
    bfloat16      49      768        7.74        7.80        7.81           0.99           1.00    43%
    bfloat16   50176       96      136.97      138.45      117.82           1.16           1.18    46%
    bfloat16   12544      192       89.35       90.28       87.18           1.02           1.04    62%
    bfloat16    3136      384       71.23       71.72       69.57           1.02           1.03    77%
    bfloat16     784      768       72.77       69.57       70.40           1.03           0.99    76%
    float32     3136       96       12.87       12.41       10.17           1.27           1.22    75%
    float32      784      192        9.89       10.43        8.94           1.11           1.17    85%
    float32      196      384        9.78       10.10        8.92           1.10           1.13    85%
    float32       49      768       13.17       13.43       10.28           1.28           1.31    74%
    float32    50176       96      289.30      268.98      197.88           1.46           1.36    62%
    float32    12544      192      252.94      204.89      136.88           1.85           1.50    89%
    float32     3136      384      145.11      137.48      123.60           1.17           1.11    99%
    float32      784      768      141.04      146.79      124.29           1.13           1.18    98%
"""

import argparse
import platform
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import matrix_peak, timed
from torch import Tensor

from nextify.kernels.pixelwise import products, strips
from nextify.kernels.pixelwise import training as pixelwise_grad
from nextify.system.environment import describe

STAGES = ((56, 96), (28, 192), (14, 384), (7, 768))  # side, channels
WEIGHTS_BYTES = 100_000_000
Block = dict[str, Tensor]
Way = Callable[[Tensor, Tensor, Block, torch.dtype], Tensor]


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


def in_strips(ours: bool) -> Way:
    def run(x: Tensor, shortcut: Tensor, b: Block, dtype: torch.dtype) -> Tensor:
        norm, linears = (b["norm_weight"], b["norm_bias"], 1e-6), (b["weight1"], b["bias1"], b["weight2"], b["bias2"])
        return strips._run(x, shortcut, *norm, *linears, b["scale"], dtype, ours)

    return run


def with_gradients(x: Tensor, shortcut: Tensor, b: Block, dtype: torch.dtype) -> Tensor:
    norm = b["norm_weight"], b["norm_bias"]
    linears = b["weight1"], b["bias1"], b["weight2"], b["bias2"]
    return pixelwise_grad._Pixelwise.apply(x, shortcut, 1e-6, dtype, *norm, *linears, b["scale"])


INFERENCE = {"layers": by_layers, "strips": in_strips(ours=False), "ours": in_strips(ours=True)}
TRAINING = {"layers": by_layers, "compiled": torch.compile(by_layers), "ours": with_gradients}


def run_all(way: Way, blocks: list[Block], x: Tensor, shortcut: Tensor, dtype: torch.dtype, training: bool) -> None:
    for b in blocks:
        if training:
            way(x, shortcut, b, dtype).backward(shortcut)
            for t in (x, *b.values()):
                t.grad = None
        else:
            way(x, shortcut, b, dtype)


def medians(
    ways: dict[str, Way], x: Tensor, shortcut: Tensor, blocks: list[Block], dtype: torch.dtype, rounds: int
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
    for build in (products._build(), strips._build(), pixelwise_grad._build()):
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
                for t in (x, *(t for b in blocks for t in b.values())):
                    t.requires_grad_(options.training)
                found = medians(ways, x, shortcut, blocks, dtype, options.rounds)
                share = (3 if options.training else 1) * 8 * pixels * channels * channels / found["ours"] / peak
                print(f"{str(dtype).removeprefix('torch.'):9}{pixels:7}{channels:9}", end="")
                print("".join(f"{found[name] * 1e3:12.2f}" for name in ways), end="")
                print("".join(f"{found[name] / found['ours']:15.2f}" for name in others) + f"{share:7.0%}", flush=True)


if __name__ == "__main__":
    main()
