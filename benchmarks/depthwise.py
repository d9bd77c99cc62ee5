"""Depthwise convolution: torch's kernels (A) against ours (B), for forward, input gradient and weight gradient.

One process; A and B alternate, and each figure is the median of its runs, called through torch's dispatcher as training
calls them. Both weight gradients include the bias gradient. `auto` marks what kernels.install(model, "auto") uses
(`kernels/choice.py`). Shapes: ConvNeXt-T's four stages at 224² with batch 16, and a small study's.

    python benchmarks/depthwise.py --repeats 15 --threads 1

Measured 2026-11-22: Intel Xeon (Ice Lake) at 2.80 GHz, 2 virtual cores, AVX-512 without bfloat16 instructions, shared
with other work; torch 2.15.0+cu132, Python 3.11.7, g++ 12.2.0; one thread, processor time, n = 15 per figure. The
run before it gave 42 of the 60 times within 10 % of these, 57 within 30 % (the others: the 8² rows and 0.39 against
0.22 ms at worst). Two threads were not measured on a quiet machine.

    type            N×H×W×C  kernel           torch ms  ours ms  ratio  GFLOP/s  auto
    float32     16×56×56×96  forward             11.02     9.84   1.12       48  torch
    float32     16×56×56×96  input gradient      12.44     9.92   1.25       48  torch
    float32     16×56×56×96  weight gradient    102.71    12.05   8.52       39  ours
    float32    16×28×28×192  forward              5.73     5.86   0.98       40  torch
    float32    16×28×28×192  input gradient       6.21     5.76   1.08       41  torch
    float32    16×28×28×192  weight gradient     45.40     6.21   7.31       38  ours
    float32    16×14×14×384  forward              2.48     2.83   0.88       42  torch
    float32    16×14×14×384  input gradient       3.47     2.91   1.19       41  torch
    float32    16×14×14×384  weight gradient     34.20     4.20   8.14       28  ours
    float32      16×7×7×768  forward              1.73     2.33   0.74       25  torch
    float32      16×7×7×768  input gradient       1.99     2.40   0.83       25  torch
    float32      16×7×7×768  weight gradient     49.09     2.80  17.51       21  ours
    float32       64×8×8×24  forward              0.46     0.41   1.13       24  torch
    float32       64×8×8×24  input gradient       0.49     0.22   2.27       44  torch
    float32       64×8×8×24  weight gradient      2.78     0.85   3.26       11  ours
    bfloat16    16×56×56×96  forward             28.60     7.05   4.05       67  ours
    bfloat16    16×56×56×96  input gradient      29.27     7.46   3.93       63  ours
    bfloat16    16×56×56×96  weight gradient    554.46     9.97  55.63       47  ours
    bfloat16   16×28×28×192  forward             14.49     4.67   3.10       51  ours
    bfloat16   16×28×28×192  input gradient      14.13     4.42   3.20       53  ours
    bfloat16   16×28×28×192  weight gradient    271.92     5.50  49.48       43  ours
    bfloat16   16×14×14×384  forward              6.80     3.09   2.20       38  ours
    bfloat16   16×14×14×384  input gradient       6.74     3.09   2.18       38  ours
    bfloat16   16×14×14×384  weight gradient    143.84     3.61  39.84       33  ours
    bfloat16     16×7×7×768  forward              2.91     2.29   1.27       26  ours
    bfloat16     16×7×7×768  input gradient       3.06     2.15   1.42       27  ours
    bfloat16     16×7×7×768  weight gradient    112.97     2.73  41.44       22  ours
    bfloat16      64×8×8×24  forward              0.92     0.48   1.89       20  ours
    bfloat16      64×8×8×24  input gradient       1.17     0.49   2.36       19  ours
    bfloat16      64×8×8×24  weight gradient     10.60     0.76  13.97       13  ours

In training, torch's route for the input gradient is a forward pass with the kernel flipped (the "forward" rows) rather
than the backward convolution timed here.

With bfloat16 instructions torch's forward pass in bfloat16 is the faster one, and "auto" leaves it to torch.
2026-11-26: AMD EPYC with AVX512-bf16, 2 cores shared with others, two threads, n = 9 (``--repeats 9 --threads 2``),
same versions:

    type            N×H×W×C  kernel           torch ms  ours ms  ratio
    float32     16×56×56×96  forward             11.51     8.39   1.37
    float32     16×56×56×96  weight gradient     44.41     5.14   8.64
    float32    16×28×28×192  forward              2.39     2.40   1.00
    float32    16×28×28×192  weight gradient     21.62     2.61   8.28
    float32    16×14×14×384  forward              1.01     1.29   0.79
    float32    16×14×14×384  weight gradient     10.62     1.54   6.90
    float32      16×7×7×768  forward              0.69     1.03   0.67
    float32      16×7×7×768  weight gradient     20.89     1.20  17.39
    bfloat16    16×56×56×96  forward              3.39     3.66   0.93
    bfloat16    16×56×56×96  weight gradient     59.16     4.99  11.86
    bfloat16   16×28×28×192  forward              1.42     1.96   0.73
    bfloat16   16×28×28×192  weight gradient     25.51     2.27  11.26
    bfloat16   16×14×14×384  forward              1.24     1.26   0.98
    bfloat16   16×14×14×384  weight gradient     19.01     1.53  12.43
    bfloat16     16×7×7×768  forward              0.41     0.80   0.51
    bfloat16     16×7×7×768  weight gradient     26.59     0.93  28.64
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nextify.kernels import choice, gpu, libraries
from nextify.kernels.depthwise import cpu

SHAPES = [(16, 56, 96), (16, 28, 192), (16, 14, 384), (16, 7, 768), (64, 8, 24)]  # N, H = W, C
ON_GPU = [(64, 56, 96), (64, 28, 192), (64, 14, 384), (64, 7, 768)]
KERNEL_SIZE = 7


def alternate(a: Callable[[], object], b: Callable[[], object], repeats: int, device: str) -> tuple[float, float]:
    """Median milliseconds of a and of b, run in turn: processor time with one thread, else wall-clock time; on a GPU
    one after the other, by its own clock."""
    if device == "cuda":
        from triton.testing import do_bench

        return do_bench(a, return_mode="median"), do_bench(b, return_mode="median")
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times: tuple[list[float], list[float]] = ([], [])
    a(), b()
    for _ in range(repeats):
        for function, kept in zip((a, b), times, strict=True):
            begin = clock()
            function()
            kept.append(clock() - begin)
    return statistics.median(times[0]) * 1e3, statistics.median(times[1]) * 1e3


def pairs(
    n: int, size: int, c: int, dtype: torch.dtype, device: str
) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    k = KERNEL_SIZE
    x, grad = (torch.randn(n, size, size, c, device=device).to(dtype) for _ in range(2))
    weight, bias = (torch.randn(*shape, device=device).to(dtype) for shape in ((c, 1, k, k), (c,)))

    def nchw(t: Tensor) -> Tensor:
        return t.permute(0, 3, 1, 2)

    def backward(*mask: bool) -> object:
        sizes = [c], [1, 1], [k // 2, k // 2], [1, 1], False, [0, 0], c
        return torch.ops.aten.convolution_backward(nchw(grad), nchw(x), weight, *sizes, mask)

    ours = torch.ops.nextify
    return {
        "forward": (
            lambda: F.conv2d(nchw(x), weight, bias, 1, k // 2, groups=c),
            lambda: ours.depthwise_forward(x, weight, bias, 1, False, True),
        ),
        "input gradient": (
            lambda: backward(True, False, False),
            lambda: ours.depthwise_forward(grad, weight, None, 1, True, True),
        ),
        "weight gradient": (
            lambda: backward(False, True, True),
            lambda: ours.depthwise_weight_grad(grad, x.view(-1, c), size, size, k, 1, True, True),
        ),
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    options = argparse.ArgumentParser(description="torch's depthwise kernels against ours")
    options.add_argument("--repeats", type=int, default=15)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = options.parse_args()
    repeats, device = arguments.repeats, arguments.device
    torch.backends.cudnn.allow_tf32 = True
    torch.set_num_threads(arguments.threads)
    if not (gpu.ready() if device == "cuda" else cpu.ready(KERNEL_SIZE)):
        raise SystemExit(str(libraries()))
    if device == "cuda":
        print(torch.cuda.get_device_name())
    else:
        print(f"{processor()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    print(f"torch {torch.__version__}, Python {platform.python_version()}, 7×7, stride 1, {repeats} repeats\n")
    print(f"{'type':9}{'N×H×W×C':>14}  {'kernel':16}{'torch ms':>9}{'ours ms':>9}{'ratio':>7}{'GFLOP/s':>9}  auto")
    for dtype in (torch.float32, torch.bfloat16):
        for n, size, c in ON_GPU if device == "cuda" else SHAPES:
            flops = 2 * n * size * size * c * KERNEL_SIZE**2
            for name, (a, b) in pairs(n, size, c, dtype, device).items():
                theirs, own = alternate(a, b, repeats, device)
                auto = name == "weight gradient" or choice.own_depthwise(device, dtype, "auto")
                print(
                    f"{str(dtype).removeprefix('torch.'):9}{f'{n}×{size}×{size}×{c}':>14}  {name:16}"
                    f"{theirs:9.3f}{own:9.3f}{theirs / own:7.2f}{flops / own / 1e6:9.0f}  {'ours' if auto else 'torch'}"
                )


if __name__ == "__main__":
    main()
