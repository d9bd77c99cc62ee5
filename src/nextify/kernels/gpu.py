"""Whether our kernels for GPUs can be used here.

Triton needs a GPU that it knows and, depending on its version, a C compiler. Our kernels are used only after two of
them gave the right numbers on a small case; otherwise the reason is kept and torch does the work.
"""

import importlib.util

import torch
import torch.nn.functional as F

_notes: list[str] = []


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # a compiled graph asks once, when traced
def ready() -> bool:
    """Whether they can be used; tries them when asked first."""
    if not _notes:
        _notes.append(_try_on("cuda"))
    return _notes[0] == "triton"


def describe() -> str:
    """What ``ready`` found, without trying anything."""
    return _notes[0] if _notes else "torch; none of ours was asked for yet"


def _try_on(device: str) -> str:
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
    """A norm and a depthwise convolution on a small case with ragged sizes; raises RuntimeError where they differ."""
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
