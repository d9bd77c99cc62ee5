"""NumPy files as images: ``.npy``, and ``.npz`` with one array, of uint8, uint16 or float32.

Two axes are height and width of one channel. Of three axes the last one holds the channels if it has the wanted number
of entries, else the first one; where no number is wanted, the shorter of the two does, and the last one if both are
equal. Nothing in a file is unpickled, and its size is checked before its values are read.
"""

import io
import math
import zipfile
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nextify.data.decode import UnreadableImage

Values = npt.NDArray[Any]
NUMPY = frozenset({".npy", ".npz"})
"""Extensions of such files."""
LARGEST = 2**30
"""Bytes of an array."""
_MAGIC, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
_KINDS = {("u", 1), ("u", 2), ("f", 4)}


def is_array(data: bytes) -> bool:
    """Whether a file is one of NumPy's."""
    return data.startswith((_MAGIC, _ZIP))


def read_array(data: bytes, channels: int | None = None) -> Values:
    """``(H, W, C)`` values of a file, in its own type and the machine's byte order. ``channels``: how many are wanted.
    Raises ``UnreadableImage`` for a file that is damaged, too large, of another type or shape, or with values that are
    not finite."""
    try:
        values = _of_zip(data) if data.startswith(_ZIP) else _of_file(io.BytesIO(data), len(data))
    except UnreadableImage:
        raise
    except Exception as error:  # of a damaged file, NumPy and zipfile raise almost anything
        raise UnreadableImage(f"a damaged NumPy file ({str(error).partition(chr(10))[0]})") from None
    if (values.dtype.kind, values.dtype.itemsize) not in _KINDS:
        raise UnreadableImage(f"a NumPy file of {values.dtype}: store uint8, uint16 or float32")
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.ndim not in (2, 3) or not values.size:
        raise UnreadableImage(
            f"a NumPy file of shape {values.shape}: store (height, width) or (height, width, channels)"
        )
    if values.ndim == 2:
        values = values[..., None]
    elif channels is None:
        values = values if values.shape[2] <= values.shape[0] else np.moveaxis(values, 0, 2)
    elif values.shape[2] != channels:
        if values.shape[0] != channels:
            raise UnreadableImage(
                f"a NumPy file of shape {values.shape}, but --channels {channels} asks for {channels}"
            )
        values = np.moveaxis(values, 0, 2)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UnreadableImage("NaN or infinite values: replace them with numbers")
    return values


def _of_zip(data: bytes) -> Values:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if len(members) != 1:
            raise UnreadableImage(f"a NumPy archive of {len(members)} arrays: store only one")
        if members[0].file_size > LARGEST:
            raise UnreadableImage(f"an array of more than {LARGEST // 2**20:,} MiB")
        with archive.open(members[0]) as file:
            content = file.read(LARGEST + 1)
    return _of_file(io.BytesIO(content), len(content))


def _of_file(file: IO[bytes], length: int) -> Values:
    """The array of a ``.npy`` file of ``length`` bytes, which must hold as many values as its header says."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise UnreadableImage(f"a NumPy file of version {version[0]}.{version[1]}")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read_header(file)
    if kind.hasobject:
        raise UnreadableImage("a NumPy file of Python objects: store uint8, uint16 or float32")
    if math.prod(shape) * kind.itemsize != length - file.tell():
        raise UnreadableImage("truncated")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)
