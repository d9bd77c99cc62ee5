"""GELU and its gradient, with a kernel of our own on CPUs.

The function is the exact one, `x Φ(x)`, like torch's. torch calls an error function; `gelu_cpu.cpp` computes a rational
function that is as accurate as float32 allows, about as fast as memory delivers. They differ by rounding only (at most
2e-6 for |x| <= 12).
"""

import ctypes
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from nextify.kernels.operators import check_numbers, compiled, pointers

LIMIT = 5.6
NUMERATOR = (2.214555472e-8, 6.356495760e-6, 1.738466526e-4, 4.707233980e-3, 3.437571228e-2, 3.989422321e-1)
DENOMINATOR = (1.180216466e-6, 7.510057912e-5, 1.912954845e-3, 2.893985994e-2, 2.528327596e-1, 1.0)
"""Phi(x) - 1/2 = x P(x²) / Q(x²) for |x| <= LIMIT, the highest power first: a minimax fit of our own, whose error of
1e-8 is below float32's rounding. Beyond, it is ±1/2."""


FLAGS = (
    f"-DLIMIT={LIMIT}f",
    "-DNUMERATOR=" + ",".join(f"{c}f" for c in NUMERATOR),
    "-DDENOMINATOR=" + ",".join(f"{c}f" for c in DENOMINATOR),
)
"""Compiler flags for sources that include ``gelu.h``."""


def normal_distribution(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Phi of each element, to check kernels against."""
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x.ravel().tolist()]).reshape(x.shape)


def _check(library: ctypes.CDLL) -> None:
    value, gradient = library.nextify_gelu, library.nextify_gelu_grad
    value.argtypes = [*[ctypes.c_void_p] * 2, ctypes.c_int, ctypes.c_int64, ctypes.c_int]
    gradient.argtypes = [*[ctypes.c_void_p] * 3, ctypes.c_int, ctypes.c_int64, ctypes.c_int]
    value.restype = gradient.restype = None
    x = np.linspace(-12, 12, 203, dtype=np.float32)
    grad, out, grad_out = np.full_like(x, 2), np.empty_like(x), np.empty_like(x)
    value(x.ctypes.data, out.ctypes.data, 0, x.size, 2)
    gradient(x.ctypes.data, grad.ctypes.data, grad_out.ctypes.data, 0, x.size, 2)
    phi = normal_distribution(x)
    density = np.exp(-(x.astype(np.float64) ** 2) / 2) / math.sqrt(2 * math.pi)
    check_numbers([(out, x * phi), (grad_out, 2 * (phi + x * density))], 1e-5, 5e-6)


_library, ready = compiled("gelu", Path(__file__).with_name("gelu_cpu.cpp"), _check, FLAGS)


def _run(name: str, x: Tensor, *others: Tensor) -> Tensor | None:
    """What a function of the library makes of contiguous tensors; None where it does not take them."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16) or not ready():
        return None
    out = torch.empty_like(x)
    function = getattr(_library(), name)
    function(*pointers(x, *others, out), x.dtype == torch.bfloat16, x.numel(), torch.get_num_threads())
    return out


@torch.library.custom_op("nextify::gelu", mutates_args=())
def _value_op(x: Tensor) -> Tensor:
    x = x.contiguous()
    out = _run("nextify_gelu", x)
    return F.gelu(x) if out is None else out


@torch.library.custom_op("nextify::gelu_grad", mutates_args=())
def _gradient_op(grad: Tensor, x: Tensor) -> Tensor:
    grad, x = grad.contiguous(), x.contiguous()
    out = _run("nextify_gelu_grad", x, grad)
    return torch.ops.aten.gelu_backward(grad, x) if out is None else out


@torch.library.register_fake("nextify::gelu")  # type: ignore[untyped-decorator]
@torch.library.register_fake("nextify::gelu_grad")  # type: ignore[untyped-decorator]
def _(*tensors: Tensor) -> Tensor:
    return torch.empty_like(tensors[-1], memory_format=torch.contiguous_format)


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.ops.nextify.gelu(x)  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        twice = torch.is_grad_enabled() and (x.requires_grad or grad.requires_grad)
        operator = torch.ops.aten.gelu_backward if twice else torch.ops.nextify.gelu_grad
        return operator(grad, x)  # type: ignore[no-any-return]


def rational(x: Tensor) -> Tensor:
    """The same function in torch's operations, which inductor fuses with their neighbours."""
    dtype, x = x.dtype, x.float()
    inside = x.clamp(-LIMIT, LIMIT)
    square = inside * inside
    p, q = torch.full_like(x, NUMERATOR[0]), torch.full_like(x, DENOMINATOR[0])
    for a, b in zip(NUMERATOR[1:], DENOMINATOR[1:], strict=True):
        p, q = p * square + a, q * square + b
    return torch.where(x < -LIMIT, 0.0, x * (inside * p / q + 0.5)).to(dtype)


def gelu(x: Tensor) -> Tensor:
    """The exact GELU of a float32 or bfloat16 tensor on a CPU, elementwise."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _Gelu.apply(x)  # type: ignore[no-any-return]
    return torch.ops.nextify.gelu(x)  # type: ignore[no-any-return]
