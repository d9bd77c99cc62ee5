"""Depthwise convolution of NHWC activations and its weight gradient, as Triton kernels.

Forward: a program computes a few rows of a run of columns for a block of channels. It walks through the columns of the
kernel; with one column's taps in registers, each input row is read once for all the output rows it touches.

Weight gradient: a program walks down the rows of a run of columns, for one column of the kernel. The latest rows of the
output's gradient stay in registers, so each row of both is read once for all taps of that column. Every program writes
partial sums of its own, and these are added in a fixed order: the result is the same from run to run. The work is split
by shape alone, whatever the device. Strides other than 1 have a kernel that reads more.

Everything is summed in float32. Import this module only where triton is installed.
"""

# mypy: disable-error-code="import-untyped, import-not-found, untyped-decorator, no-untyped-def, assignment"
# ruff: noqa: RUF005 (Triton has + for tuples, and no unpacking into them)

import torch
import triton
import triton.language as tl
from torch import Tensor

from nextify.kernels.launch import launch

CHANNELS = 32
"""Channels per program."""
ROWS, COLUMNS = 7, 8
"""Rows and columns of the output per forward program."""
STEPS = 5
"""Rows after which the weight gradient's registers are back in place."""
PIXELS = 16
"""Pixels at a time, for the weight gradient at other strides."""
PROGRAMS = 2048  # to aim for: several per multiprocessor on any current GPU


@triton.jit
def _columns(row, height, width):
    """Of a row, in the image: none outside of it."""
    return tl.where((row >= 0) & (row < height), width, 0)


@triton.jit
def _conv(
    x_pointer, taps_pointer, bias_pointer, out_pointer, height, width, channels, KERNEL: tl.constexpr,
    FLIP: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    column_tiles = tl.cdiv(width, WIDTH)
    first_row = tl.program_id(1) // column_tiles * ROWS
    column = tl.program_id(1) % column_tiles * WIDTH + tl.arange(0, WIDTH)
    image = tl.program_id(2).to(tl.int64) * height * width * channels
    here = channel < channels
    start = tl.zeros((WIDTH, CHANNELS), tl.float32)
    if BIAS:
        start += tl.load(bias_pointer + channel, mask=here, other=0.0)[None, :]
    sums = ()
    for _ in tl.static_range(ROWS):
        sums = sums + (start,)
    for kernel_column in range(KERNEL):
        taps = ()
        for kernel_row in tl.static_range(KERNEL):
            tap = kernel_row * KERNEL + kernel_column
            if FLIP:
                tap = KERNEL * KERNEL - 1 - tap
            taps = taps + (tl.load(taps_pointer + tap * channels + channel, mask=here, other=0.0)[None, :],)
        w = column + kernel_column - KERNEL // 2
        at = x_pointer + image + w[:, None] * channels + channel[None, :]
        for row in tl.static_range(ROWS + KERNEL - 1):
            h = first_row + row - KERNEL // 2
            inside = ((w >= 0) & (w < _columns(h, height, width)))[:, None] & here[None, :]
            x = tl.load(at + h * width * channels, mask=inside, other=0.0).to(tl.float32)
            added = ()
            for i in tl.static_range(ROWS):
                if row - i >= 0 and row - i < KERNEL:
                    added = added + (sums[i] + x * taps[row - i],)
                else:
                    added = added + (sums[i],)
            sums = added
    out = out_pointer + image + column[:, None] * channels + channel[None, :]
    for i in tl.static_range(ROWS):
        h = first_row + i
        inside = (column < _columns(h, height, width))[:, None] & here[None, :]
        tl.store(out + h * width * channels, sums[i], mask=inside)


@triton.jit
def _weight_grad_columns(
    x_pointer, grad_pointer, partial_pointer, images, height, width, channels, run,
    KERNEL: tl.constexpr, STEPS: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    kernel_column = tl.program_id(1)
    split = tl.program_id(2)
    column_tiles = tl.cdiv(width, WIDTH)
    here = (channel < channels)[None, :]
    zero = tl.zeros((WIDTH, CHANNELS), tl.float32)
    bias = zero
    sums = ()
    for _ in tl.static_range(KERNEL):
        sums = sums + (zero,)
    for item in range(split * run, tl.minimum((split + 1) * run, images * column_tiles)):
        column = item % column_tiles * WIDTH + tl.arange(0, WIDTH)
        image = (item // column_tiles).to(tl.int64) * height * width * channels + channel[None, :]
        w = column + kernel_column - KERNEL // 2
        x_at, grad_at = x_pointer + image + w[:, None] * channels, grad_pointer + image + column[:, None] * channels
        rows = ()  # of the gradient, the latest first
        for _ in tl.static_range(KERNEL):
            rows = rows + (zero,)
        for first in range(0, height + KERNEL // 2, STEPS):
            for step in tl.static_range(STEPS):
                row = first + step
                h = row - KERNEL // 2
                grad_mask = (column < _columns(row, height, width))[:, None] & here
                x_mask = ((w >= 0) & (w < _columns(h, height, width)))[:, None] & here
                grad = tl.load(grad_at + row * width * channels, mask=grad_mask, other=0.0).to(tl.float32)
                x = tl.load(x_at + h * width * channels, mask=x_mask, other=0.0).to(tl.float32)
                bias += grad
                latest = (grad,)
                for i in tl.static_range(KERNEL - 1):
                    latest = latest + (rows[i],)
                rows = latest
                added = ()
                for i in tl.static_range(KERNEL):
                    added = added + (sums[i] + x * rows[i],)
                sums = added
    partial = partial_pointer + split * (KERNEL * KERNEL + 1) * channels + channel
    for i in tl.static_range(KERNEL):
        to = partial + (i * KERNEL + kernel_column) * channels
        tl.store(to, tl.sum(sums[i], 0), mask=channel < channels)
    if kernel_column == 0:
        tl.store(partial + KERNEL * KERNEL * channels, tl.sum(bias, 0), mask=channel < channels)


@triton.jit
def _weight_grad_strided(
    x_pointer, grad_pointer, partial_pointer, images, height, width, channels, out_height, out_width, run,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, TAPS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
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


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, flip: bool = False) -> Tensor:
    """`(N, H, W, C)`, contiguous and of any float type, to the same; `weight` `(C, 1, K, K)`, stride 1, padding K // 2.

    `flip` turns the kernel by 180°, for the gradient with respect to the input.
    """
    images, height, width, channels = x.shape
    kernel_size = weight.shape[-1]
    taps = weight.reshape(channels, -1).t().float().contiguous()
    out = torch.empty_like(x)
    grid = triton.cdiv(channels, CHANNELS), triton.cdiv(height, ROWS) * triton.cdiv(width, COLUMNS), images
    tensors = x, taps, taps if bias is None else bias.float(), out
    constants = kernel_size, flip, bias is not None, ROWS, COLUMNS, CHANNELS
    launch(_conv, grid, *tensors, height, width, channels, constants=constants, warps=2)
    return out


def weight_grad(grad: Tensor, x: Tensor, kernel_size: int, stride: int) -> tuple[Tensor, Tensor]:
    """Gradients `(C, 1, K, K)` of the weight and `(C,)` of the bias, in float32.

    `x` is `(N, H, W, C)` and `grad` `(N, H', W', C)` with H' = (H - 1) // stride + 1; both contiguous, any float type.
    """
    images, height, width, channels = x.shape
    _, out_height, out_width, _ = grad.shape
    blocks = triton.cdiv(channels, CHANNELS)
    wanted = max(1, PROGRAMS // (blocks * kernel_size))
    columns = 16 // x.element_size()  # of a tile at stride 1, whose work is counted in tiles, otherwise in pixels
    work = images * (triton.cdiv(width, columns) if stride == 1 else out_height * out_width)
    run = triton.cdiv(work, wanted)
    if stride > 1:
        run = triton.cdiv(run, PIXELS) * PIXELS
    splits = triton.cdiv(work, run)
    partial = torch.empty(splits, kernel_size**2 + 1, channels, dtype=torch.float32, device=x.device)
    grid, tensors = (blocks, kernel_size, splits), (x, grad, partial)
    if stride == 1:
        constants = kernel_size, STEPS, columns, CHANNELS
        sizes = images, height, width, channels, run
        launch(_weight_grad_columns, grid, *tensors, *sizes, constants=constants, warps=columns // 4)
    else:
        constants = kernel_size, stride, triton.next_power_of_2(kernel_size), PIXELS, CHANNELS
        strided = images, height, width, channels, out_height, out_width, run
        launch(_weight_grad_strided, grid, *tensors, *strided, constants=constants)
    total = partial.sum(0)  # (K*K + 1, C)
    return total[:-1].t().reshape(channels, 1, kernel_size, kernel_size).contiguous(), total[-1]
