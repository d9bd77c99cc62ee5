"""A part of a JPEG by libjpeg-turbo's own functions for it, which no Python package offers.

``jpeg.cpp`` is built on first use where the library's header is installed (Debian and Ubuntu: ``libjpeg-dev``; the
official Python images have it, the slim ones not), and used where its pixels are Pillow's; elsewhere whole images are
decoded.
"""

from __future__ import annotations

import ctypes
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from nextify.system import native as compiled

if TYPE_CHECKING:  # decode.py calls this file
    from nextify.data.decode import Box, Pixels

_SOURCE = Path(__file__).with_name("jpeg.cpp")


def available() -> bool:
    """Whether parts can be decoded here. The first call builds what does it."""
    return compiled.mode() is not False and _build().usable


def decode_part(data: bytes, shrink: int, part: Box) -> Pixels | None:
    """``(height, width, 3)`` RGB of a gray or colour JPEG at a ``shrink``-th (1, 2, 4, 8) of its size, in whose
    pixels ``part`` is given; needs :func:`available`. None where the data are damaged as far down as the
    part reaches."""
    return _run(_build().library, data, shrink, part)


def _build() -> compiled.Build:
    return compiled.build("jpeg", _SOURCE, _check, libraries=("jpeg",))


def _run(library: ctypes.CDLL, data: bytes, shrink: int, part: Box) -> Pixels | None:
    out = np.empty((*part[2:], 3), np.uint8)
    code = library.nextify_jpeg_part(
        *(data, ctypes.c_uint64(len(data)), ctypes.c_int(shrink), *map(ctypes.c_int64, part)),
        ctypes.c_void_p(out.ctypes.data),
    )
    return None if code else out


def _check(library: ctypes.CDLL) -> None:
    """Against Pillow on a colour and a gray image at each size; raises RuntimeError where they differ."""
    noise = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((203, 150))
    for mode, sampling in (("RGB", 2), ("RGB", 1), ("RGB", 0), ("L", 0)):
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, "jpeg", quality=90, subsampling=sampling)
        for shrink in (1, 2, 4, 8):
            drafted = Image.open(io.BytesIO(buffer.getvalue()))
            drafted.draft(mode, (203 // shrink, 150 // shrink))
            whole = np.asarray(drafted.convert("RGB"))
            height, width = whole.shape[0] // 3, whole.shape[1] // 2
            for top, left in ((0, 0), (whole.shape[0] // 2, whole.shape[1] // 3), (whole.shape[0] - height, 0)):
                found = _run(library, buffer.getvalue(), shrink, (top, left, height, width))
                if found is None or not np.array_equal(found, whole[top : top + height, left : left + width]):
                    raise RuntimeError("libjpeg's pixels are not Pillow's")
