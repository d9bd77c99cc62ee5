"""Convolutions of patches on a CPU: ConvNeXt's stem and downsampling, as matrix products of our own.

A library's convolution reorders its weights at every step of a training, and what it computes of so few taps is far
from what its matrix products reach. ``patches_cpu.cpp`` gathers each patch into a row, strip by strip. Results do not
depend on the number of threads, and differ from torch's by rounding only.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from nextify.kernels.operators import check_numbers, compiled, failed, flop_formula, pointers, seen_as_operators
from nextify.kernels.pixelwise.products import LINE, floats, scratch_address
from nextify.kernels.pixelwise.strips import strip_of

STRIP_BYTES = 1 << 20
"""Bytes of a strip's rows."""
CHANNEL_BYTES = 1 << 12
"""Most bytes of one channel of them, as in ``pixelwise/training.py``."""


class _Work(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "weight", "bias", "z", "x_grad", "weight_grad", "bias_grad")),
        ("memory", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("images", "high", "wide", "side", "channels", "outputs", "strip")),
        *((name, ctypes.c_int) for name in ("half", "weight_half", "threads")),
    )


def _check(library: ctypes.CDLL) -> None:
    """Raise RuntimeError where the kernel's numbers for a small case of ragged sizes are not NumPy's."""
    function, size = library.nextify_patches, library.nextify_patches_bytes
    function.argtypes = size.argtypes = [ctypes.POINTER(_Work)]
    function.restype, size.restype = ctypes.c_int, ctypes.c_int64
    random = np.random.default_rng(0)
    images, high, wide, side, channels, outputs = sizes = 2, 3, 2, 3, 5, 21
    x = random.standard_normal((images, high, side, wide, side, channels), np.float32)
    weight = random.standard_normal((outputs, side, side, channels), np.float32)
    bias, grad = (random.standard_normal(shape, np.float32) for shape in (outputs, (images, high, wide, outputs)))
    z, x_grad, weight_grad, bias_grad = (np.empty_like(a) for a in (grad, x, weight, bias))
    code = 0
    for a, *grads in ((z,), (grad, x_grad, weight_grad, bias_grad)):
        addresses = [t.ctypes.data for t in (x, weight, bias, a, *grads)]
        work = _Work(*addresses, *[None] * (8 - len(addresses)), *sizes, 5, 0, 0, 2)
        memory = np.empty(size(work) + LINE, np.uint8)
        work.memory = memory.ctypes.data + -memory.ctypes.data % LINE
        code |= function(work)
    pairs = (
        (z, np.einsum("nyawbc,oabc->nywo", x, weight) + bias),
        (x_grad, np.einsum("nywo,oabc->nyawbc", grad, weight)),
        (weight_grad, np.einsum("nywo,nyawbc->oabc", grad, x)),
        (bias_grad, grad.sum((0, 1, 2))),
    )
    check_numbers(pairs, 1e-4, 1e-4, code)


_library, ready = compiled("patches", Path(__file__).with_name("patches_cpu.cpp"), _check)


def _call(
    x: Tensor, shape: Sequence[int], weight: Tensor, bias: Tensor | None, z: Tensor, *grads: Tensor | None
) -> None:
    """Compute ``z``, or from it the gradients of ``x``, the weight and the bias; that of ``x`` may be None."""
    images, height, width, channels = shape
    outputs, side = weight.shape[0], weight.shape[-1]
    rows = images * (height // side) * (width // side)
    taps = weight.contiguous(memory_format=torch.channels_last)
    shift, columns, size = floats(bias), side * side * channels, x.dtype.itemsize
    work = _Work(
        *pointers(x, taps, shift, z, *(grads or [None] * 3)),
        None,
        *(images, height // side, width // side, side, channels, outputs),
        strip_of(rows, columns * size, min(STRIP_BYTES, columns * CHANNEL_BYTES)),
        *(x.dtype == torch.bfloat16, taps.dtype == torch.bfloat16, torch.get_num_threads()),
    )
    library = _library()
    work.memory = scratch_address("patches", library.nextify_patches_bytes(ctypes.byref(work)))
    if code := library.nextify_patches(ctypes.byref(work)):
        raise failed("patches", code)


def _forward(x: Tensor, shape: Sequence[int], weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x`` is ``(N H W, C)``: inductor keeps tensors of four axes for the backward pass in an order of its own."""
    out = x.new_empty(_rows(shape, weight), weight.shape[0])
    _call(x.contiguous(), shape, weight, bias, out)
    return out


def _rows(shape: Sequence[int], weight: Tensor) -> int:
    side = weight.shape[-1]
    return shape[0] * (shape[1] // side) * (shape[2] // side)


def _backward(
    grad: Tensor, x: Tensor, shape: Sequence[int], weight: Tensor, of_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``x`` (empty unless ``of_x``), of the weight as ``(O, K, K, C)`` and of the bias, in float32."""
    grads = _gradients(x, weight, of_x)
    _call(x.contiguous(), shape, weight, None, grad.contiguous(), grads[0] if of_x else None, *grads[1:])
    return grads


def _gradients(x: Tensor, weight: Tensor, of_x: bool) -> tuple[Tensor, Tensor, Tensor]:
    outputs, channels, side, _ = weight.shape
    of_weight = x.new_empty((outputs, side, side, channels), dtype=torch.float32)
    return x.new_empty(x.shape if of_x else 0), of_weight, x.new_empty(outputs, dtype=torch.float32)


_forward_op = torch.library.custom_op("nextify::patches", _forward, mutates_args=())
_backward_op = torch.library.custom_op("nextify::patches_grad", _backward, mutates_args=())


@_forward_op.register_fake
def _(x: Tensor, shape: Sequence[int], weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(_rows(shape, weight), weight.shape[0])


@_backward_op.register_fake
def _(grad: Tensor, x: Tensor, shape: Sequence[int], weight: Tensor, of_x: bool) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(x, weight, of_x)


@flop_formula(torch.ops.nextify.patches)
def _forward_flops(x: Any, shape: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(2 * x[0] * x[1] * weight[0])


@flop_formula(torch.ops.nextify.patches_grad)
def _backward_flops(
    grad: Any, x: Any, shape: Any, weight: Any, of_x: bool, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return int((4 if of_x else 2) * x[0] * x[1] * weight[0])


class _Patches(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: Sequence[int], weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.shape, ctx.bias_dtype = shape, None if bias is None else bias.dtype
        return _forward_op(x, shape, weight, bias)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = (
            _twice(grad, x, ctx.shape, weight)
            if torch.is_grad_enabled() and not torch.compiler.is_compiling()
            else _backward_op(grad, x, ctx.shape, weight, ctx.needs_input_grad[0])
        )
        own_bias = None if ctx.bias_dtype is None else of_bias.to(ctx.bias_dtype)
        own_weight = of_weight.permute(0, 3, 1, 2).to(weight.dtype)
        return of_x if ctx.needs_input_grad[0] else None, None, own_weight, own_bias


def _twice(grad: Tensor, x: Tensor, shape: Sequence[int], weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``_backward`` by torch's operators, themselves differentiable."""
    images, taps = x.view(shape).permute(0, 3, 1, 2), weight.to(x.dtype)
    n, height, width, _ = shape
    side = weight.shape[-1]
    grads = grad.view(n, height // side, width // side, -1).permute(0, 3, 1, 2)
    of_x = F.conv_transpose2d(grads, taps, stride=side).permute(0, 2, 3, 1).reshape(x.shape)
    of_weight = conv2d_weight(images, list(weight.shape), grads, stride=side)  # type: ignore[no-untyped-call]
    return of_x, of_weight.permute(0, 2, 3, 1), grad.sum(0)


def patches_conv(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A convolution of patches: ``(N, H, W, C)`` to ``(N, H / K, W / K, O)``, where K divides H and W.

    ``weight`` is ``(O, C, K, K)``, ``bias`` ``(O,)``. Computed in ``dtype``; parameters' gradients have the parameters'
    type and are not rounded to ``dtype`` first."""
    n, height, width, _ = shape = x.shape
    rows = x.to(dtype).reshape(-1, shape[-1])
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        y: Tensor = _Patches.apply(rows, tuple(shape), weight, bias)
    else:
        y = (_forward_op if seen_as_operators() else _forward)(rows, shape, weight, bias)
    side = weight.shape[-1]
    return y.view(n, height // side, width // side, -1)
