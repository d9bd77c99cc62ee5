"""The weight and bias gradient of a depthwise convolution on NHWC activations, as a Triton kernel.

A program sums over a run of output pixels for a block of channels and one kernel row; the accumulators of all taps of
that row stay in registers. Programs write partial sums of their own, added up in a fixed order, so that the result is
the same from run to run. How the pixels are split depends on the shape alone, not on the device.

Speed on a GPU: not measured. `nextify.nn.depthwise` therefore uses it only after `enable(True)`. Its results are
checked with Triton's interpreter. Imports triton: import this module only where triton is installed.
"""

# mypy: disable-error-code="import-untyped, import-not-found, untyped-decorator, no-untyped-def"

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_CHANNELS = 32
BLOCK_PIXELS = 16
PROGRAMS = 2048  # to aim for: several per multiprocessor on any current GPU


@triton.jit
def _weight_grad(
    x_pointer,
    grad_pointer,
    partial_pointer,
    images,
    height,
    width,
    channels,
    out_height,
    out_width,
    run,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    TAPS: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    row = tl.program_id(1)  # of the kernel
    split = tl.program_id(2)
    tap = tl.arange(0, TAPS)  # in that row; TAPS is the next power of two
    sums = tl.zeros((TAPS, PIXELS, CHANNELS), tl.float32)
    bias = tl.zeros((PIXELS, CHANNELS), tl.float32)
    pixels = images * out_height * out_width
    for start in range(0, run, PIXELS):
        pixel = split * run + start + tl.arange(0, PIXELS)
        here = pixel < pixels
        grad_mask = here[:, None] & (channel < channels)[None, :]
        grad_at = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
        grad = tl.load(grad_pointer + grad_at, mask=grad_mask, other=0.0).to(tl.float32)  # (PIXELS, CHANNELS)
        image = pixel // (out_height * out_width)
        h = pixel // out_width % out_height * STRIDE + row - KERNEL // 2
        w = (pixel % out_width * STRIDE - KERNEL // 2)[None, :] + tap[:, None]  # (TAPS, PIXELS)
        inside = (here & (h >= 0) & (h < height))[None, :] & (w >= 0) & (w < width) & (tap < KERNEL)[:, None]
        x_at = ((image.to(tl.int64) * height + h) * width)[None, :] + w
        x_mask = inside[:, :, None] & (channel < channels)[None, None, :]
        x_values = tl.load(x_pointer + x_at[:, :, None] * channels + channel[None, None, :], mask=x_mask, other=0.0)
        sums += x_values.to(tl.float32) * grad[None, :, :]
        bias += grad
    to = (split * (KERNEL * KERNEL + 1) + row * KERNEL + tap)[:, None] * channels + channel[None, :]
    tl.store(partial_pointer + to, tl.sum(sums, 1), mask=(tap < KERNEL)[:, None] & (channel < channels)[None, :])
    if row == 0:
        to_bias = (split * (KERNEL * KERNEL + 1) + KERNEL * KERNEL) * channels + channel
        tl.store(partial_pointer + to_bias, tl.sum(bias, 0), mask=channel < channels)


def weight_grad(grad: Tensor, x: Tensor, kernel_size: int, stride: int) -> tuple[Tensor, Tensor]:
    """Gradients `(C, 1, K, K)` of the weight and `(C,)` of the bias, in float32.

    `x` is `(N, H, W, C)` and `grad` `(N, H', W', C)` with H' = (H - 1) // stride + 1; both contiguous, any float type.
    """
    images, height, width, channels = x.shape
    _, out_height, out_width, _ = grad.shape
    pixels = images * out_height * out_width
    blocks = triton.cdiv(channels, BLOCK_CHANNELS)
    wanted = max(1, PROGRAMS // (blocks * kernel_size))
    run = triton.cdiv(triton.cdiv(pixels, wanted), BLOCK_PIXELS) * BLOCK_PIXELS  # output pixels per program
    splits = triton.cdiv(pixels, run)
    partial = torch.empty(splits, kernel_size**2 + 1, channels, dtype=torch.float32, device=x.device)
    _weight_grad[(blocks, kernel_size, splits)](
        x,
        grad,
        partial,
        images,
        height,
        width,
        channels,
        out_height,
        out_width,
        run,
        KERNEL=kernel_size,
        STRIDE=stride,
        TAPS=triton.next_power_of_2(kernel_size),
        PIXELS=BLOCK_PIXELS,
        CHANNELS=BLOCK_CHANNELS,
    )
    total = partial.sum(0)  # (K*K + 1, C)
    return total[:-1].t().reshape(channels, 1, kernel_size, kernel_size).contiguous(), total[-1].clone()
