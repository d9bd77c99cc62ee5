"""Depthwise convolution of NHWC activations, with kernels of our own.

oneDNN is slow at the gradient of a depthwise weight, and at bfloat16 convolutions on CPUs without bfloat16
instructions; `depthwise_cpu.cpp` computes both about as fast as a good float32 forward pass. On GPUs both are Triton
kernels (`gpu.py`), except that cuDNN does the forward pass of strides other than 1. Figures: docs/benchmarks.md.

Results do not depend on the number of threads, and differ from torch's by rounding only. The kernels work under
`torch.compile(fullgraph=True)`, autocast, gradient checkpointing and double backward, and report their operations to
`torch.utils.flop_counter`.
"""

import ctypes
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nextify.kernels.operators import (
    asked_once,
    check_numbers,
    compiled,
    failed,
    flop_formula,
    operator,
    pointers,
    seen_as_operators,
)

KERNEL_SIZES = (3, 5, 7, 9, 11)
STRIDES = (1, 2)


def _check(library: ctypes.CDLL, kernel_size: int) -> None:
    """Raise RuntimeError where either kernel's numbers for a small case of ragged channels are not NumPy's."""
    forward, weight_grad = library.nextify_depthwise_forward, library.nextify_depthwise_weight_grad
    shape = [ctypes.c_int, *[ctypes.c_int64] * 4]  # bfloat16, N, H, W, C
    forward.argtypes = [*[ctypes.c_void_p] * 4, *shape, *[ctypes.c_int] * 3]
    weight_grad.argtypes = [*[ctypes.c_void_p] * 4, *shape, *[ctypes.c_int] * 2]
    random = np.random.default_rng(0)
    (n, h, w, c), k, stride = (2, 6, 9, 21), kernel_size, 1
    x, grad = (random.standard_normal((n, h, w, c), dtype=np.float32) for _ in range(2))
    weight, bias = random.standard_normal((c, k, k), dtype=np.float32), random.standard_normal(c, dtype=np.float32)
    out, weight_out, bias_out = np.empty_like(grad), np.empty_like(weight), np.empty_like(bias)
    code = forward(*(a.ctypes.data for a in (x, weight, bias, out)), 0, n, h, w, c, stride, 0, 2)
    code |= weight_grad(*(a.ctypes.data for a in (x, grad, weight_out, bias_out)), 0, n, h, w, c, stride, 2)
    padded = np.pad(x.astype(np.float64), ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(1, 2))  # (N, H, W, C, K, K)
    pairs = (
        (out, np.einsum("nhwckl,ckl->nhwc", windows, weight) + bias),
        (weight_out, np.einsum("nhwckl,nhwc->ckl", windows, grad)),
        (bias_out, grad.sum((0, 1, 2))),
    )
    check_numbers(pairs, 1e-4, 1e-4, code)


_SOURCE = Path(__file__).with_name("depthwise_cpu.cpp")
_libraries = {
    size: compiled(f"{size}×{size}", _SOURCE, partial(_check, kernel_size=size), (f"-DKERNEL={size}",))
    for size in KERNEL_SIZES
}
"""One library per kernel size."""


@asked_once
def ready(kernel_size: int) -> bool:
    """Whether the CPU kernels for this size can be used; compiles them when asked first."""
    return kernel_size in KERNEL_SIZES and _libraries[kernel_size][1]()


# The operators. Each takes every case, and calls torch where we have no kernel.


def _out_size(size: int, stride: int) -> int:
    return (size - 1) // stride + 1


def _torch_conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    channels, _, kernel_size, _ = weight.shape
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, kernel_size // 2, groups=channels)
    return y.permute(0, 2, 3, 1)  # (N, H', W', C)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, flip: bool, own: bool) -> Tensor:
    """`own`: whether the kernel is ours on a CPU."""
    x = x.contiguous()
    kernel_size = weight.shape[-1]
    if x.device.type == "cuda" and x.numel() > 0 and stride == 1 and kernel_size in KERNEL_SIZES:
        from nextify.kernels.depthwise import gpu

        return gpu.forward(x, weight, bias, flip)
    if not (own and x.device.type == "cpu" and x.numel() > 0 and ready(kernel_size)):
        taps = weight.flip(2, 3) if flip else weight
        return _torch_conv(x, taps.to(x.dtype), None if bias is None else bias.to(x.dtype), stride).contiguous()
    n, h, w, c = x.shape
    out = x.new_empty(n, _out_size(h, stride), _out_size(w, stride), c)
    taps, shift = weight.float().contiguous(), None if bias is None else bias.float().contiguous()
    code = _libraries[kernel_size][0]().nextify_depthwise_forward(
        *pointers(x, taps, shift, out), *(x.dtype == torch.bfloat16, n, h, w, c, stride, flip, torch.get_num_threads())
    )
    if code:
        raise failed("depthwise", code)
    return out


_forward_op = operator("depthwise_forward", _forward)


@torch.library.register_fake("nextify::depthwise_forward")  # type: ignore[untyped-decorator]
def _(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, flip: bool, own: bool) -> Tensor:
    n, h, w, c = x.shape
    return x.new_empty(n, _out_size(h, stride), _out_size(w, stride), c)


def _weight_grad(
    grad: Tensor, x: Tensor, height: int, width: int, kernel_size: int, stride: int, own: bool, operator: bool
) -> tuple[Tensor, Tensor]:
    """`x` is `(N H W, C)`: inductor keeps tensors of four axes for the backward pass in an order of its own, and copies
    them there and back. `own` and `operator`, as in a Choice, are for the gradient of this gradient."""
    grad, x = grad.contiguous(), x.contiguous().view(grad.shape[0], height, width, -1)
    n, h, w, c = x.shape
    if x.device.type == "cuda" and x.numel() > 0:
        from nextify.kernels.depthwise import gpu

        return gpu.weight_grad(grad, x, kernel_size, stride)
    weight_grad = x.new_empty((c, 1, kernel_size, kernel_size), dtype=torch.float32)
    bias_grad = x.new_empty(c, dtype=torch.float32)
    if x.device.type != "cpu" or x.numel() == 0 or not ready(kernel_size):
        _, of_weight, of_bias = torch.ops.aten.convolution_backward(
            *(grad.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2), weight_grad.to(x.dtype), [c], [stride, stride]),
            *([kernel_size // 2] * 2, [1, 1], False, [0, 0], c, [False, True, True]),
        )
        return of_weight.float().contiguous(), of_bias.float()
    code = _libraries[kernel_size][0]().nextify_depthwise_weight_grad(
        *pointers(x, grad, weight_grad, bias_grad),
        *(x.dtype == torch.bfloat16, n, h, w, c, stride, torch.get_num_threads()),
    )
    if code:
        raise failed("depthwise", code)
    return weight_grad, bias_grad


_weight_grad_op = torch.library.custom_op("nextify::depthwise_weight_grad", _weight_grad, mutates_args=())


@_weight_grad_op.register_fake
def _(grad: Tensor, x: Tensor, height: int, width: int, kernel_size: int, *_: object) -> tuple[Tensor, Tensor]:
    c = x.shape[-1]
    return x.new_empty((c, 1, kernel_size, kernel_size), dtype=torch.float32), x.new_empty(c, dtype=torch.float32)


@flop_formula(torch.ops.nextify.depthwise_forward)
def _forward_flops(x: Any, weight: Any, bias: Any, stride: int, *_: Any, out_shape: Any = None, **__: Any) -> int:
    n, h, w, c = x
    return int(2 * n * _out_size(h, stride) * _out_size(w, stride) * c * weight[-1] ** 2)


@flop_formula(torch.ops.nextify.depthwise_weight_grad)
def _weight_grad_flops(
    grad: Any, x: Any, height: int, width: int, kernel_size: int, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    n, h, w, c = grad
    return int(2 * n * h * w * c * kernel_size**2)


# Autograd


def _input_grad(
    grad: Tensor, weight: Tensor, stride: int, height: int, width: int, own: bool, operator: bool
) -> Tensor:
    """The gradient `(N, H, W, C)` with respect to the input, itself differentiable."""
    channels, _, kernel_size, _ = weight.shape
    slow = stride > 1 and grad.device.type == "cpu" and grad.dtype == torch.bfloat16  # torch's, up to a hundredfold
    ours = operator and (stride == 1 or grad.device.type == "cpu")
    learns = torch.is_grad_enabled() and (grad.requires_grad or weight.requires_grad)
    if (slow or ours) and not learns:
        spread = grad
        if stride > 1:  # each pixel moves to its window's centre in the input, with zeros between them
            spread = grad.new_zeros(grad.shape[0], height, width, grad.shape[-1])
            spread[:, ::stride, ::stride] = grad
        return _forward_op(spread, weight, None, 1, True, own)  # type: ignore[no-any-return]
    if stride == 1:
        return _torch_conv(grad, weight.flip(2, 3).to(grad.dtype), None, 1)
    pad, rest = kernel_size // 2, ((height - 1) % stride, (width - 1) % stride)
    y = F.conv_transpose2d(
        grad.permute(0, 3, 1, 2), weight.to(grad.dtype), None, stride, pad, output_padding=rest, groups=channels
    )
    return y.permute(0, 2, 3, 1)


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, own: bool, operator: bool) -> Tensor:
    if not own:  # torch's convolution takes one type; a compiled graph casts faster than the operator does
        weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    if not operator:
        return _torch_conv(x, weight, bias, stride)
    return _forward_op(x, weight, bias, stride, False, own)  # type: ignore[no-any-return]


class _Depthwise(torch.autograd.Function):
    """The input comes as `(N H W, C)`, as the weight gradient's operator takes it, beside its shape."""

    @staticmethod
    def forward(
        x: Tensor, shape: Sequence[int], weight: Tensor, bias: Tensor | None, stride: int, own: bool, operator: bool
    ) -> Tensor:
        return _conv(x.view(shape), weight, bias, stride, own, operator)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.shape, weight, bias, *ctx.how = inputs
        ctx.save_for_backward(x, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, own, operator = ctx.how
        height, width = ctx.shape[1:3]
        x_grad = weight_grad = bias_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = _input_grad(grad, weight, stride, height, width, own, operator).reshape(x.shape)
        if ctx.needs_input_grad[2] or ctx.needs_input_grad[3]:
            # A GPU mostly waits to be called, so there the operator's checks would cost time.
            plain = grad.device.type == "cuda" and not seen_as_operators()
            function: Any = _weight_grad if plain else torch.ops.nextify.depthwise_weight_grad
            of_weight, of_bias = function(grad, x, height, width, weight.shape[-1], stride, own, operator)
            weight_grad = of_weight.to(weight.dtype) if ctx.needs_input_grad[2] else None
            bias_grad = of_bias.to(ctx.bias_dtype) if ctx.needs_input_grad[3] else None
        return x_grad, None, weight_grad, bias_grad, None, None, None


def _weight_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    grad, x, height, width, _, *how = inputs
    ctx.size, ctx.how = (height, width), how
    ctx.save_for_backward(grad, x)


def _weight_grad_backward(ctx: Any, of_weight: Tensor, of_bias: Tensor) -> tuple[Tensor | None, ...]:
    grad, x = ctx.saved_tensors  # the weight gradient is linear in each of them
    (height, width), (stride, own, operator) = ctx.size, ctx.how
    images = x.view(grad.shape[0], height, width, -1)
    of_grad = _torch_conv(images, of_weight.to(x.dtype), of_bias.to(x.dtype), stride)
    of_x = _input_grad(grad, of_weight, stride, height, width, own, operator).reshape(x.shape)
    return of_grad, of_x, *[None] * 6


torch.library.register_autograd(
    "nextify::depthwise_weight_grad", _weight_grad_backward, setup_context=_weight_grad_setup
)


def depthwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, *, dtype: torch.dtype, own: bool, operator: bool
) -> Tensor:
    """Depthwise convolution with padding K // 2: `(N, H, W, C)` to `(N, H', W', C)`, H' = (H - 1) // stride + 1.

    `weight` is `(C, 1, K, K)`, `bias` `(C,)`; K and the stride are among KERNEL_SIZES and STRIDES. It is fastest where
    `x` is contiguous. Computed in `dtype`; parameters' gradients have the parameters' type and are not rounded to
    `dtype` first. `own` and `operator` are a Choice's.
    """
    x = x.to(dtype)
    if not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))):
        return _conv(x, weight, bias, stride, own, operator)
    rows = x.reshape(-1, x.shape[-1])
    return _Depthwise.apply(rows, x.shape, weight, bias, stride, own, operator)  # type: ignore[no-any-return]
