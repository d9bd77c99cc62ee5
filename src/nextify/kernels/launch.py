"""Launch Triton kernels with less work on the processor.

At every call Triton inspects every argument to find the kernel compiled for its kind, and at small batches a network
waits for such calls rather than for kernels. Here only what matters is inspected (types, alignment, whether a number
is 1 or a multiple of 16) and the kernel that Triton chose for it the first time is called. Imports triton.
"""

# mypy: disable-error-code="import-untyped, import-not-found"

from typing import Any

import torch
import triton
from torch import Tensor

_found: dict[tuple[Any, ...], Any] = {}


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, constants: tuple[int, ...], warps: int = 4) -> None:
    """Run `kernel[grid](*arguments, *constants)` on the device of the first argument, a tensor; the others are tensors
    and numbers. `constants`, the last arguments, are compiled into the kernel. Grids have up to three axes."""
    index = arguments[0].get_device()
    if index >= 0 and index != torch.cuda.current_device():
        with torch.cuda.device(index):
            return launch(kernel, grid, *arguments, constants=constants, warps=warps)
    kinds: list[Any] = [id(kernel), index, constants, warps]
    for a in arguments:
        if isinstance(a, Tensor):
            kinds += a.dtype, a.data_ptr() % 16
        else:
            kinds.append(a if isinstance(a, float) or a < 2 else (a % 16 == 0, a > 2**31 - 1))
    key = tuple(kinds)
    found = _found.get(key)
    if found is None:
        found = kernel[grid](*arguments, *constants, num_warps=warps)
        if isinstance(found, triton.compiler.CompiledKernel):  # the interpreter has none
            _found[key] = found
        return None
    found[(*grid, 1, 1)[:3]](*arguments, *constants)
    return None
