"""Memory that a thread keeps for its kernels: what is given back to the system and got again costs as much as the work
in it."""

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

_kept = threading.local()


def _buffer(name: str, size: int) -> Tensor:
    buffer: Tensor | None = getattr(_kept, name, None)
    if buffer is None or buffer.numel() < size:
        with torch.inference_mode(False):  # a tensor made in inference mode could not be written to outside of it
            buffer = torch.empty(size, dtype=torch.uint8, device="cpu")
        setattr(_kept, name, buffer)
    return buffer


def scratch(name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Uninitialized, at a multiple of 64 bytes, this thread's own, and another's for each name until it is asked for
    again."""
    size = math.prod(shape) * dtype.itemsize
    return _buffer(name, size)[:size].view(dtype).view(*shape)


def scratch_address(name: str, size: int) -> int:
    """The same for so many bytes, by their address."""
    return _buffer(name, size).data_ptr()
