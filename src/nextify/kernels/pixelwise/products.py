"""What a ConvNeXt block does to each pixel by itself, on a CPU, with matrix products of our own.

A library's product knows nothing of what follows it, and needs its weights in memory in the product's type. Here, in
one call of ``pixelwise_cpu.cpp``, each weight is read once, in its own type, straight into the order in which a thread
multiplies by it; bias, GELU, layer scale and the sum with the shortcut are applied in float32 while a product's sums
are still in a cache, and rounded once. ``training.py`` has the gradients.
"""

import ctypes
import functools
import math
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nextify.kernels.gelu.cpu import FLAGS, normal_distribution
from nextify.system import native

_kept = threading.local()


def _buffer(name: str, size: int) -> Tensor:
    buffer: Tensor | None = getattr(_kept, name, None)
    if buffer is None or buffer.numel() < size:
        with torch.inference_mode(False):  # a tensor made in inference mode could not be written to outside of it
            buffer = torch.empty(size, dtype=torch.uint8, device="cpu")
        setattr(_kept, name, buffer)
    return buffer


def scratch(name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Uninitialized memory of this thread at a multiple of 64 bytes, valid until the same name is asked for again.

    Threads keep it: returning it to the system and getting it again would cost as much as the work in it.
    """
    size = math.prod(shape) * dtype.itemsize
    return _buffer(name, size)[:size].view(dtype).view(*shape)


def scratch_address(name: str, size: int) -> int:
    """The address of ``size`` bytes of such memory."""
    return _buffer(name, size).data_ptr()


LINE = 64
"""Bytes of a cache line."""
_SOURCE = Path(__file__).with_name("pixelwise_cpu.cpp")


class _Work(ctypes.Structure):
    """``Work`` of pixelwise_cpu.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "shortcut", "weight1", "weight2")),
        *((name, ctypes.c_void_p) for name in ("norm_weight", "norm_bias", "bias1", "bias2", "scale")),
        *((name, ctypes.c_void_p) for name in ("inputs", "hidden", "panels", "before", "z")),
        *((name, ctypes.c_int64) for name in ("rows", "columns", "wide", "outputs", "strip")),
        ("eps", ctypes.c_float),
        *((f"{name}_half", ctypes.c_int) for name in ("x", "shortcut", "weight1", "weight2", "inner", "z")),
        ("threads", ctypes.c_int),
    )


def _build() -> native.Build:
    return native.build("pixelwise", _SOURCE, _check, FLAGS)


def _check(library: ctypes.CDLL) -> None:
    """Compare with NumPy on a small case with ragged sizes; raise RuntimeError where they differ."""
    function, panel = library.nextify_pixelwise, library.nextify_pixelwise_panel
    function.argtypes, function.restype = [ctypes.POINTER(_Work)], ctypes.c_int
    panel.argtypes, panel.restype = [ctypes.c_int64, ctypes.c_int64, ctypes.c_int], ctypes.c_int64
    random = np.random.default_rng(0)
    rows, columns, wide, outputs, strip = 23, 22, 90, 20, 15

    def draw(*shape: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        return random.standard_normal(shape, dtype=np.float32)

    x, shortcut, weight1, weight2 = draw(rows, columns), draw(rows, outputs), draw(wide, columns), draw(outputs, wide)
    norm_weight, norm_bias, bias1, bias2, scale = (draw(n) for n in (columns, columns, wide, outputs, outputs))
    inputs, hidden, z = np.empty((strip, columns), np.float32), np.empty((strip, wide), np.float32), draw(rows, outputs)
    panels = np.empty(2 * panel(columns, wide, 0) + LINE, np.uint8)
    panels = panels[-panels.ctypes.data % LINE :]
    before = np.empty((rows, wide), np.float32)
    given = (x, shortcut, weight1, weight2, norm_weight, norm_bias, bias1, bias2, scale)
    arrays = (*given, inputs, hidden, panels, before, z)
    code = function(_Work(*(a.ctypes.data for a in arrays), rows, columns, wide, outputs, strip, 1e-6, *[0] * 6, 2))
    centred = x - x.mean(1, keepdims=True, dtype=np.float64)
    normal = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6) * norm_weight + norm_bias
    inside = (normal @ weight1.T + bias1).astype(np.float32)
    expected = shortcut + scale * ((inside * normal_distribution(inside)) @ weight2.T + bias2)
    pairs = ((z, expected), (before, inside))
    if code or not all(np.allclose(got, exact, rtol=1e-4, atol=1e-3) for got, exact in pairs):
        raise RuntimeError("the compiled kernel does not agree with NumPy")


def ready() -> bool:
    """Whether the compiled kernel can be used; builds it when asked first."""
    return _build().usable


@functools.cache
def _layout(strip: int, columns: int, wide: int, half: bool, threads: int) -> tuple[int, int, int]:
    """Bytes before a strip's hidden activations, before the threads' panels, and in all."""
    size = 2 if half else 4
    panel = int(_build().library.nextify_pixelwise_panel(columns, wide, half))
    parts = [-(-count * size // LINE) * LINE for count in (strip * columns, strip * wide)]
    return parts[0], sum(parts), sum(parts) + threads * panel


def floats(vector: Tensor | None) -> Tensor | None:
    """The vector as kernels take it: contiguous, in float32."""
    if vector is None or (vector.dtype is torch.float32 and vector.is_contiguous()):
        return vector
    return vector.float().contiguous()


def run(
    x: Tensor,
    shortcut: Tensor | None,
    norm: tuple[Tensor | None, Tensor | None, float],
    first: tuple[Tensor, Tensor | None],
    second: tuple[Tensor, Tensor | None],
    scale: Tensor | None,
    out: Tensor,
    *,
    strip: int,
    dtype: torch.dtype,
    before: Tensor | None = None,
) -> None:
    """``out = shortcut + scale * (W2 gelu(W1 norm(x) + b1) + b2)``, all ``(pixels, channels)`` and contiguous.

    Computed in ``dtype``, ``strip`` pixels at a time. If ``before (pixels, wide)`` of that type is given, the input of
    GELU is written to it.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    (wide, columns), threads, half = first[0].shape, torch.get_num_threads(), dtype is torch.bfloat16
    to_hidden, to_panels, size = _layout(strip, columns, wide, half, threads)
    memory = scratch_address("pixelwise", size)
    vectors = [floats(v) for v in (norm[0], norm[1], first[1], second[1], scale)]
    sizes = columns, columns, wide, out.shape[1], out.shape[1]
    fit = all(v is None or v.numel() == size for v, size in zip(vectors, sizes, strict=True))
    if not fit or columns != x.shape[1] or second[0].shape != (out.shape[1], wide):
        raise ValueError(
            f"weights of {tuple(first[0].shape)} and {tuple(second[0].shape)}, their biases, norm and layer scale "
            f"do not fit each other and {x.shape[1]} channels"
        )
    weights = [first[0].contiguous(), second[0].contiguous()]
    halves = [t is not None and t.dtype is torch.bfloat16 for t in (x, shortcut, *weights)]
    work = _Work(
        *(None if t is None else t.data_ptr() for t in (x, shortcut, *weights, *vectors)),
        *(memory, memory + to_hidden, memory + to_panels, None if before is None else before.data_ptr()),
        *(out.data_ptr(), x.shape[0], columns, wide, out.shape[1], strip, norm[2]),
        *(*halves, half, out.dtype is torch.bfloat16, threads),
    )
    if code := _build().library.nextify_pixelwise(ctypes.byref(work)):
        raise RuntimeError(f"the pixelwise kernel failed with code {code}; --kernels off goes without it")
