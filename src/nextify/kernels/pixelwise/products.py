"""What a ConvNeXt block does to each pixel by itself, on a CPU, with matrix products of our own.

A library's product knows nothing of what follows it, and wants its weights in the product's type. Here a single call
into ``pixelwise_cpu.cpp`` reads each weight once, in its own type, straight into the order in which a thread multiplies
by it. Bias, GELU, layer scale and the sum with the shortcut are applied in float32 while a product's sums are still in
a cache, and rounded once. ``training.py`` has the gradients.
"""

import ctypes
import functools
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nextify.kernels.gelu.cpu import FLAGS, normal_distribution
from nextify.kernels.operators import check_numbers, compiled, failed, pointers

LINE = 64
"""Bytes of a cache line."""
_kept = threading.local()


class Weights(NamedTuple):
    """The parameters of a block's norm, its two 1x1 layers and its layer scale; None where the block lacks one."""

    norm_weight: Tensor | None
    norm_bias: Tensor | None
    weight1: Tensor
    bias1: Tensor | None
    weight2: Tensor
    bias2: Tensor | None
    scale: Tensor | None
    eps: float


SCHEMA = "Tensor? norm_weight, Tensor? norm_bias, Tensor weight1, Tensor? bias1, Tensor weight2, Tensor? bias2, "
SCHEMA += "Tensor? scale, float eps"
"""``Weights`` in the schema of an operator."""


def arguments(addresses: Sequence[str], halves: Sequence[str]) -> type[ctypes.Structure]:
    """The C struct that a kernel takes: addresses, sizes, and which of its arrays are bfloat16 rather than float."""

    class Arguments(ctypes.Structure):
        _fields_ = (
            *((name, ctypes.c_void_p) for name in addresses),
            *((name, ctypes.c_int64) for name in ("rows", "columns", "wide", "outputs", "strip")),
            ("eps", ctypes.c_float),
            *((f"{name}_half", ctypes.c_int) for name in halves),
            ("threads", ctypes.c_int),
        )

    return Arguments


_vectors = "norm_weight", "norm_bias", "bias1", "bias2", "scale"
_tensors = "x", "shortcut", "weight1", "weight2"
_Work = arguments((*_tensors, *_vectors, "inputs", "hidden", "panels", "before", "z"), (*_tensors, "inner", "z"))


def small_case() -> SimpleNamespace:
    """Inputs of ragged sizes, and what NumPy makes of them up to GELU, to check compiled kernels against."""
    random = np.random.default_rng(0)
    rows, columns, wide, outputs = 23, 22, 90, 20
    matrices = (rows, columns), (rows, outputs), (wide, columns), (outputs, wide)
    shapes = *matrices, (columns,), (columns,), (wide,), (outputs,), (outputs,)
    drawn = (random.standard_normal(shape, np.float32) for shape in shapes)
    c = SimpleNamespace(**dict(zip((*_tensors, *_vectors), drawn, strict=True)))
    c.sizes = rows, columns, wide, outputs, 15  # pixels in a strip
    centred = c.x - c.x.mean(1, keepdims=True, dtype=np.float64)
    c.deviation = np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6)
    c.unit = centred / c.deviation
    c.normal = c.unit * c.norm_weight + c.norm_bias
    c.before = (c.normal @ c.weight1.T + c.bias1).astype(np.float32)
    c.distribution = normal_distribution(c.before)
    c.hidden = c.before * c.distribution
    return c


def _check(library: ctypes.CDLL) -> None:
    """Raise RuntimeError where the kernel's numbers for a small case are not NumPy's."""
    function, panel = library.nextify_pixelwise, library.nextify_pixelwise_panel
    function.argtypes, function.restype = [ctypes.POINTER(_Work)], ctypes.c_int
    panel.argtypes, panel.restype = [ctypes.c_int64, ctypes.c_int64, ctypes.c_int], ctypes.c_int64
    c = small_case()
    rows, columns, wide, outputs, strip = c.sizes
    inputs, hidden = np.empty((strip, columns), np.float32), np.empty((strip, wide), np.float32)
    before, z = np.empty((rows, wide), np.float32), np.empty((rows, outputs), np.float32)
    panels = np.empty(2 * panel(columns, wide, 0) + LINE, np.uint8)
    panels = panels[-panels.ctypes.data % LINE :]
    arrays = *(getattr(c, name) for name in (*_tensors, *_vectors)), inputs, hidden, panels, before, z
    code = function(_Work(*(a.ctypes.data for a in arrays), *c.sizes, 1e-6, *[0] * 6, 2))
    expected = c.shortcut + c.scale * (c.hidden @ c.weight2.T + c.bias2)
    check_numbers([(z, expected), (before, c.before)], 1e-4, 1e-3, code)


_library, ready = compiled("pixelwise", Path(__file__).with_name("pixelwise_cpu.cpp"), _check, FLAGS)


def _buffer(name: str, size: int) -> Tensor:
    buffer: Tensor | None = getattr(_kept, name, None)
    if buffer is None or buffer.numel() < size:
        with torch.inference_mode(False):  # a tensor made in inference mode could not be written to outside of it
            buffer = torch.empty(size, dtype=torch.uint8, device="cpu")
        setattr(_kept, name, buffer)
    return buffer


def scratch(name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Uninitialized memory of this thread, aligned to 64 bytes and valid until the same name is asked for again.

    Threads keep it: handing it back to the system and getting it again would cost as much as the work done in it.
    """
    size = math.prod(shape) * dtype.itemsize
    return _buffer(name, size)[:size].view(dtype).view(*shape)


def scratch_address(name: str, size: int) -> int:
    """The address of ``size`` bytes of such memory."""
    return _buffer(name, size).data_ptr()


@functools.cache
def _layout(strip: int, columns: int, wide: int, half: bool, threads: int) -> tuple[int, int, int]:
    """Bytes before a strip's hidden activations, bytes before the threads' panels, and bytes in all."""
    panel = int(_library().nextify_pixelwise_panel(columns, wide, half))
    parts = [-(-count * (2 if half else 4) // LINE) * LINE for count in (strip * columns, strip * wide)]
    return parts[0], sum(parts), sum(parts) + threads * panel


def floats(vector: Tensor | None) -> Tensor | None:
    """The vector as kernels take it: contiguous, in float32."""
    if vector is None or (vector.dtype is torch.float32 and vector.is_contiguous()):
        return vector
    return vector.float().contiguous()


def run(
    x: Tensor,
    shortcut: Tensor | None,
    weights: Weights,
    out: Tensor,
    *,
    strip: int,
    dtype: torch.dtype,
    before: Tensor | None = None,
) -> None:
    """``out = shortcut + scale * (W2 gelu(W1 norm(x) + b1) + b2)``, all ``(pixels, channels)`` and contiguous.

    Computed in ``dtype``, ``strip`` pixels at a time. GELU's input is written to ``before (pixels, wide)``, a tensor of
    that type, if there is one. Raises ``ValueError`` where the shapes do not fit each other."""
    norm_weight, norm_bias, weight1, bias1, weight2, bias2, scale, eps = weights
    (wide, columns), outputs = weight1.shape, out.shape[1]
    threads, half = torch.get_num_threads(), dtype is torch.bfloat16
    to_hidden, to_panels, size = _layout(strip, columns, wide, half, threads)
    memory = scratch_address("pixelwise", size)
    vectors = [floats(v) for v in (norm_weight, norm_bias, bias1, bias2, scale)]
    sizes = columns, columns, wide, outputs, outputs
    fit = all(v is None or v.numel() == size for v, size in zip(vectors, sizes, strict=True))
    if not fit or columns != x.shape[1] or weight2.shape != (outputs, wide):
        raise ValueError(
            f"weights of {tuple(weight1.shape)} and {tuple(weight2.shape)}, their biases, norm and layer scale "
            f"do not fit each other and {x.shape[1]} channels"
        )
    tensors = x, shortcut, weight1.contiguous(), weight2.contiguous()
    work = _Work(
        *pointers(*tensors, *vectors),
        *(memory, memory + to_hidden, memory + to_panels, *pointers(before, out)),
        *(x.shape[0], columns, wide, outputs, strip, eps),
        *(t is not None and t.dtype is torch.bfloat16 for t in tensors),
        *(half, out.dtype is torch.bfloat16, threads),
    )
    if code := _library().nextify_pixelwise(ctypes.byref(work)):
        raise failed("pixelwise", code)
