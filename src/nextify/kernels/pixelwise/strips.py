"""What a ConvNeXt block does to each pixel by itself, in inference: the norm, both 1x1 layers with GELU between them,
layer scale and the sum with the shortcut. A CPU does a strip of pixels at a time, a GPU (``gpu.py``) all at once.

The hidden activations of a batch are the largest tensor of a block and would go through memory three times: for the
first product, the activation and the second product. Those of a strip stay in a cache. The products are either our own
(``products.py``), or torch's, with ``strips_cpu.cpp`` doing what stands between and after them in one pass each. The
result differs from the layers' in rounding only, and is rounded no more often.
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
from torch.profiler import record_function

from nextify.kernels.gelu.cpu import FLAGS, normal_distribution
from nextify.kernels.operators import check_numbers, compiled, flop_formula, operator, pointers, seen_as_operators
from nextify.kernels.pixelwise import products
from nextify.kernels.pixelwise.products import SCHEMA, Weights, scratch
from nextify.networks.layers import LayerNorm, Pointwise

STRIP_BYTES = 6 << 20
"""Bytes of hidden activations in a strip."""
FEWEST_PIXELS = 512
"""Fewest pixels in a strip; with fewer, the weights would be read too often."""


def _check(library: ctypes.CDLL) -> None:
    """Raise RuntimeError where either kernel's numbers for a small case of ragged columns are not NumPy's."""
    bias_gelu, scaled_sum = library.nextify_bias_gelu, library.nextify_scaled_sum
    pointer, number, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    bias_gelu.argtypes = [pointer, pointer, flag, number, number, flag]
    scaled_sum.argtypes = [pointer, flag, pointer, flag, pointer, pointer, pointer, flag, number, number, flag]
    bias_gelu.restype = scaled_sum.restype = None
    random = np.random.default_rng(0)
    x, s = random.standard_normal((2, 3, 37), dtype=np.float32)
    bias, scale = random.standard_normal((2, 37), dtype=np.float32)
    z, sums, shifted = x.copy(), np.empty_like(x), x + bias
    to_x, to_s, to_bias, to_scale, to_z, to_sums = (a.ctypes.data for a in (x, s, bias, scale, z, sums))
    bias_gelu(to_z, to_bias, 0, 3, 37, 1)
    scaled_sum(to_s, 0, to_x, 0, to_bias, to_scale, to_sums, 0, 3, 37, 1)
    check_numbers([(z, shifted * normal_distribution(shifted)), (sums, s + scale * shifted)], 1e-5, 5e-6)


_library, ready = compiled("strips", Path(__file__).with_name("strips_cpu.cpp"), _check, FLAGS)


class Parts(NamedTuple):
    """A block's layers."""

    before: Sequence[nn.Module]
    """Layers that look at neighbouring pixels, or are of other kinds."""
    norm: LayerNorm | None
    first: Pointwise
    activation: nn.GELU
    second: Pointwise


def weights_of(parts: Parts, scale: Tensor | None) -> Weights:
    _, norm, first, _, second = parts
    norm_weight, norm_bias, eps = (None, None, 0.0) if norm is None else (norm.weight, norm.bias, norm.eps)
    return Weights(norm_weight, norm_bias, first.weight, first.bias, second.weight, second.bias, scale, eps)


def run(
    x: Tensor, shortcut: Tensor, parts: Parts, scale: Tensor | None, *, dtype: torch.dtype, own: bool = False
) -> Tensor:
    """``shortcut + scale * y``, where ``y`` is what the layers after ``before`` make of ``x (N, H, W, C)``.

    Computed in ``dtype``; ``own``: on a CPU, with matrix products of our own.
    """
    function = torch.ops.nextify.strips if seen_as_operators() else _run
    return function(x, shortcut, *weights_of(parts, scale), dtype, own)


def strip_of(pixels: int, bytes_of_each: int, most_bytes: int | None = None) -> int:
    """Pixels in a strip, chosen so that all strips are of about one size; the last may have fewer."""
    most = max(FEWEST_PIXELS, (most_bytes or STRIP_BYTES) // bytes_of_each)
    return max(1, -(-pixels // max(1, round(pixels / most))))


def result_dtype(dtype: torch.dtype, *others: Tensor | None) -> torch.dtype:
    """The type of a block's output, given the type it computes in, layer scale and the shortcut."""
    for other in others:
        if other is not None:
            dtype = torch.promote_types(dtype, other.dtype)
    return dtype


def _run(x: Tensor, shortcut: Tensor, *others: Any) -> Tensor:
    *values, dtype, own = others
    weights = Weights(*values)
    out = torch.empty(shortcut.shape, dtype=result_dtype(dtype, weights.scale, shortcut), device=x.device)
    xs, shortcuts, outs = (t.contiguous().view(-1, t.shape[-1]) for t in (x, shortcut, out))
    if x.device.type == "cuda":
        from nextify.kernels.pixelwise import gpu

        with torch.no_grad(), torch.autocast("cuda", enabled=False):
            gpu.run(xs, shortcuts, weights, outs, dtype=dtype, keeps=False)
        return out
    strip = strip_of(xs.shape[0], weights.weight1.shape[0] * dtype.itemsize)
    if own:
        with _named("nextify::pixelwise"):
            products.run(xs, shortcuts, weights, outs, strip=strip, dtype=dtype)
    else:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            _run_with_torch(xs, shortcuts, weights, outs, strip, dtype)
    return out


def _named(name: str) -> AbstractContextManager[object]:
    """Report work done without torch to a profiler, which sees only torch's operators by itself."""
    return record_function(name) if torch._C._autograd._profiler_enabled() else nullcontext()


def _run_with_torch(x: Tensor, shortcut: Tensor, weights: Weights, out: Tensor, strip: int, dtype: torch.dtype) -> None:
    """The same as ``products.run``, with torch's matrix products."""
    norm_weight, norm_bias, weight1, bias1, weight2, bias2, scale, eps = weights
    library, threads = _library(), torch.get_num_threads()
    vectors = [products.floats(v) for v in (bias1, bias2, scale)]
    shift1, shift2, factor = pointers(*vectors)
    halves = [int(kind == torch.bfloat16) for kind in (shortcut.dtype, dtype, out.dtype)]
    to_wide, to_narrow = (_cast(w, dtype, name).t() for w, name in ((weight1, "first"), (weight2, "second")))
    hidden = scratch("hidden", (strip, weight1.shape[0]), dtype)
    narrow = scratch("narrow", (strip, out.shape[-1]), dtype)
    for start in range(0, x.shape[0], strip):
        rows = slice(start, start + strip)
        part = x[rows]
        if norm_weight is not None:
            part = F.layer_norm(part, x.shape[-1:], norm_weight, norm_bias, eps)
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


operator("strips", _run, f"(Tensor x, Tensor shortcut, {SCHEMA}, ScalarType dtype, bool own) -> Tensor")


@torch.library.register_fake("nextify::strips")  # type: ignore[untyped-decorator]
def _(x: Tensor, shortcut: Tensor, *others: Any) -> Tensor:
    *_, scale, _eps, dtype, _own = others
    return shortcut.new_empty(shortcut.shape, dtype=result_dtype(dtype, scale, shortcut))


@flop_formula(torch.ops.nextify.strips)
def _flops(x: Any, shortcut: Any, *others: Any, out_shape: Any = None, **_: Any) -> int:
    wide = others[2][0]
    return int(2 * math.prod(x[:-1]) * wide * (x[-1] + shortcut[-1]))
