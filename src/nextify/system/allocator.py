"""Make the C library's allocator keep freed memory, and give it back between trainings.

glibc returns freed blocks of some megabytes to the system at once, and the system must clear the pages of the next one.
A training step frees and allocates the same activations each time, so keeping them is faster (docs/log.md). Every
command does so; no result depends on it.
"""

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep freed memory in this process from now on; return False, without effect, unless the C library is glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        set_option = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(set_option(option, _MOST) == 1 for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))


def give_back_freed_memory() -> None:
    """Give freed memory back to the system and measure this process's peak from now on, so that the next training has a
    peak of its own. Only Linux can, and the first only with glibc."""
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5)
