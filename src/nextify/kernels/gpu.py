"""Whether our kernels for GPUs can be used here.

Triton needs a GPU it knows and, depending on its version, a C compiler. Our kernels are used only if two of them give
the right numbers on a small case; otherwise the reason is kept and torch does the work.
"""

import importlib.util

import torch
import torch.nn.functional as F

from nextify.kernels.operators import asked_once

notes: list[str] = []
"""What trying them found; empty before."""


@asked_once
def ready() -> bool:
    """Whether they can be used. The first call tries them."""
    if not notes:
        notes.append(try_on("cuda"))
    return notes[0] == "triton"


def describe() -> str:
    """What ``ready`` found; tries nothing itself."""
    return notes[0] if notes else "torch; none of ours was asked for yet"


def try_on(device: str) -> str:
    """Try them on a device: ``triton``, or why torch does the work."""
    if importlib.util.find_spec("triton") is None:
        return "torch, no triton"
    try:
        with torch.no_grad(), torch.autocast(device, enabled=False):
            _check(device)
    except Exception as error:  # whatever a compiler and a driver may raise
        first = (str(error).strip().splitlines() or [""])[0]
        return f"not ours, because {type(error).__name__}: {first}"
    return "triton"


def _check(device: str) -> None:
    """Raise RuntimeError where a norm or a depthwise convolution of ragged sizes differs from torch's."""
    from nextify.kernels.depthwise import gpu as depthwise_gpu
    from nextify.kernels.pixelwise import gpu as pixelwise_gpu

    generator = torch.Generator("cpu").manual_seed(0)  # whatever torch's default device is
    x, weight, bias, taps = (
        torch.randn(*shape, generator=generator, device="cpu") for shape in ((2, 6, 9, 21), (21,), (21,), (21, 1, 3, 3))
    )
    images, scale, shift, kernel = (t.to(device) for t in (x, weight, bias, taps))
    convolved = F.conv2d(x.double().permute(0, 3, 1, 2), taps.double(), bias.double(), 1, 1, groups=21)
    pairs = (
        (
            pixelwise_gpu.normalize(images.view(-1, 21), scale, shift, 1e-6, torch.float32).view(x.shape),
            F.layer_norm(x.double(), (21,), weight.double(), bias.double(), 1e-6),
        ),
        (depthwise_gpu.forward(images, kernel, shift), convolved.permute(0, 2, 3, 1)),
    )
    if not all(torch.allclose(got.cpu().double(), exact, rtol=1e-4, atol=1e-4) for got, exact in pairs):
        raise RuntimeError("the kernels do not agree with torch in float64")
