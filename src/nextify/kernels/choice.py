"""Decide which kernel a layer runs on, and why. Nothing else in the package does.

Every decision is a pure function of a layer's input, its parameters and the mode it was installed with, and returns a
`Choice`. "auto" uses our kernels where they were measured to be faster than torch's; see docs/benchmarks.md.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from nextify.kernels import gpu
from nextify.kernels.blocks import training as blocks
from nextify.kernels.depthwise import cpu as depthwise_cpu
from nextify.kernels.gelu import cpu as gelu_cpu
from nextify.kernels.operators import asked_once, seen_as_operators
from nextify.kernels.patches import cpu as patches_cpu
from nextify.kernels.pixelwise import products, strips
from nextify.kernels.pixelwise import training as pixelwise_training
from nextify.system import native
from nextify.system.native import Mode

# Looked up on import, because a compiled graph cannot ask.
AVX2_ALONE = torch.backends.cpu.get_cpu_capability() == "AVX2"
AVX512: bool = torch.cpu._is_avx512_supported()
BFLOAT16_INSTRUCTIONS: bool = torch.cpu._is_avx512_bf16_supported()
MATRIX_UNITS: bool = torch.cpu._is_amx_tile_supported()
"""Intel's AMX."""


def fast_bfloat16(device: str) -> bool:
    """Whether this processor or GPU has instructions for bfloat16, which then may be faster than float32."""
    if device == "cpu":
        return BFLOAT16_INSTRUCTIONS or MATRIX_UNITS
    return device.startswith("cuda") and torch.cuda.get_device_capability(device) >= (8, 0)


DTYPES = (torch.float32, torch.bfloat16)
PLAIN = {Tensor, nn.Parameter, type(None)}
"""Types of tensors whose memory kernels may read."""
LEAST_BYTES_GPU = {False: 1 << 23, True: 1 << 25}
"""On a GPU, "auto" uses our kernels for inputs of at least this many bytes, without and with gradients. With less work,
the GPU waits for the processor to launch them."""
LEAST_BYTES_GPU_FLOAT32 = 1 << 22
"""The same for depthwise convolutions in float32, whose weight gradient is slow in cuDNN at any size."""
LEAST_BYTES, LEAST_BYTES_COMPILED = 1 << 22, 1 << 23
"""On a CPU, strips pay for blocks with at least this many bytes of hidden activations, eagerly and in a compiled graph.
Fewer stay in a cache anyway."""
LEAST_BYTES_OWN = 1 << 14
"""The same where the matrix products are our own."""

MOST_BYTES_WHOLE, MOST_BYTES_WEIGHT = 1 << 23, 4 * 768 * 384
"""On a CPU, whole blocks run in one call up to so many bytes of their widest activations, and of their largest weight.
More were not measured."""

MOST_THREADS_WHOLE = 2
"""On a CPU, whole blocks run in one call on up to so many threads. More were not measured."""

LEAST_CHANNELS = 32
"""On a CPU, "auto" uses our convolution of patches from so many channels on."""

Kernel = Literal["torch", "ours", "weight gradient", "rational", "inference", "training", "whole", "gathered"]


class Choice(NamedTuple):
    """What one layer runs on for one input."""

    kernel: Kernel
    """``torch``: the layer as it is. Depthwise: ``ours``, or only the ``weight gradient``. Patches: ``ours``. GELU:
    ``ours``, or in a compiled graph the ``rational`` function. Blocks: our kernels for ``inference`` or ``training``,
    or the ``whole`` block in training. Masked encoders: ``gathered`` pixels."""
    reason: str
    dtype: torch.dtype = torch.float32
    """The type our kernel computes in."""
    own: bool = False
    """Depthwise: whether the forward pass is ours. Blocks on a CPU: whether the matrix products are ours."""
    operator: bool = False
    """Depthwise: whether the forward pass is called as an operator of ours, whichever kernel that runs."""


ELSEWHERE = Choice("torch", "the graph is exported, traced or transformed by torch.func")
DEVICE = Choice("torch", "neither a CPU nor a CUDA GPU")
TYPE = Choice("torch", "neither float32 nor bfloat16")
SLOWER = Choice("torch", "torch was not measured to be slower here")
SMALL = Choice("torch", "too small to gain anything")
FROZEN = Choice("torch", "a parameter or the input is frozen")
DROPPED = Choice("torch", "paths are dropped without gradients")
WATCHED = Choice("torch", "a hook or a tensor subclass looks at single layers")
LAYERS = Choice("torch", "layer by layer")
SHAPE = Choice("torch", "the weight does not fit the input")
NOT_READY = Choice("torch", "the kernel cannot be built or used here; kernels.libraries() says why")


def computed_in(x: Tensor) -> torch.dtype:
    """The type torch multiplies ``x`` in: autocast's where it is on for the device, otherwise its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def for_elsewhere() -> bool:
    """Whether torch is exporting (``torch.export``), tracing (ONNX's older way) or transforming (``torch.func``).

    Such graphs may hold torch's operators only.
    """
    # torch.compiler.is_exporting() reads this; inside torch.compile, torch 2.11 answers True to it always.
    if torch._C._get_tracing_state() is not None or torch.compiler._is_exporting_flag:
        return True
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def for_inference() -> bool:
    """Whether `torch.compile` is tracing for inference, where it fuses elementwise operations by itself."""
    return torch.compiler.is_compiling() and not torch.is_grad_enabled() and not for_elsewhere()


def differentiates(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


# Depthwise convolutions


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, mode: Mode) -> Choice:
    """Choose for a convolution of ``x (N, H, W, C)`` with ``weight (C, 1, K, K)`` and padding K // 2.

    On CPUs our weight gradient was faster at every shape measured; our forward pass, and with it the input gradient,
    only in bfloat16 on processors without instructions for it. On GPUs both were faster than cuDNN's.
    """
    device, size = x.device.type, weight.shape[-1]
    if device not in ("cpu", "cuda"):
        return DEVICE
    if weight.shape != (x.shape[-1], 1, size, size):
        return SHAPE  # torch's convolution says what is wrong
    if size not in depthwise_cpu.KERNEL_SIZES or stride not in depthwise_cpu.STRIDES:
        return Choice("torch", "no kernel for this kernel size and stride")
    if for_elsewhere():
        return ELSEWHERE
    dtype = computed_in(x)
    if dtype not in DTYPES:
        return TYPE
    learns = differentiates(x, weight, bias)
    least = LEAST_BYTES_GPU_FLOAT32 if dtype == torch.float32 else LEAST_BYTES_GPU[learns]
    if device == "cuda" and mode == "auto" and x.numel() * dtype.itemsize < least:
        return SMALL
    own = own_depthwise(device, dtype, mode)
    # Inductor gives the batch axis of a single image no stride, takes the image for NCHW, and would copy it before and
    # after a convolution that it can see.
    operator = own or (device == "cpu" and x.shape[0] == 1 and torch.compiler.is_compiling())
    if not learns and not operator:
        return SLOWER
    if not (depthwise_cpu.ready(size) if device == "cpu" else gpu.ready()):
        return NOT_READY
    if not own:
        return Choice("weight gradient", "only this was measured to be faster", dtype, own, operator)
    return Choice("ours", _by(mode), dtype, own, operator)


def own_depthwise(device: str, dtype: torch.dtype, mode: Mode) -> bool:
    """Whether the forward pass is ours, and with it the input gradient."""
    return mode == "on" or device == "cuda" or (dtype == torch.bfloat16 and not BFLOAT16_INSTRUCTIONS)


# Convolutions of patches


def patches(x: Tensor, weight: Tensor, bias: Tensor | None, mode: Mode) -> Choice:
    """Choose for a convolution of patches of ``x (N, H, W, C)`` with ``weight (O, C, K, K)``.

    "auto" trains with our kernel in graphs compiled for processors on which its matrix products were measured to be
    faster, if C is at least ``LEAST_CHANNELS``: torch was faster for a stem's three, and eagerly in bfloat16.
    """
    outputs, channels, side, _ = weight.shape
    if x.device.type != "cpu":
        return DEVICE
    if channels != x.shape[-1]:
        return SHAPE  # torch's convolution says what is wrong
    if x.shape[1] % side or x.shape[2] % side:
        return Choice("torch", "the image is no whole number of patches")
    if for_elsewhere():
        return ELSEWHERE
    dtype = computed_in(x)
    if dtype not in DTYPES:
        return TYPE
    if mode == "auto" and not (torch.compiler.is_compiling() and differentiates(x, weight, bias)):
        return SLOWER
    if x.numel() == 0 or (mode == "auto" and channels < LEAST_CHANNELS):
        return SMALL
    if not _own(dtype, mode, channels * side * side, outputs):
        return SLOWER
    return Choice("ours", _by(mode), dtype) if patches_cpu.ready() else NOT_READY


# Masked encoders


def masked() -> Choice:
    """Choose for a masked encoder, whose masked pixels need not be computed."""
    return ELSEWHERE if for_elsewhere() else Choice("gathered", "masked pixels are not computed")


# GELU


def gelu(x: Tensor, mode: Mode) -> Choice:
    """Choose for the exact GELU of ``x``.

    With AVX2 alone, torch's GELU takes a fifth as long as the matrix products beside it. With AVX-512 ours is no
    faster; other processors were not measured.
    """
    if for_elsewhere():
        return ELSEWHERE
    if mode == "auto" and not AVX2_ALONE:
        return SLOWER
    if x.device.type != "cpu":
        return DEVICE
    if x.dtype not in DTYPES:
        return TYPE
    if not gelu_cpu.ready():
        return NOT_READY
    if for_inference():
        return Choice("rational", "inductor fuses it with its neighbours")
    return Choice("ours", _by(mode))


# Linear layers


def adds_afterwards() -> bool:
    """Whether to apply bias and layer scale after the product, fused with the elementwise operations that follow.

    That pays in graphs compiled for inference on a CPU with AVX2 alone: torch's product with a bias first copies the
    bias over its output.
    """
    return AVX2_ALONE and for_inference()


def adds_bias_afterwards(x: Tensor) -> bool:
    """The same for the bias, in float32 only: under autocast the sum would be rounded once more."""
    return adds_afterwards() and x.device.type == "cpu" and computed_in(x) == torch.float32


def scales_output(x: Tensor, in_features: int) -> bool:
    """Whether layer scale multiplies the last linear layer's output rather than its weights, whichever is smaller.

    Exported graphs have it folded into the weights.
    """
    return not for_elsewhere() and (adds_afterwards() or x.numel() // in_features <= in_features)


# Blocks


@asked_once
def own_products(mode: Mode) -> bool:
    """Whether matrix products on a CPU are ours. "auto" uses them on processors with bfloat16 instructions but no
    matrix units, where they were measured to be faster than torch's."""
    if mode == "auto" and (MATRIX_UNITS or not BFLOAT16_INSTRUCTIONS):
        return False
    return products.ready()


def _own(dtype: torch.dtype, mode: Mode, *widths: int) -> bool:
    """Whether products of these widths are ours: in bfloat16, ours take numbers in pairs."""
    return (dtype == torch.float32 or not any(width % 2 for width in widths)) and own_products(mode)


def block(x: Tensor, parts: strips.Parts | None, module: nn.Module, dropped: bool, mode: Mode) -> Choice:
    """Choose for a block's work on single pixels, given the block's input ``x (N, H, W, C)``. ``parts``: the layers of
    ``module`` that do this work; None where the block has others. ``dropped``: whether this pass may drop paths."""
    if parts is None:
        return Choice("torch", "the block's last layers are of other kinds")
    if x.device.type not in ("cpu", "cuda"):
        return DEVICE
    if for_elsewhere():
        return ELSEWHERE
    dtype = computed_in(x)
    if dtype not in DTYPES or x.dtype not in DTYPES:
        return TYPE
    compiles, learns = torch.compiler.is_compiling(), torch.is_grad_enabled()
    if learns:
        trained = {x.requires_grad, *(p.requires_grad for p in _parameters(module))}
        learns = compiles or True in trained
        if learns and False in trained:
            return FROZEN
    if dropped and not learns:
        return DROPPED
    if not _unwatched(x, parts):
        return WATCHED
    if learns and parts.norm is not None and any(p is None for p in parts.norm._parameters.values()):
        return Choice("torch", "the norm has no weight or no bias")
    if x.device.type == "cuda":
        least = 1 if mode == "on" else LEAST_BYTES_GPU[torch.is_grad_enabled()]
        if x.numel() == 0 or x.numel() * dtype.itemsize < least:
            return SMALL
        if compiles:
            return Choice("torch", "inductor makes such kernels itself")
        return Choice("training" if learns else "inference", _by(mode), dtype) if gpu.ready() else NOT_READY
    if learns:
        if x.numel() == 0:
            return SMALL
        if not _own(dtype, mode, parts.first.in_features, parts.first.out_features, parts.second.out_features):
            return SLOWER
        return Choice("training", _by(mode), dtype, own=True) if pixelwise_training.ready() else NOT_READY
    channels, wide = x.shape[-1], parts.second.in_features
    own = _own(dtype, mode, channels, wide)
    least = LEAST_BYTES_OWN if own else LEAST_BYTES_COMPILED if compiles else LEAST_BYTES
    if x.numel() // channels * wide * dtype.itemsize < least:
        return SMALL
    return Choice("inference", _by(mode), dtype, own) if own or strips.ready() else NOT_READY


def may_be_whole(x: Tensor, mode: Mode) -> bool:
    """Whether a block of ``x (N, H, W, C)`` may run in one call: where "auto" trains on few threads in float32, on
    processors with AVX-512; others were not measured."""
    if not AVX512 or seen_as_operators() or for_elsewhere() or mode != "auto" or x.device.type != "cpu" or x.ndim != 4:
        return False
    if not torch.is_grad_enabled() or torch.get_num_threads() > MOST_THREADS_WHOLE or type(x) not in PLAIN:
        return False
    return x.dtype == torch.float32 and computed_in(x) == torch.float32 and x.numel() > 0


def whole(x: Tensor, parts: blocks.Parts, owner: nn.Module) -> Choice | None:
    """Choose one call for all layers of a block or chain; None where they run otherwise. ``may_be_whole`` is true."""
    tensors = [t for module in (*parts.modules, owner) for t in blocks.tensors_of(module) if t is not None]
    parameters = [t for t in tensors if isinstance(t, nn.Parameter)]
    if not parameters or not all(p.requires_grad and type(p) in PLAIN for p in parameters):
        return None
    if not all(t.device == x.device and t.dtype == (torch.float32 if t.ndim else torch.int64) for t in tensors):
        return None  # torch's layers say what does not fit; a single number is how many batches a norm has seen
    if any(hooked(module) for module in parts.modules) or _has_any_global_hook():  # type: ignore[no-untyped-call]
        return None
    widest = max(x.shape[-1], *(p.shape[0] for p in parameters))
    if x.numel() // x.shape[-1] * widest * 4 > MOST_BYTES_WHOLE:
        return None
    if max(p.numel() for p in parameters) * 4 > MOST_BYTES_WEIGHT:
        return None
    return Choice("whole", _by("auto")) if blocks.ready() else None


def _by(mode: Mode) -> str:
    return "chosen" if mode == "on" else "measured to be faster"


def _parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """All parameters of a module. ``module.parameters()`` would take longer than a small layer."""
    for parameter in module._parameters.values():
        if parameter is not None:
            yield parameter
    for child in module._modules.values():
        if child is not None:
            yield from _parameters(child)


def _unwatched(x: Tensor, parts: strips.Parts) -> bool:
    """Whether no hook looks at a single layer, and all tensors are plain ones."""
    modules = [module for module in parts[1:] if module is not None]
    for module in modules:
        if hooked(module):
            return False
    if torch.compiler.is_compiling():
        return True
    kinds = {type(p) for module in modules for p in module._parameters.values()}
    everywhere: bool = _has_any_global_hook()  # type: ignore[no-untyped-call]
    return type(x) in PLAIN and kinds <= PLAIN and not everywhere


def hooked(module: nn.Module) -> bool:
    """Whether a hook looks at the module's inputs or outputs."""
    forward = module._forward_hooks or module._forward_pre_hooks
    return bool(forward or module._backward_hooks or module._backward_pre_hooks)


def libraries() -> dict[str, str]:
    """For each library asked for so far, where it was compiled to or why it is not used. Builds nothing."""
    return {**native.notes(), "gpu": gpu.describe()}
