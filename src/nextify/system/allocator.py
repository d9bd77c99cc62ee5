"""The C library's allocator, told to keep what is freed.

glibc hands a freed block of some megabytes back to the system at once, and the next one comes with fresh pages that the
system has to clear. A training frees and asks for the same activations in every step. Keeping them made a bf16 step of
a small ConvNeXt on 2 cores about an eighth faster (docs/log.md). Every command does so; no result depends on it. No
torch here.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Freed memory stays with this process from now on. False where the C library is not glibc: nothing happens."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        set_option = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(set_option(option, _MOST) == 1 for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))
