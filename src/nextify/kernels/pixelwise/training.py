"""What a ConvNeXt block does to each pixel by itself, in training. On a CPU the forward pass is ``products.py``'s and
the backward pass ``pixelwise_grad_cpu.cpp``; on a GPU they are torch's products and the Triton kernels of ``gpu.py``.

Layer by layer, autograd keeps the normed input, the hidden activations before and after GELU and the branch's output:
with what the norm keeps, eleven times the block's channels for each pixel. Here five times is enough: the norm's input
and the hidden activations before GELU. The rest is computed again, on a CPU for a strip of pixels whose activations
stay in a cache. The result differs from the layers' in rounding only.
"""

import ctypes
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from nextify.kernels.gelu.cpu import FLAGS, normal_distribution
from nextify.kernels.operators import seen_as_operators
from nextify.kernels.pixelwise import products, strips
from nextify.kernels.pixelwise.products import scratch_address
from nextify.system import native

STRIP_BYTES = 3 << 20
"""Bytes of hidden activations in a strip of the backward pass, which has three tensors of them."""
CHANNEL_BYTES = 1 << 12
"""Most bytes of one channel of a strip: sums over its pixels are products, whose panels would get narrower beyond."""
_SOURCE = Path(__file__).with_name("pixelwise_grad_cpu.cpp")
_GRADIENTS = ("norm_weight", "norm_bias", "weight1", "bias1", "weight2", "bias2", "scale")


class _Gradients(ctypes.Structure):
    """``Gradients`` of pixelwise_grad_cpu.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("grad", "x", "before", "weight1", "weight2")),
        *((name, ctypes.c_void_p) for name in ("norm_weight", "norm_bias", "bias2", "scale")),
        *((name, ctypes.c_void_p) for name in ("memory", "x_grad")),
        *((f"{name}_grad", ctypes.c_void_p) for name in _GRADIENTS),
        *((name, ctypes.c_int64) for name in ("rows", "columns", "wide", "outputs", "strip")),
        ("eps", ctypes.c_float),
        *((f"{name}_half", ctypes.c_int) for name in ("grad", "x", "weight1", "weight2", "inner")),
        ("threads", ctypes.c_int),
    )


def _build() -> native.Build:
    return native.build("pixelwise_grad", _SOURCE, _check, FLAGS)


def _check(library: ctypes.CDLL) -> None:
    """Compare with NumPy on a small case with ragged sizes; raise RuntimeError where they differ."""
    function, size = library.nextify_pixelwise_grad, library.nextify_pixelwise_grad_bytes
    function.argtypes = size.argtypes = [ctypes.POINTER(_Gradients)]
    function.restype, size.restype = ctypes.c_int, ctypes.c_int64
    random = np.random.default_rng(0)
    rows, columns, wide, outputs, strip = 23, 22, 90, 20, 15

    def draw(*shape: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        return random.standard_normal(shape, dtype=np.float32)

    grad, x, weight1, weight2 = draw(rows, outputs), draw(rows, columns), draw(wide, columns), draw(outputs, wide)
    norm_weight, norm_bias, bias1, bias2, scale = (draw(n) for n in (columns, columns, wide, outputs, outputs))
    centred = x - x.mean(1, keepdims=True, dtype=np.float64)
    deviation = np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6)
    unit = centred / deviation
    normal = unit * norm_weight + norm_bias
    before = (normal @ weight1.T + bias1).astype(np.float32)
    found = {name: np.empty_like(a) for name, a in zip(_GRADIENTS, (norm_weight, norm_bias, weight1), strict=False)}
    found |= {"bias1": np.empty_like(bias1), "weight2": np.empty_like(weight2), "bias2": np.empty_like(bias2)}
    found |= {"scale": np.empty_like(scale)}
    x_grad = np.empty_like(x)

    def call(memory: int) -> _Gradients:
        inputs = (a.ctypes.data for a in (grad, x, before, weight1, weight2, norm_weight, norm_bias, bias2, scale))
        outs = (a.ctypes.data for a in (x_grad, *found.values()))
        return _Gradients(*inputs, memory, *outs, rows, columns, wide, outputs, strip, 1e-6, *[0] * 5, 2)

    memory = np.empty(size(call(0)) + products.LINE, np.uint8)
    code = function(call(memory.ctypes.data + -memory.ctypes.data % products.LINE))
    phi = normal_distribution(before)
    density = np.exp(-(before.astype(np.float64) ** 2) / 2) / np.sqrt(2 * np.pi)
    hidden, scaled = before * phi, grad * scale
    hidden_grad = (scaled @ weight2) * (phi + before * density)
    normal_grad = hidden_grad @ weight1
    weighted = normal_grad * norm_weight
    shares = weighted.mean(1, keepdims=True), (weighted * unit).mean(1, keepdims=True)
    expected = {
        "norm_weight": (normal_grad * unit).sum(0),
        "norm_bias": normal_grad.sum(0),
        "weight1": hidden_grad.T @ normal,
        "bias1": hidden_grad.sum(0),
        "weight2": scaled.T @ hidden,
        "bias2": scaled.sum(0),
        "scale": (grad * (hidden @ weight2.T + bias2)).sum(0),
    }
    pairs = [(x_grad, (weighted - shares[0] - unit * shares[1]) / deviation)]
    pairs += [(found[name], expected[name]) for name in _GRADIENTS]
    if code or not all(np.linalg.norm(got - exact) <= 1e-5 * np.linalg.norm(exact) for got, exact in pairs):
        raise RuntimeError("the compiled kernel does not agree with NumPy")


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # a compiled graph asks once, when traced
def ready() -> bool:
    """Whether the compiled kernels can be used; builds them when asked first."""
    return _build().usable


def _forward(
    x: Tensor,
    shortcut: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    scale: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    x, shortcut = x.contiguous(), None if shortcut is None else shortcut.contiguous()
    parts = x, shortcut, (norm_weight, norm_bias, eps), (weight1, bias1), (weight2, bias2), scale
    if x.device.type == "cuda":
        from nextify.kernels.pixelwise import gpu

        out = x.new_empty((x.shape[0], weight2.shape[0]), dtype=strips.result_dtype(dtype, scale, shortcut))
        return out, gpu.run(*parts, out, dtype=dtype, keeps=True)
    out, before = _outputs(x, weight1, weight2, strips.result_dtype(dtype, scale, shortcut), dtype)
    products.run(
        *parts,
        out,
        strip=strips.strip_of(x.shape[0], before.shape[-1] * dtype.itemsize),
        dtype=dtype,
        before=before,
    )
    return out, before


def _outputs(
    x: Tensor, weight1: Tensor, weight2: Tensor, out_dtype: torch.dtype, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    out = x.new_empty((x.shape[0], weight2.shape[0]), dtype=out_dtype)
    return out, x.new_empty((x.shape[0], weight1.shape[0]), dtype=dtype)


_forward_op = torch.library.custom_op("nextify::pixelwise", _forward, mutates_args=())


@_forward_op.register_fake
def _(x: Tensor, shortcut: Tensor | None, *others: Any) -> tuple[Tensor, Tensor]:
    _, _, _, weight1, _, weight2, _, scale, dtype = others
    return _outputs(x, weight1, weight2, strips.result_dtype(dtype, scale, shortcut), dtype)


def _backward(
    grad: Tensor,
    x: Tensor,
    before: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    weight1: Tensor,
    weight2: Tensor,
    bias2: Tensor | None,
    scale: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad, x, before = grad.contiguous(), x.contiguous(), before.contiguous()
    if x.device.type == "cuda":
        from nextify.kernels.pixelwise import gpu

        rest = norm_weight, norm_bias, eps, weight1, weight2, bias2, scale
        return gpu.backward(grad, x, before, *rest)
    grads = _gradients(x, weight1, weight2)
    wide, columns = weight1.shape
    rows, threads = x.shape[0], torch.get_num_threads()
    vectors = [products.floats(v) for v in (norm_weight, norm_bias, bias2, scale)]
    tensors = [grad, x, before, weight1.contiguous(), weight2.contiguous(), *vectors]
    halves = [t.dtype == torch.bfloat16 for t in (grad, x, weight1, weight2, before)]
    work = _Gradients(
        *(None if t is None else t.data_ptr() for t in tensors),
        None,
        *(t.data_ptr() for t in grads),
        *(rows, columns, wide, weight2.shape[0]),
        *(_strip(rows, wide, before.dtype), eps, *halves, threads),
    )
    library = _build().library
    work.memory = scratch_address("gradients", library.nextify_pixelwise_grad_bytes(ctypes.byref(work)))
    if code := library.nextify_pixelwise_grad(ctypes.byref(work)):
        raise RuntimeError(f"the pixelwise kernel failed with code {code}; --kernels off goes without it")
    return grads


def _strip(pixels: int, wide: int, dtype: torch.dtype) -> int:
    return strips.strip_of(pixels, wide * dtype.itemsize, min(STRIP_BYTES, wide * CHANNEL_BYTES))


def _gradients(
    x: Tensor, weight1: Tensor, weight2: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Memory for the gradients of the input and of _GRADIENTS."""

    def of(*shape: int) -> Tensor:
        return x.new_empty(shape, dtype=torch.float32)

    (wide, columns), outputs = weight1.shape, weight2.shape[0]
    x_grad = x.new_empty(x.shape)
    norm, scale = (of(columns), of(columns)), of(outputs)
    return x_grad, *norm, of(wide, columns), of(wide), of(outputs, wide), of(outputs), scale


@functools.wraps(_backward)
def _backward_apart(*args: Any) -> tuple[Tensor, ...]:
    """No two outputs share memory, as operators must ensure."""
    found = _backward(*args)
    return tuple(t.clone() for t in found) if args[0].is_cuda else found


_backward_op = torch.library.custom_op("nextify::pixelwise_grad", _backward_apart, mutates_args=())


@_backward_op.register_fake
def _(grad: Tensor, x: Tensor, *others: Any) -> tuple[Tensor, ...]:
    return _gradients(x, others[4], others[5])


@register_flop_formula(torch.ops.nextify.pixelwise)
def _forward_flops(x: Any, shortcut: Any, *others: Any, out_shape: Any = None, **_: Any) -> int:
    return int(2 * x[0] * others[3][0] * (others[3][1] + others[5][0]))


@register_flop_formula(torch.ops.nextify.pixelwise_grad)
def _backward_flops(grad: Any, x: Any, *others: Any, out_shape: Any = None, **_: Any) -> int:
    return int(4 * x[0] * others[4][0] * (others[4][1] + others[5][0]))


def _seen(x: Tensor) -> bool:
    """Whether to call the operators. A GPU waits for nothing but calls, so there only where something looks at them."""
    return x.device.type == "cpu" or seen_as_operators()


class _Pixelwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shortcut: Tensor | None, eps: float, dtype: torch.dtype, *rest: Any) -> Tensor:
        norm_weight, norm_bias, weight1, bias1, weight2, bias2, scale = rest
        function = torch.ops.nextify.pixelwise if _seen(x) else _forward
        out, before = function(x, shortcut, norm_weight, norm_bias, eps, weight1, bias1, weight2, bias2, scale, dtype)
        ctx.save_for_backward(x, before, *rest)
        ctx.eps, ctx.dtype, ctx.shortcut_dtype = eps, dtype, None if shortcut is None else shortcut.dtype
        y: Tensor = out
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, before, *rest = ctx.saved_tensors
        norm_weight, norm_bias, weight1, _, weight2, bias2, scale = rest
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            x_grad, *of_rest = _twice(grad, x, ctx.eps, ctx.dtype, rest)
        else:
            function = torch.ops.nextify.pixelwise_grad if _seen(x) else _backward
            x_grad, *of_rest = function(
                grad, x, before, norm_weight, norm_bias, ctx.eps, weight1, weight2, bias2, scale
            )
            of_rest = [None if p is None else g.to(p.dtype) for g, p in zip(of_rest, rest, strict=True)]
        of_shortcut = None if ctx.shortcut_dtype is None else grad.to(ctx.shortcut_dtype)
        return x_grad, of_shortcut, None, None, *of_rest


def _branch(x: Tensor, eps: float, dtype: torch.dtype, rest: Any) -> Tensor:
    """The same in torch's operators, without the shortcut."""
    norm_weight, norm_bias, weight1, bias1, weight2, bias2, scale = rest
    with torch.autocast(x.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = x if norm_weight is None else F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
        y = F.linear(F.gelu(F.linear(y, weight1, bias1)), weight2, bias2)
    return y if scale is None else y * scale


def _twice(grad: Tensor, x: Tensor, eps: float, dtype: torch.dtype, rest: Any) -> list[Tensor | None]:
    """The gradients, differentiable themselves."""
    y = _branch(x, eps, dtype, rest)
    found = iter(torch.autograd.grad(y, [x, *(p for p in rest if p is not None)], grad.to(y.dtype), create_graph=True))
    return [next(found), *(None if p is None else next(found) for p in rest)]


def run(x: Tensor, shortcut: Tensor | None, parts: strips.Parts, scale: Tensor | None, *, dtype: torch.dtype) -> Tensor:
    """``[shortcut +] scale * y``, where ``y`` is what the layers after ``before`` make of ``x (N, H, W, C)``."""
    _, norm, first, _, second = parts
    norm_weight, norm_bias, eps = (None, None, 0.0) if norm is None else (norm.weight, norm.bias, norm.eps)
    linears = first.weight, first.bias, second.weight, second.bias
    # Two axes: inductor would keep tensors of four for the backward pass in the order that it takes for channels-last.
    xs, shortcuts = (None if t is None else t.reshape(-1, t.shape[-1]) for t in (x, shortcut))
    y: Tensor = _Pixelwise.apply(xs, shortcuts, eps, dtype, norm_weight, norm_bias, *linears, scale)
    return y.view(*x.shape[:-1], y.shape[-1])
