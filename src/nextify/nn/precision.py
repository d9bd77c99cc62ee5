"""In which type an operation computes, and with what this machine computes fast.

The processor is asked on import, because a compiled graph cannot ask.
"""

import importlib.util

import torch
from torch import Tensor

AVX2_ALONE = torch.backends.cpu.get_cpu_capability() == "AVX2"
BFLOAT16_INSTRUCTIONS: bool = torch.cpu._is_avx512_bf16_supported()
MATRIX_UNITS: bool = torch.cpu._is_amx_tile_supported()
"""Intel's AMX."""


def computed_in(x: Tensor) -> torch.dtype:
    """The type that torch multiplies ``x`` in: autocast's, where it is on for the device, else its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # a compiled graph asks once, when traced
def triton_here() -> bool:
    """Whether kernels for GPUs can be compiled."""
    return _TRITON


_TRITON = importlib.util.find_spec("triton") is not None
