"""Shears, translations and rotations of uint8 arrays: Pillow's bicubic transform bit for bit, compiled for this CPU.

Our wheels bring ``affine.cpp`` compiled; elsewhere it is built on first use. Where that fails, Pillow does the work.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from nextify.data.decode import Pixels
from nextify.system import native

Colour = tuple[int, ...]


def available() -> bool:
    """Whether the compiled transform can be used here. The first call builds it."""
    return native.image_kernels() != "off" and _build().usable


def affine(pixels: Pixels, matrix: Sequence[float], fill: Colour) -> Pixels:
    """``(H, W, 3)`` of the same size, bicubic; needs :func:`available`. By the ``matrix`` ``a, b, c, d, e, f``, the
    pixel at ``(x, y)`` comes from ``(a x + b y + c, d x + e y + f)``; what lies outside has the colour ``fill``."""
    out = np.empty_like(pixels)
    _run(_build().library, np.ascontiguousarray(pixels), out, matrix, fill)
    return out


def _run(library: ctypes.CDLL, pixels: Pixels, out: Pixels, matrix: Sequence[float], fill: Colour) -> None:
    height, width, _ = pixels.shape
    numbers, colour = (ctypes.c_double * 6)(*matrix), (ctypes.c_uint8 * 3)(*fill)
    library.nextify_affine(
        *(ctypes.c_void_p(pixels.ctypes.data), ctypes.c_void_p(out.ctypes.data)),
        *(ctypes.c_int64(height), ctypes.c_int64(width), numbers, colour),
    )


def _check(library: ctypes.CDLL) -> None:
    """Against Pillow on one rotation, a shear and a translation; raises RuntimeError where they differ."""
    library.nextify_affine.restype = None
    pixels = np.random.default_rng(0).integers(0, 256, (21, 30, 3), dtype=np.uint8)
    for matrix in ((0.9, 0.2, -1.0, -0.2, 0.9, 2.0), (1, 0.3, 0, 0, 1, 0), (1, 0, 0, 0, 1, -4.3)):
        out = np.empty_like(pixels)
        _run(library, pixels, out, matrix, (1, 2, 3))
        image = Image.fromarray(pixels)
        bicubic, affine = Image.Resampling.BICUBIC, Image.Transform.AFFINE
        expected = image.transform(image.size, affine, matrix, bicubic, fillcolor=(1, 2, 3))
        if not np.array_equal(out, np.asarray(expected)):
            raise RuntimeError("the compiled transform does not agree with Pillow")


# Fused multiply-adds round otherwise than Pillow's instructions.
_FLAGS = ("-ffp-contract=off", "-fno-trapping-math")
_build = native.Library("affine", Path(__file__).with_name("affine.cpp"), _check, _FLAGS).build
