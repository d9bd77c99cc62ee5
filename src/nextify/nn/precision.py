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
LEAST_BYTES_GPU = {False: 1 << 23, True: 1 << 25}
"""Of a block's input, from which kernels of our own are called on a GPU, without and with gradients: for less, it waits
for the processor. ConvNeXt-T at 224² in bfloat16, batch 64, with our kernels in all blocks and in none, on an H200
beside a slow processor: the kernels by themselves 4.9 and 7.6 ms in inference, 17.1 and 22.8 in training (one profiled
step), but a training step 48 and 37 ms, since calling them took so long."""


def computed_in(x: Tensor) -> torch.dtype:
    """The type that torch multiplies ``x`` in: autocast's, where it is on for the device, else its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # a compiled graph asks once, when traced
def triton_here() -> bool:
    """Whether kernels for GPUs can be compiled."""
    return _TRITON


_TRITON = importlib.util.find_spec("triton") is not None
