"""In which type an operation computes, and what this processor computes fast.

The processor is asked on import, because a compiled graph cannot ask.
"""

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
