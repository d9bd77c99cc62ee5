"""Depthwise convolution: torch's kernels (A) against ours (B), for forward, input gradient and weight gradient.

One process; A and B alternate, called through torch's dispatcher as in training, and each figure is the median of its
runs. Both weight gradients include the bias gradient. `auto` shows what kernels.install(model, "auto") uses
(`kernels/choice.py`). Shapes: ConvNeXt-T's four stages at 224² with batch 16, and one of a small study.

    python benchmarks/depthwise.py --repeats 15 --threads 1

Results: docs/benchmarks.md.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nextify.kernels import choice, gpu, libraries
from nextify.kernels.depthwise import cpu
from nextify.system.environment import processor

SHAPES = [(16, 56, 96), (16, 28, 192), (16, 14, 384), (16, 7, 768), (64, 8, 24)]  # N, H = W, C
ON_GPU = [(64, 56, 96), (64, 28, 192), (64, 14, 384), (64, 7, 768)]
KERNEL_SIZE = 7


def alternate(a: Callable[[], object], b: Callable[[], object], repeats: int, device: str) -> tuple[float, float]:
    """Median milliseconds of a and of b, run in turn: processor time with one thread, otherwise wall-clock time. On a
    GPU, one after the other by its own clock."""
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
