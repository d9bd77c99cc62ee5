"""What a ConvNeXt block does to each pixel by itself (norm, both 1x1 layers and the activation between them, layer scale
and the sum with the shortcut), in inference on a CPU: for a strip of pixels at a time.

The hidden activations of a batch are the largest tensor of a block, and would be written and read in memory three times
over: the product with its bias, the activation, the next product. Those of a strip stay in a cache. The operations are
torch's, or our GELU, and the result differs from that of the layers one by one in rounding only.
"""

import math
import threading
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextify import compiled
from nextify.nn.gelu import GELU, gelu_
from nextify.nn.tracing import for_elsewhere, for_inference

STRIP_BYTES = 3 << 20
"""Of hidden activations in a strip."""
LEAST_BYTES = 1 << 21
"""Of hidden activations in all: fewer stay in a cache as they are."""
FEWEST_PIXELS = 512
"""In a strip: fewer would read the weights too often."""


def applies(x: Tensor, layers: tuple[nn.Module, ...]) -> bool:
    """Whether a block's last layers (an optional norm, linear, activation, linear) can be run in strips on ``x``: in
    inference, on a CPU, and where nobody looks at a layer by itself."""
    if x.device.type != "cpu" or for_elsewhere() or compiled.mode() is False:
        return False
    if x.numel() // x.shape[-1] * layers[-1].in_features * _dtype(x).itemsize < LEAST_BYTES:
        return False
    if any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers):
        return False
    if torch.compiler.is_compiling():
        return for_inference()
    tensors = [x, *(p for layer in layers for p in layer._parameters.values() if p is not None)]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return False
    plain = all(type(t) in (Tensor, nn.Parameter) for t in tensors)
    return plain and not torch._C._are_functorch_transforms_active()


def run(x: Tensor, shortcut: Tensor, layers: tuple[nn.Module, ...], scale: Tensor | None) -> Tensor:
    """``shortcut + scale * layers(x)`` for ``(N, H, W, C)``."""
    *norm, first, activation, second = layers
    arguments = (
        *(x, shortcut, norm[0].weight if norm else None, norm[0].bias if norm else None),
        *(norm[0].eps if norm else 0.0, first.weight, first.bias, isinstance(activation, GELU)),
        *(second.weight, second.bias, scale, _dtype(x)),
    )
    if torch.compiler.is_compiling():
        y: Tensor = torch.ops.nextify.strips(*arguments)
        return y
    return _run(*arguments)


def _dtype(x: Tensor) -> torch.dtype:
    """What torch computes a linear layer of ``x`` in."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _result_dtype(shortcut: Tensor, scale: Tensor | None, dtype: torch.dtype) -> torch.dtype:
    if scale is not None:
        dtype = torch.promote_types(dtype, scale.dtype)
    return torch.promote_types(dtype, shortcut.dtype)


def _run(
    x: Tensor,
    shortcut: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    weight1: Tensor,
    bias1: Tensor | None,
    is_gelu: bool,
    weight2: Tensor,
    bias2: Tensor | None,
    scale: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        channels, wide = x.shape[-1], weight1.shape[0]
        out = torch.empty(shortcut.shape, dtype=_result_dtype(shortcut, scale, dtype))
        xs, shortcuts, outs = (t.reshape(-1, t.shape[-1]) for t in (x, shortcut, out))
        pixels = xs.shape[0]
        if scale is not None and pixels > wide:  # on the smaller of weights and output
            weight2, bias2, scale = scale[:, None] * weight2, None if bias2 is None else scale * bias2, None
        to_wide, to_narrow = (_cast(w, dtype, name).t() for w, name in ((weight1, "first"), (weight2, "second")))
        shift1, shift2 = (None if b is None else b.to(dtype) for b in (bias1, bias2))
        most = max(FEWEST_PIXELS, STRIP_BYTES // (wide * dtype.itemsize))
        strip = max(1, -(-pixels // max(1, round(pixels / most))))
        hidden, narrow = _scratch("hidden", (strip, wide), dtype), _scratch("narrow", (strip, out.shape[-1]), dtype)
        for start in range(0, pixels, strip):
            part = xs[start : start + strip]
            if norm_weight is not None:
                part = F.layer_norm(part, (channels,), norm_weight, norm_bias, eps)
            inside = _product(part.to(dtype), to_wide, shift1, hidden[: part.shape[0]])
            inside = gelu_(inside) if is_gelu else inside.relu_()
            y = _product(inside, to_narrow, shift2, narrow[: part.shape[0]])
            if scale is None:
                torch.add(shortcuts[start : start + strip], y, out=outs[start : start + strip])
            else:
                torch.addcmul(shortcuts[start : start + strip], y, scale, out=outs[start : start + strip])
    return out


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    return torch.mm(x, weight, out=out) if bias is None else torch.addmm(bias, x, weight, out=out)


def _cast(weight: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    return weight if weight.dtype == dtype else _scratch(name, weight.shape, dtype).copy_(weight)


_kept = threading.local()


def _scratch(name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Memory that this thread keeps: what is given back to the system and got again costs as much as the work in it."""
    needed, buffer = math.prod(shape) * dtype.itemsize, getattr(_kept, name, None)
    if buffer is None or buffer.numel() < needed:
        with torch.inference_mode(False):  # a tensor made in inference mode could not be written to outside of it
            buffer = torch.empty(needed, dtype=torch.uint8)
        setattr(_kept, name, buffer)
    return buffer[:needed].view(dtype).view(*shape)  # type: ignore[no-any-return]


_strips_op = torch.library.custom_op("nextify::strips", _run, mutates_args=())


@_strips_op.register_fake
def _(
    x: Tensor,
    shortcut: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    weight1: Tensor,
    bias1: Tensor | None,
    is_gelu: bool,
    weight2: Tensor,
    bias2: Tensor | None,
    scale: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    return shortcut.new_empty(shortcut.shape, dtype=_result_dtype(shortcut, scale, dtype))
