"""What a ConvNeXt block does to each pixel by itself, in inference, on a CPU for a strip of pixels at a time. That is
the norm, both 1x1 layers and the activation between them, layer scale, and the sum with the shortcut. On a GPU it is
``pixelwise_gpu.py``, without strips.

The hidden activations of a batch are the largest tensor of a block, and would be written and read in memory three times
over: the product with its bias, the activation, the next product. Those of a strip stay in a cache. Where it pays, all
of it is one kernel with matrix products of our own (``pixelwise.py``); elsewhere the products are torch's, and what
stands between and after them is done in one pass each by ``strips_cpu.cpp``. Both are compiled on first use; where that
cannot be done, blocks run layer by layer. The result differs from theirs in rounding only, and is rounded no more
often.
"""

import ctypes
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.profiler import record_function
from torch.utils.flop_counter import register_flop_formula

from nextify.kernels import gpu
from nextify.kernels.gelu.cpu import FLAGS, GELU, normal_distribution
from nextify.kernels.operators import operator
from nextify.kernels.pixelwise import inference as pixelwise
from nextify.kernels.pixelwise.scratch import scratch
from nextify.kernels.precision import computed_in
from nextify.kernels.tracing import for_elsewhere, for_inference, seen_as_operators
from nextify.networks.layers import LayerNorm, Pointwise
from nextify.system import native as compiled

STRIP_BYTES = 6 << 20
"""Of hidden activations in a strip."""
LEAST_BYTES, LEAST_BYTES_COMPILED = 1 << 22, 1 << 23
"""Of hidden activations in all: fewer stay in a cache as they are. A compiled graph does well with more of them."""
LEAST_BYTES_OWN = 1 << 14
"""The same where the matrix products are our own."""
FEWEST_PIXELS = 512
"""In a strip: fewer would read the weights too often."""
_SOURCE = Path(__file__).with_name("strips_cpu.cpp")


def _build() -> compiled.Build:
    return compiled.build("strips", _SOURCE, _check, FLAGS)


def _check(library: ctypes.CDLL) -> None:
    """Both kernels against NumPy on a small case with ragged columns; raises RuntimeError where they differ."""
    bias_gelu, scaled_sum = library.nextify_bias_gelu, library.nextify_scaled_sum
    pointer, number, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    bias_gelu.argtypes = [pointer, pointer, flag, number, number, flag]
    scaled_sum.argtypes = [pointer, flag, pointer, flag, pointer, pointer, pointer, flag, number, number, flag]
    bias_gelu.restype = scaled_sum.restype = None
    random = np.random.default_rng(0)
    x, s = random.standard_normal((2, 3, 37), dtype=np.float32)
    bias, scale = random.standard_normal((2, 37), dtype=np.float32)
    z, sums, shifted = x.copy(), np.empty_like(x), x + bias
    bias_gelu(z.ctypes.data, bias.ctypes.data, 0, 3, 37, 1)
    scaled_sum(
        *(s.ctypes.data, 0, x.ctypes.data, 0, bias.ctypes.data, scale.ctypes.data, sums.ctypes.data, 0, 3, 37, 1)
    )
    pairs = ((z, shifted * normal_distribution(shifted)), (sums, s + scale * shifted))
    if not all(np.allclose(got, expected, rtol=1e-5, atol=5e-6) for got, expected in pairs):
        raise RuntimeError("the compiled kernel does not agree with NumPy")


class Layers(NamedTuple):
    """A block's layers."""

    before: Sequence[nn.Module]
    """Those that see neighbouring pixels, or are of other kinds."""
    norm: LayerNorm | None
    first: Pointwise
    activation: GELU
    second: Pointwise


def split(layers: Sequence[nn.Module]) -> Layers | None:
    """A block's layers as they can be run; None where the last are of other kinds. Subclasses are other kinds."""
    kinds = tuple(type(layer) for layer in layers)
    if kinds[-3:] != (Pointwise, GELU, Pointwise):
        return None
    at = -4 if kinds[-4:-3] == (LayerNorm,) else -3
    found = Layers(layers[:at], layers[-4] if at == -4 else None, *layers[-3:])  # type: ignore[arg-type]
    return found if found.first.stride == found.second.stride == 1 else None


DTYPES = (torch.float32, torch.bfloat16)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # a compiled graph asks once, when traced
def _ready() -> bool:
    return _build().usable


def ours(dtype: torch.dtype, *widths: int) -> bool:
    """Whether products of these widths are our own: those of bfloat16 take numbers in pairs."""
    return (dtype == torch.float32 or not any(width % 2 for width in widths)) and pixelwise.pays()


def applies(x: Tensor, layers: Layers, block: nn.Module) -> bool:
    """Whether the block runs them so for its input ``x``: in inference, on a CPU or a GPU, and where nobody looks at a
    layer by itself. Kernels are built only where nothing else speaks against it."""
    if x.device.type not in ("cpu", "cuda") or for_elsewhere() or compiled.mode() is False:
        return False
    dtype = computed_in(x)
    if dtype not in DTYPES or x.dtype not in DTYPES:
        return False
    if torch.compiler.is_compiling():
        if not for_inference():
            return False
    elif torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in block.parameters())):
        return False
    if not unwatched(x, layers):
        return False
    if x.device.type == "cuda":
        return on_gpu(x)
    wide = layers.second.in_features
    own = ours(dtype, x.shape[-1], wide)
    least = LEAST_BYTES_COMPILED if torch.compiler.is_compiling() else LEAST_BYTES
    if x.numel() // x.shape[-1] * wide * dtype.itemsize < (LEAST_BYTES_OWN if own else least):
        return False
    return own or _ready()


def on_gpu(x: Tensor) -> bool:
    """Whether our kernels for GPUs do it: not in a compiled graph, where inductor makes such kernels itself, and by
    themselves only for as much as keeps a GPU busy longer than their calls take."""
    least = 1 if compiled.mode() is True else gpu.LEAST_BYTES[torch.is_grad_enabled()]
    return x.numel() * computed_in(x).itemsize >= least and not torch.compiler.is_compiling() and gpu.ready()


def unwatched(x: Tensor, layers: Layers) -> bool:
    """Whether nobody looks at a layer by itself, and the tensors are plain ones."""
    modules = [layer for layer in layers[1:] if layer is not None]
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, name) for module in modules for name in hooks):
        return False
    if torch.compiler.is_compiling():
        return True
    tensors = [x, *(p for module in modules for p in module._parameters.values() if p is not None)]
    plain = all(type(t) in (Tensor, nn.Parameter) for t in tensors)
    everywhere: bool = _has_any_global_hook()  # type: ignore[no-untyped-call]
    return plain and not everywhere


def run(x: Tensor, shortcut: Tensor, layers: Layers, scale: Tensor | None) -> Tensor:
    """``shortcut + scale * y``, ``y`` what the layers behind ``before`` make of ``x (N, H, W, C)``."""
    _, norm, first, _, second = layers
    norm_weight, norm_bias, eps = (None, None, 0.0) if norm is None else (norm.weight, norm.bias, norm.eps)
    function = torch.ops.nextify.strips if seen_as_operators() else _run
    y: Tensor = function(
        *(x, shortcut, norm_weight, norm_bias, eps, first.weight, first.bias),
        *(second.weight, second.bias, scale, computed_in(x)),
    )
    return y


def strip_of(pixels: int, bytes_of_each: int, most_bytes: int | None = None) -> int:
    """Pixels in a strip, the last of which may have fewer; all of about one size."""
    most = max(FEWEST_PIXELS, (most_bytes or STRIP_BYTES) // bytes_of_each)
    return max(1, -(-pixels // max(1, round(pixels / most))))


def result_dtype(dtype: torch.dtype, *others: Tensor | None) -> torch.dtype:
    """Of a block that computes in ``dtype``, from layer scale and the shortcut."""
    for other in others:
        if other is not None:
            dtype = torch.promote_types(dtype, other.dtype)
    return dtype


def _run(
    x: Tensor,
    shortcut: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    scale: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    out = torch.empty(shortcut.shape, dtype=result_dtype(dtype, scale, shortcut), device=x.device)
    channels, wide = x.shape[-1], weight1.shape[0]
    xs, shortcuts, outs = (t.contiguous().view(-1, t.shape[-1]) for t in (x, shortcut, out))
    norm, first, second = (norm_weight, norm_bias, eps), (weight1, bias1), (weight2, bias2)
    if x.device.type == "cuda":
        from nextify.kernels.pixelwise import gpu as pixelwise_gpu

        with torch.no_grad(), torch.autocast("cuda", enabled=False):
            pixelwise_gpu.run(xs, shortcuts, norm, first, second, scale, outs, dtype=dtype, keeps=False)
        return out
    strip = strip_of(xs.shape[0], wide * dtype.itemsize)
    if ours(dtype, channels, wide):
        with _named("nextify::pixelwise"):
            pixelwise.run(xs, shortcuts, norm, first, second, scale, outs, strip=strip, dtype=dtype)
    else:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            _run_with_torch(xs, shortcuts, norm, first, second, scale, outs, strip, dtype)
    return out


def _named(name: str) -> AbstractContextManager[object]:
    """A profiler sees torch's operators by itself; what is called without torch has to tell it."""
    return record_function(name) if torch._C._autograd._profiler_enabled() else nullcontext()


def _run_with_torch(
    x: Tensor,
    shortcut: Tensor,
    norm: tuple[Tensor | None, Tensor | None, float],
    first: tuple[Tensor, Tensor | None],
    second: tuple[Tensor, Tensor | None],
    scale: Tensor | None,
    out: Tensor,
    strip: int,
    dtype: torch.dtype,
) -> None:
    """As ``pixelwise.run``, with torch's matrix products."""
    library, threads, wide = _build().library, torch.get_num_threads(), first[0].shape[0]
    vectors = [pixelwise.floats(v) for v in (first[1], second[1], scale)]
    shift1, shift2, factor = (None if v is None else v.data_ptr() for v in vectors)
    halves = [int(kind == torch.bfloat16) for kind in (shortcut.dtype, dtype, out.dtype)]
    to_wide, to_narrow = (_cast(w, dtype, name).t() for w, name in ((first[0], "first"), (second[0], "second")))
    hidden = scratch("hidden", (strip, wide), dtype)
    narrow = scratch("narrow", (strip, out.shape[-1]), dtype)
    for start in range(0, x.shape[0], strip):
        rows = slice(start, start + strip)
        part = x[rows]
        if norm[0] is not None:
            part = F.layer_norm(part, x.shape[-1:], *norm)
        inside = torch.mm(part.to(dtype), to_wide, out=hidden[: part.shape[0]])
        with _named("nextify::bias_gelu"):
            library.nextify_bias_gelu(inside.data_ptr(), shift1, halves[1], *inside.shape, threads)
        y = torch.mm(inside, to_narrow, out=narrow[: part.shape[0]])
        with _named("nextify::scaled_sum"):
            library.nextify_scaled_sum(
                *(shortcut[rows].data_ptr(), halves[0], y.data_ptr(), halves[1], shift2, factor),
                *(out[rows].data_ptr(), halves[2], *y.shape, threads),
            )


def _cast(weight: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    return weight if weight.dtype == dtype else scratch(name, weight.shape, dtype).copy_(weight)


operator("strips", _run)


@torch.library.register_fake("nextify::strips")  # type: ignore[untyped-decorator]
def _(x: Tensor, shortcut: Tensor, *others: Any) -> Tensor:
    *_, scale, dtype = others
    return shortcut.new_empty(shortcut.shape, dtype=result_dtype(dtype, scale, shortcut))


@register_flop_formula(torch.ops.nextify.strips)
def _flops(x: Any, shortcut: Any, *others: Any, out_shape: Any = None, **_: Any) -> int:
    wide = others[3][0]
    return int(2 * math.prod(x[:-1]) * wide * (x[-1] + shortcut[-1]))
