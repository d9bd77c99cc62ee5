"""Depthwise convolution on NHWC activations, with kernels of our own where they are faster than torch's.

`depthwise_conv` is torch's convolution on the channels-last view of the activations, without a copy. oneDNN's gradient
of a depthwise weight costs about nine times its forward pass, and its bfloat16 convolution is slow on CPUs without
bfloat16 instructions. `depthwise_cpu.cpp` computes both at the speed of a good float32 forward pass (figures:
`benchmarks/depthwise.py`). It is compiled on first use by the C++ compiler at hand, checked against NumPy, and kept in
the user's cache; where that fails, everything runs on torch with the same results, and `describe_kernels()` says why.
On GPUs both are Triton kernels (`depthwise_gpu.py`); strides other than 1 are cuDNN's but for the weight gradient.

Which kernels are used is a matter of Runtime: `enable(True | False | "auto")`. Results do not depend on the number of
threads, and differ from torch's by rounding only. The kernels work under `torch.compile(fullgraph=True)`, autocast,
gradient checkpointing and double backward, and tell `torch.utils.flop_counter` their operations. Exported and traced
graphs contain torch's convolution only, so that they run without nextify.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from nextify.kernels import gpu
from nextify.kernels.operators import operator
from nextify.kernels.precision import BFLOAT16_INSTRUCTIONS, computed_in
from nextify.kernels.tracing import for_elsewhere, seen_as_operators
from nextify.system import native as compiled
from nextify.system.native import Mode

KERNEL_SIZES = (3, 5, 7, 9, 11)
"""Kernel sizes with kernels of our own; others take torch's route."""
STRIDES = (1, 2)
_SOURCE = Path(__file__).with_name("depthwise_cpu.cpp")


def _pays(device: str, dtype: torch.dtype, kernel: Literal["forward", "weight_grad"], mode: Mode) -> bool:
    """The rule of "auto", from the tables in benchmarks/depthwise.py.

    On CPUs the weight gradient was faster at every shape measured, the forward pass (and with it the input gradient) in
    bfloat16 only, and there only without instructions for it. On GPUs both were faster than cuDNN's.
    """
    if mode == "auto" and device == "cpu":
        return kernel == "weight_grad" or (dtype == torch.bfloat16 and not BFLOAT16_INSTRUCTIONS)
    return True


def _least(dtype: torch.dtype, differentiates: bool) -> int:
    """Bytes of input from which "auto" takes our kernels on a GPU: for less, a processor takes longer to call them than
    cuDNN takes to be done. Its weight gradient in float32 is slow at any size."""
    if dtype == torch.float32:
        return 1 << 22
    return gpu.LEAST_BYTES[differentiates]


# ---------------------------------------------------------------------------------------------------------------------
# The compiled CPU kernels: one library per kernel size


def _build(kernel_size: int) -> compiled.Build:
    name = f"{kernel_size}×{kernel_size}"
    return compiled.build(name, _SOURCE, lambda library: _check(library, kernel_size), (f"-DKERNEL={kernel_size}",))


def _declare(library: ctypes.CDLL) -> tuple[Any, Any]:
    forward, weight_grad = library.nextify_depthwise_forward, library.nextify_depthwise_weight_grad
    shape = [ctypes.c_int, *[ctypes.c_int64] * 4]  # bfloat16, N, H, W, C
    forward.argtypes = [*[ctypes.c_void_p] * 4, *shape, *[ctypes.c_int] * 3]
    weight_grad.argtypes = [*[ctypes.c_void_p] * 4, *shape, *[ctypes.c_int] * 2]
    return forward, weight_grad


def _check(library: ctypes.CDLL, kernel_size: int) -> None:
    """Both kernels against NumPy on a small case with ragged channels; raises RuntimeError where they differ."""
    forward, weight_grad = _declare(library)
    random = np.random.default_rng(0)
    (n, h, w, c), k, stride = (2, 6, 9, 21), kernel_size, 1
    x, grad = (random.standard_normal((n, h, w, c), dtype=np.float32) for _ in range(2))
    weight, bias = random.standard_normal((c, k, k), dtype=np.float32), random.standard_normal(c, dtype=np.float32)
    out, weight_out, bias_out = np.empty_like(grad), np.empty_like(weight), np.empty_like(bias)
    codes = (
        forward(*(a.ctypes.data for a in (x, weight, bias, out)), 0, n, h, w, c, stride, 0, 2),
        weight_grad(*(a.ctypes.data for a in (x, grad, weight_out, bias_out)), 0, n, h, w, c, stride, 2),
    )
    padded = np.pad(x.astype(np.float64), ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(1, 2))  # (N, H, W, C, K, K)
    pairs = (
        (out, np.einsum("nhwckl,ckl->nhwc", windows, weight) + bias),
        (weight_out, np.einsum("nhwckl,nhwc->ckl", windows, grad)),
        (bias_out, grad.sum((0, 1, 2))),
    )
    if any(codes) or not all(np.allclose(got, expected, rtol=1e-4, atol=1e-4) for got, expected in pairs):
        raise RuntimeError("the compiled kernel does not agree with NumPy")


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # a compiled graph asks once, when traced
def _cpu_ready(kernel_size: int) -> bool:
    return _build(kernel_size).usable


def fast_kernels_available(device: str = "cpu", kernel_size: int = 7) -> bool:
    """Whether there are kernels of our own for this kind of device ("cpu", "cuda"); compiles them when asked first."""
    if kernel_size not in KERNEL_SIZES:
        return False
    return _cpu_ready(kernel_size) if device == "cpu" else device == "cuda" and gpu.ready()


def describe_kernels() -> str:
    """What our kernels run on in this process, and why, for run records and bug reports. Builds nothing."""
    lines = [f"kernels: mode {compiled.mode()!r}"]
    lines += [f"cpu, {name}: {note}" for name, note in compiled.notes().items()]
    if not compiled.notes():
        lines += ["cpu: torch; none of ours was asked for yet"]
    lines += [f"gpu: {gpu.describe()}"]
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------------------
# The operators. Each works for every case, on torch where our kernel does not.


def _out_size(size: int, stride: int) -> int:
    return (size - 1) // stride + 1


def _torch_conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    channels, _, kernel_size, _ = weight.shape
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, kernel_size // 2, groups=channels)
    return y.permute(0, 2, 3, 1)  # (N, H', W', C)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, flip: bool) -> Tensor:
    x = x.contiguous()
    kernel_size = weight.shape[-1]
    if _on_gpu(x, kernel_size, stride):
        from nextify.kernels.depthwise import gpu as depthwise_gpu

        return depthwise_gpu.forward(x, weight, bias, flip)
    ours = x.device.type == "cpu" and x.numel() > 0 and _pays("cpu", x.dtype, "forward", compiled.mode())
    if not ours or not _cpu_ready(kernel_size):
        taps = weight.flip(2, 3) if flip else weight
        return _torch_conv(x, taps.to(x.dtype), None if bias is None else bias.to(x.dtype), stride).contiguous()
    n, h, w, c = x.shape
    out = x.new_empty(n, _out_size(h, stride), _out_size(w, stride), c)
    taps, shift = weight.float().contiguous(), None if bias is None else bias.float().contiguous()
    code = _build(kernel_size).library.nextify_depthwise_forward(
        *(x.data_ptr(), taps.data_ptr(), None if shift is None else shift.data_ptr(), out.data_ptr()),
        *(x.dtype == torch.bfloat16, n, h, w, c, stride, flip, torch.get_num_threads()),
    )
    if code:
        raise RuntimeError(f"the depthwise kernel failed with code {code}; enable(False) goes without it")
    return out


def _on_gpu(x: Tensor, kernel_size: int, stride: int) -> bool:
    """Whether our forward kernel can do it."""
    return x.device.type == "cuda" and x.numel() > 0 and stride == 1 and kernel_size in KERNEL_SIZES and gpu.ready()


_forward_op = operator("depthwise_forward", _forward)


@torch.library.register_fake("nextify::depthwise_forward")  # type: ignore[untyped-decorator]
def _(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, flip: bool) -> Tensor:
    n, h, w, c = x.shape
    return x.new_empty(n, _out_size(h, stride), _out_size(w, stride), c)


def _weight_grad(
    grad: Tensor, x: Tensor, height: int, width: int, kernel_size: int, stride: int
) -> tuple[Tensor, Tensor]:
    """`x` is `(N H W, C)`: what has four axes is kept for the backward pass, in a compiled graph, in the order that
    inductor takes for channels-last, which costs a copy of it forth and one back."""
    grad, x = grad.contiguous(), x.contiguous().view(grad.shape[0], height, width, -1)
    n, h, w, c = x.shape
    if x.device.type == "cuda" and x.numel() > 0 and gpu.ready():
        from nextify.kernels.depthwise import gpu as depthwise_gpu

        return depthwise_gpu.weight_grad(grad, x, kernel_size, stride)
    weight_grad = x.new_empty((c, 1, kernel_size, kernel_size), dtype=torch.float32)
    bias_grad = x.new_empty(c, dtype=torch.float32)
    if x.device.type != "cpu" or x.numel() == 0 or not _cpu_ready(kernel_size):
        _, of_weight, of_bias = torch.ops.aten.convolution_backward(
            *(grad.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2), weight_grad.to(x.dtype), [c], [stride, stride]),
            *([kernel_size // 2] * 2, [1, 1], False, [0, 0], c, [False, True, True]),
        )
        return of_weight.float().contiguous(), of_bias.float()
    code = _build(kernel_size).library.nextify_depthwise_weight_grad(
        *(x.data_ptr(), grad.data_ptr(), weight_grad.data_ptr(), bias_grad.data_ptr()),
        *(x.dtype == torch.bfloat16, n, h, w, c, stride, torch.get_num_threads()),
    )
    if code:
        raise RuntimeError(f"the depthwise kernel failed with code {code}; enable(False) goes without it")
    return weight_grad, bias_grad


_weight_grad_op = torch.library.custom_op("nextify::depthwise_weight_grad", _weight_grad, mutates_args=())


@_weight_grad_op.register_fake
def _(grad: Tensor, x: Tensor, height: int, width: int, kernel_size: int, stride: int) -> tuple[Tensor, Tensor]:
    c = x.shape[-1]
    return x.new_empty((c, 1, kernel_size, kernel_size), dtype=torch.float32), x.new_empty(c, dtype=torch.float32)


@register_flop_formula(torch.ops.nextify.depthwise_forward)
def _forward_flops(x: Any, weight: Any, bias: Any, stride: int, flip: bool, out_shape: Any = None, **_: Any) -> int:
    n, h, w, c = x
    return int(2 * n * _out_size(h, stride) * _out_size(w, stride) * c * weight[-1] ** 2)


@register_flop_formula(torch.ops.nextify.depthwise_weight_grad)
def _weight_grad_flops(
    grad: Any, x: Any, height: int, width: int, kernel_size: int, stride: int, out_shape: Any = None, **_: Any
) -> int:
    n, h, w, c = grad
    return int(2 * n * h * w * c * kernel_size**2)


# ---------------------------------------------------------------------------------------------------------------------
# Autograd


def _input_grad(grad: Tensor, weight: Tensor, stride: int, height: int, width: int) -> Tensor:
    """Gradient `(N, H, W, C)` with respect to the input, differentiable itself."""
    channels, _, kernel_size, _ = weight.shape
    slow = stride > 1 and grad.device.type == "cpu" and grad.dtype == torch.bfloat16  # torch's, up to a hundredfold
    ours = _forward_pays(grad, grad.dtype) and (stride == 1 or grad.device.type == "cpu")
    if (slow or ours) and not _differentiates(grad, weight):
        x_grad: Tensor = _forward_op(_spread(grad, stride, height, width), weight, None, 1, True)
        return x_grad
    if stride == 1:
        return _torch_conv(grad, weight.flip(2, 3).to(grad.dtype), None, 1)
    pad, rest = kernel_size // 2, ((height - 1) % stride, (width - 1) % stride)
    y = F.conv_transpose2d(
        grad.permute(0, 3, 1, 2), weight.to(grad.dtype), None, stride, pad, output_padding=rest, groups=channels
    )
    return y.permute(0, 2, 3, 1)


def _spread(grad: Tensor, stride: int, height: int, width: int) -> Tensor:
    """Each pixel where its window's centre is in the input, zeros between."""
    if stride == 1:
        return grad
    spread = grad.new_zeros(grad.shape[0], height, width, grad.shape[-1])
    spread[:, ::stride, ::stride] = grad
    return spread


def _differentiates(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _forward_pays(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether the forward pass is our operator's. In a compiled graph, that of a single image is, whatever it runs:
    inductor gives its batch axis no stride, takes it for NCHW, and would copy it before and after a convolution that it
    sees."""
    device = x.device.type
    single = device == "cpu" and x.shape[0] == 1 and torch.compiler.is_compiling()
    return single or _pays(device, dtype, "forward", compiled.mode())


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    if _forward_pays(x, x.dtype):
        if not _pays(x.device.type, x.dtype, "forward", compiled.mode()):
            # The operator will run torch's, which takes one type: a compiled graph casts faster than the operator does.
            weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        y: Tensor = _forward_op(x, weight, bias, stride, False)
        return y
    return _torch_conv(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), stride)


class _Depthwise(torch.autograd.Function):
    """Takes the input as `(N H W, C)`, as its operator does, and the shape."""

    @staticmethod
    def forward(x: Tensor, shape: Sequence[int], weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        return _conv(x.view(shape), weight, bias, stride)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Sequence[int], Tensor, Tensor | None, int], output: Tensor
    ) -> None:
        x, ctx.shape, weight, bias, ctx.stride = inputs
        ctx.save_for_backward(x, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        x_grad = weight_grad = bias_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = _input_grad(grad, weight, ctx.stride, *ctx.shape[1:3]).reshape(x.shape)
        if ctx.needs_input_grad[2] or ctx.needs_input_grad[3]:
            # Beside a GPU, which waits for nothing but calls, the operator's checks would be felt.
            plain = grad.device.type == "cuda" and not seen_as_operators()
            function: Any = _weight_grad if plain else torch.ops.nextify.depthwise_weight_grad
            of_weight, of_bias = function(grad, x, *ctx.shape[1:3], weight.shape[-1], ctx.stride)
            weight_grad = of_weight.to(weight.dtype) if ctx.needs_input_grad[2] else None
            bias_grad = of_bias.to(ctx.bias_dtype) if ctx.needs_input_grad[3] else None
        return x_grad, None, weight_grad, bias_grad, None


def _weight_grad_setup(
    ctx: Any, inputs: tuple[Tensor, Tensor, int, int, int, int], output: tuple[Tensor, Tensor]
) -> None:
    grad, x, *ctx.size, _, ctx.stride = inputs
    ctx.save_for_backward(grad, x)


def _weight_grad_backward(ctx: Any, of_weight: Tensor, of_bias: Tensor) -> tuple[Tensor | None, ...]:
    grad, x = ctx.saved_tensors  # the weight gradient is linear in each of them
    images = x.view(grad.shape[0], *ctx.size, -1)
    of_grad = _torch_conv(images, of_weight.to(x.dtype), of_bias.to(x.dtype), ctx.stride)
    of_x = _input_grad(grad, of_weight, ctx.stride, *ctx.size).reshape(x.shape)
    return of_grad, of_x, None, None, None, None


torch.library.register_autograd(
    "nextify::depthwise_weight_grad", _weight_grad_backward, setup_context=_weight_grad_setup
)


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """Depthwise convolution with padding K // 2: `(N, H, W, C)` to `(N, H', W', C)`, H' = (H - 1) // stride + 1.

    `weight` is `(C, 1, K, K)` with odd K, `bias` `(C,)`. Fastest when `x` is contiguous. Under autocast it computes in
    autocast's type, as torch's convolution does; our kernels then hand weight gradients over without rounding them.
    Raises ValueError for a weight of another shape.
    """
    channels, kernel_size = x.shape[-1], weight.shape[-1]
    if weight.shape != (channels, 1, kernel_size, kernel_size) or kernel_size % 2 == 0:
        raise ValueError(f"weight is ({channels}, 1, K, K) with odd K for this input, not {tuple(weight.shape)}")
    device = x.device.type
    if (
        compiled.mode() is False
        or device not in ("cpu", "cuda")
        or kernel_size not in KERNEL_SIZES
        or stride not in STRIDES
        or for_elsewhere()
    ):
        return _torch_conv(x, weight, bias, stride)
    dtype = computed_in(x)
    if dtype not in (torch.float32, torch.bfloat16) or not _pays(device, dtype, "weight_grad", compiled.mode()):
        return _torch_conv(x, weight, bias, stride)
    differentiates = _differentiates(x, weight, bias)
    if device == "cuda" and compiled.mode() == "auto" and x.numel() * dtype.itemsize < _least(dtype, differentiates):
        return _torch_conv(x, weight, bias, stride)
    if not differentiates and not _forward_pays(x, dtype):
        return _torch_conv(x, weight, bias, stride)
    if not (_cpu_ready(kernel_size) if device == "cpu" else gpu.ready()):
        return _torch_conv(x, weight, bias, stride)
    x = x.to(dtype)
    if not differentiates:
        return _conv(x, weight, bias, stride)
    y: Tensor = _Depthwise.apply(x.reshape(-1, channels), x.shape, weight, bias, stride)
    return y
