"""What a ConvNeXt block does to each pixel by itself, in training. On a CPU the forward pass is in ``products.py`` and
the backward pass in ``pixelwise_grad_cpu.cpp``; a GPU runs torch's products and the Triton kernels of ``gpu.py``.

Layer by layer, autograd keeps eleven times the block's channels for each pixel: the norm's input and output, the hidden
activations before and after GELU, and the branch's output. Here it keeps five times: the norm's input and the hidden
activations before GELU. The rest is recomputed, on a CPU for a strip of pixels whose activations stay in a cache. The
result differs from the layers' in rounding only.
"""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nextify.kernels.gelu.cpu import FLAGS
from nextify.kernels.operators import compiled, failed, flop_formula, pointers, seen_as_operators
from nextify.kernels.pixelwise import products, strips
from nextify.kernels.pixelwise.products import SCHEMA, Weights, scratch_address

STRIP_BYTES = 3 << 20
"""Bytes of hidden activations in a strip of the backward pass, which holds three tensors of them."""
CHANNEL_BYTES = 1 << 12
"""Most bytes of one channel of a strip. Sums over pixels are products, whose panels would get narrower beyond that."""
_LEARNED = Weights._fields[:-1]


_INPUTS = "grad", "x", "before", "weight1", "weight2", "norm_weight", "norm_bias", "bias2", "scale"
_Gradients = products.arguments(
    (*_INPUTS, "memory", "x_grad", *(f"{name}_grad" for name in _LEARNED)), ("grad", "x", "weight1", "weight2", "inner")
)


def _check(library: ctypes.CDLL) -> None:
    """Raise RuntimeError where the kernel's gradients for a small case are not NumPy's."""
    function, size = library.nextify_pixelwise_grad, library.nextify_pixelwise_grad_bytes
    function.argtypes = size.argtypes = [ctypes.POINTER(_Gradients)]
    function.restype, size.restype = ctypes.c_int, ctypes.c_int64
    c = products.small_case()
    c.grad = grad = c.shortcut
    inputs = [getattr(c, name) for name in _INPUTS]
    found = [np.empty_like(c.x), *(np.empty_like(getattr(c, name)) for name in _LEARNED)]

    def call(memory: int) -> ctypes.Structure:
        addresses = [[a.ctypes.data for a in arrays] for arrays in (inputs, found)]
        return _Gradients(*addresses[0], memory, *addresses[1], *c.sizes, 1e-6, *[0] * 5, 2)

    memory = np.empty(size(call(0)) + products.LINE, np.uint8)
    code = function(call(memory.ctypes.data + -memory.ctypes.data % products.LINE))
    density = np.exp(-(c.before.astype(np.float64) ** 2) / 2) / np.sqrt(2 * np.pi)
    scaled = grad * c.scale
    hidden_grad = (scaled @ c.weight2) * (c.distribution + c.before * density)
    normal_grad = hidden_grad @ c.weight1
    weighted = normal_grad * c.norm_weight
    shares = weighted.mean(1, keepdims=True), (weighted * c.unit).mean(1, keepdims=True)
    expected = (
        (weighted - shares[0] - c.unit * shares[1]) / c.deviation,
        *((normal_grad * c.unit).sum(0), normal_grad.sum(0)),  # norm_weight, norm_bias
        *(hidden_grad.T @ c.normal, hidden_grad.sum(0)),  # weight1, bias1
        *(scaled.T @ c.hidden, scaled.sum(0)),  # weight2, bias2
        (grad * (c.hidden @ c.weight2.T + c.bias2)).sum(0),  # scale
    )
    pairs = zip(found, expected, strict=True)
    if code or not all(np.linalg.norm(got - exact) <= 1e-5 * np.linalg.norm(exact) for got, exact in pairs):
        raise RuntimeError("the compiled kernel does not agree with NumPy")


_library, ready = compiled("pixelwise_grad", Path(__file__).with_name("pixelwise_grad_cpu.cpp"), _check, FLAGS)


def _forward(x: Tensor, shortcut: Tensor | None, *others: Any) -> tuple[Tensor, Tensor]:
    """The output, and the hidden activations before GELU."""
    *values, dtype = others
    weights = Weights(*values)
    x, shortcut = x.contiguous(), None if shortcut is None else shortcut.contiguous()
    if x.device.type == "cuda":
        from nextify.kernels.pixelwise import gpu

        out = _output(x, shortcut, weights, dtype)
        return out, gpu.run(x, shortcut, weights, out, dtype=dtype, keeps=True)
    out, before = _output(x, shortcut, weights, dtype), x.new_empty((x.shape[0], weights.weight1.shape[0]), dtype=dtype)
    strip = strips.strip_of(x.shape[0], before.shape[-1] * dtype.itemsize)
    products.run(x, shortcut, weights, out, strip=strip, dtype=dtype, before=before)
    return out, before


def _output(x: Tensor, shortcut: Tensor | None, weights: Weights, dtype: torch.dtype) -> Tensor:
    kind = strips.result_dtype(dtype, weights.scale, shortcut)
    return x.new_empty((x.shape[0], weights.weight2.shape[0]), dtype=kind)


_schema = f"(Tensor x, Tensor? shortcut, {SCHEMA}, ScalarType dtype) -> (Tensor, Tensor)"
_forward_op = torch.library.custom_op("nextify::pixelwise", _forward, mutates_args=(), schema=_schema)


@_forward_op.register_fake
def _(x: Tensor, shortcut: Tensor | None, *others: Any) -> tuple[Tensor, Tensor]:
    *values, dtype = others
    weights = Weights(*values)
    before = x.new_empty((x.shape[0], weights.weight1.shape[0]), dtype=dtype)
    return _output(x, shortcut, weights, dtype), before


def _backward(grad: Tensor, x: Tensor, before: Tensor, *values: Any) -> tuple[Tensor, ...]:
    """Gradients of the input and of all ``Weights``, the latter in float32; for absent ones, any tensor."""
    weights = Weights(*values)
    norm_weight, norm_bias, weight1, _, weight2, bias2, scale, eps = weights
    grad, x, before = grad.contiguous(), x.contiguous(), before.contiguous()
    if x.device.type == "cuda":
        from nextify.kernels.pixelwise import gpu

        return gpu.backward(grad, x, before, weights)
    grads = _gradients(x, weight1, weight2)
    (wide, columns), rows = weight1.shape, x.shape[0]
    vectors = [products.floats(v) for v in (norm_weight, norm_bias, bias2, scale)]
    tensors = [grad, x, before, weight1.contiguous(), weight2.contiguous(), *vectors]
    work = _Gradients(
        *pointers(*tensors),
        None,
        *pointers(*grads),
        *(rows, columns, wide, weight2.shape[0], strip_of(rows, wide, before.dtype), eps),
        *(t.dtype == torch.bfloat16 for t in (grad, x, weight1, weight2, before)),
        torch.get_num_threads(),
    )
    library = _library()
    work.memory = scratch_address("gradients", library.nextify_pixelwise_grad_bytes(ctypes.byref(work)))
    if code := library.nextify_pixelwise_grad(ctypes.byref(work)):
        raise failed("pixelwise", code)
    return grads


def strip_of(pixels: int, wide: int, dtype: torch.dtype) -> int:
    """Pixels in a strip of the backward pass."""
    return strips.strip_of(pixels, wide * dtype.itemsize, min(STRIP_BYTES, wide * CHANNEL_BYTES))


def _gradients(x: Tensor, weight1: Tensor, weight2: Tensor) -> tuple[Tensor, ...]:
    """Uninitialized gradients of the input and of all ``Weights``."""
    (wide, columns), outputs = weight1.shape, weight2.shape[0]
    shapes = (columns,), (columns,), (wide, columns), (wide,), (outputs, wide), (outputs,), (outputs,)
    return x.new_empty(x.shape), *(x.new_empty(shape, dtype=torch.float32) for shape in shapes)


def _backward_apart(grad: Tensor, *others: Any) -> tuple[Tensor, ...]:
    """The same with outputs that share no memory, as an operator's must not."""
    found = _backward(grad, *others)
    return tuple(t.clone() for t in found) if grad.is_cuda else found


_schema = f"(Tensor grad, Tensor x, Tensor before, {SCHEMA}) -> ({', '.join(['Tensor'] * 8)})"
_backward_op = torch.library.custom_op("nextify::pixelwise_grad", _backward_apart, mutates_args=(), schema=_schema)


@_backward_op.register_fake
def _(grad: Tensor, x: Tensor, before: Tensor, *values: Any) -> tuple[Tensor, ...]:
    return _gradients(x, values[2], values[4])


@flop_formula(torch.ops.nextify.pixelwise)
def _forward_flops(x: Any, shortcut: Any, *others: Any, out_shape: Any = None, **_: Any) -> int:
    return int(2 * x[0] * others[2][0] * (others[2][1] + others[4][0]))


@flop_formula(torch.ops.nextify.pixelwise_grad)
def _backward_flops(grad: Any, x: Any, before: Any, *values: Any, out_shape: Any = None, **_: Any) -> int:
    return int(4 * x[0] * values[2][0] * (values[2][1] + values[4][0]))


def _seen(x: Tensor) -> bool:
    """Whether to call the operators. A GPU mostly waits to be called, so there only if something looks at them."""
    return x.device.type == "cpu" or seen_as_operators()


class _Pixelwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shortcut: Tensor | None, dtype: torch.dtype, *values: Any) -> Tensor:
        function = torch.ops.nextify.pixelwise if _seen(x) else _forward
        out, before = function(x, shortcut, *values, dtype)
        ctx.save_for_backward(x, before, *values[:-1])
        ctx.eps, ctx.dtype, ctx.shortcut_dtype = values[-1], dtype, None if shortcut is None else shortcut.dtype
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, before, *learned = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            x_grad, *of_learned = _twice(grad, x, Weights._make([*learned, ctx.eps]), ctx.dtype)
        else:
            function = torch.ops.nextify.pixelwise_grad if _seen(x) else _backward
            x_grad, *found = function(grad, x, before, *learned, ctx.eps)
            of_learned = [None if p is None else g.to(p.dtype) for g, p in zip(found, learned, strict=True)]
        of_shortcut = None if ctx.shortcut_dtype is None else grad.to(ctx.shortcut_dtype)
        return x_grad, of_shortcut, None, *of_learned, None


def _twice(grad: Tensor, x: Tensor, weights: Weights, dtype: torch.dtype) -> list[Tensor | None]:
    """The gradients of the branch in torch's operators, themselves differentiable."""
    norm_weight, norm_bias, weight1, bias1, weight2, bias2, scale, eps = weights
    with torch.autocast(x.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = x if norm_weight is None else F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
        y = F.linear(F.gelu(F.linear(y, weight1, bias1)), weight2, bias2)
    y = y if scale is None else y * scale
    inputs = x, *weights[:-1]
    found = iter(torch.autograd.grad(y, [t for t in inputs if t is not None], grad.to(y.dtype), create_graph=True))
    return [None if t is None else next(found) for t in inputs]


def pixelwise(x: Tensor, shortcut: Tensor | None, weights: Weights, dtype: torch.dtype) -> Tensor:
    """``[shortcut +] scale * (W2 gelu(W1 norm(x) + b1) + b2)``, all ``(pixels, channels)``, computed in ``dtype``."""
    y: Tensor = _Pixelwise.apply(x, shortcut, dtype, *weights)
    return y


def run(x: Tensor, shortcut: Tensor | None, parts: strips.Parts, scale: Tensor | None, *, dtype: torch.dtype) -> Tensor:
    """``[shortcut +] scale * y``, where ``y`` is what the layers after ``before`` make of ``x (N, H, W, C)``."""
    # Two axes: inductor would keep tensors of four for the backward pass in an order of its own.
    xs, shortcuts = (None if t is None else t.reshape(-1, t.shape[-1]) for t in (x, shortcut))
    y = pixelwise(xs, shortcuts, strips.weights_of(parts, scale), dtype)  # type: ignore[arg-type]
    return y.view(*x.shape[:-1], y.shape[-1])
