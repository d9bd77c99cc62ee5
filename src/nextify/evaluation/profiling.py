"""The cost of a network: multiply-adds counted on the meta device, time and memory measured by running it.

The count covers the convolutions, linear layers and attention products of any architecture, found by running it once on
the meta device, where fused attention is decomposed into its two products. It is the count behind the paper's FLOPs
(arXiv 2201.03545v2, Tables 1 and 2), which omits norms, activations, softmax and pooling, as published figures do.
"""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from nextify.kernels import install
from nextify.system.native import Mode

Precision = Literal["fp32", "tf32", "bf16"]
MemoryLayout = Literal["channels_last", "contiguous"]

_PRODUCTS = {"aten::convolution", "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}


@dataclass(frozen=True)
class Counts:
    """Counts for one forward pass of one image."""

    parameters: int
    macs: int
    """Multiply-adds of convolutions, linear layers and attention's products."""
    attention_macs: int
    """The ``macs`` whose factors both depend on the image: queries times keys, attention weights times values."""
    activations: int
    """Output elements of these convolutions, layers and products."""

    @property
    def attention_share(self) -> float:
        """0 to 1."""
        return self.attention_macs / self.macs if self.macs else 0.0


class _Attention(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Distinguishes products of two activations from products with weights, and counts the outputs of both."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights: dict[int, Tensor] = {p.untyped_storage()._cdata: p for p in model.parameters()}
        """Every weight by its storage, and what is made of weights alone, such as one with layer scale folded in; kept,
        so that no other tensor gets the storage."""
        self.attention_macs = 0
        self.activations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        name = func._schema.name
        taken = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if name in _PRODUCTS:
            self.activations += given.numel()
        elif taken and isinstance(given, Tensor) and all(map(self._is_weight, taken)):
            self.weights[given.untyped_storage()._cdata] = given
        # A batched product: attention, unless one factor is a weight.
        if name in ("aten::bmm", "aten::baddbmm") and not any(map(self._is_weight, taken[-2:])):
            self.attention_macs += given.numel() * taken[-2].shape[-1]
        return given

    def _is_weight(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.weights


def count(model: nn.Module, image_size: int) -> Counts:
    """Count one square RGB image of ``image_size`` pixels a side; ``model`` must be on the meta device. Raises whatever
    the network raises for an unsupported size."""
    images = torch.empty(1, 3, image_size, image_size, device="meta")
    model.eval()
    counter, attention = FlopCounterMode(display=False), _Attention(model)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter, attention:
        model(images)
    return Counts(
        parameters=sum(p.numel() for p in model.parameters()),
        macs=counter.get_total_flops() // 2,
        attention_macs=attention.attention_macs,
        activations=attention.activations,
    )


@dataclass(frozen=True)
class Conditions:
    """The conditions under which a network is measured."""

    device: str = "cpu"
    precision: Precision = "fp32"
    """bf16 is autocast; tf32 is fp32 whose matrix products and convolutions may round to TF32 (CUDA only)."""
    layout: MemoryLayout = "channels_last"
    """Memory format of the images and of 4-dimensional weights."""
    kernels: Mode = "auto"
    """Our own kernels, in networks of ours."""
    compile: bool = False
    """Whether networks are compiled by ``torch.compile``, once for each shape of images."""

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a CUDA GPU."""
        return self.device.startswith("cuda")


@contextmanager
def conditions(given: Conditions) -> Iterator[None]:
    """Set what is global (TF32, graphs per function) and restore it afterwards."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = given.precision == "tf32"
    try:
        with many_graphs() if given.compile else nullcontext():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def many_graphs() -> AbstractContextManager[Any]:
    """Let the networks of a comparison, which share their code, each be compiled for several shapes of images."""
    from torch._dynamo import config

    found: AbstractContextManager[Any] = config.patch(recompile_limit=1024, accumulated_recompile_limit=4096)
    return found


def compiled(model: nn.Module, given: Conditions) -> Callable[[Tensor], Any]:
    """The network as it is run: compiled for the exact shape of its images where the conditions ask for it."""
    return torch.compile(model, dynamic=False) if given.compile else model


def synchronize(device: str) -> None:
    """Wait until the device has finished its queued work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def place(model: nn.Module, given: Conditions) -> nn.Module:
    """Move the network to its device and memory format, with the kernels of the conditions."""
    install(model, given.kernels)
    model = model.to(given.device)
    return model.to(memory_format=torch.channels_last) if given.layout == "channels_last" else model


def random_images(batch_size: int, image_size: int, given: Conditions) -> Tensor:
    """``(batch_size, 3, image_size, image_size)`` of noise."""
    images = torch.randn(batch_size, 3, image_size, image_size, device=given.device)
    return images.contiguous(memory_format=torch.channels_last) if given.layout == "channels_last" else images


def inference(model: nn.Module, images: Tensor, given: Conditions) -> Callable[[], None]:
    """Return a function that runs the network once on the images in evaluation mode."""
    model.eval()
    forward = compiled(model, given)

    def step() -> None:
        with torch.inference_mode(), _autocast(given):
            forward(images)

    return step


def training(model: nn.Module, images: Tensor, given: Conditions) -> Callable[[], None]:
    """Return a function that runs one training step: forward, cross-entropy (or the sum of the losses that the network
    returns), backward, fused AdamW, gradient reset."""
    model.train()
    labels = torch.zeros(len(images), dtype=torch.long, device=given.device)
    # A rate of 0 leaves the weights unchanged and costs as much as any other.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.05, fused=True)
    forward = compiled(model, given)

    def step() -> None:
        with _autocast(given):
            outputs = forward(images)
            if isinstance(outputs, Tensor):
                loss = F.cross_entropy(outputs.float(), labels)
            else:
                loss = torch.stack([part.float() for part in outputs.values()]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def seconds(step: Callable[[], None], device: str) -> float:
    """Wall-clock seconds of one call, with the device idle before and after."""
    synchronize(device)
    start = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - start


def _autocast(given: Conditions) -> AbstractContextManager[Any]:
    if given.precision != "bf16":
        return nullcontext()
    return torch.autocast(torch.device(given.device).type, torch.bfloat16)


def cpu_mhz() -> float | None:
    """Current mean clock of the processors, as the system reports it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    found = [float(line.split(":")[1]) for line in text.splitlines() if line.startswith("cpu MHz")]
    return sum(found) / len(found) if found else None


def gpu_mhz(device: str) -> float | None:
    """Current clock of a GPU's multiprocessors, as its driver reports it."""
    with suppress(OSError, subprocess.SubprocessError, ValueError, RuntimeError, AttributeError):
        number = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        command = ["nvidia-smi", "-i", number, "--query-gpu=clocks.sm", "--format=csv,noheader,nounits"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return float(done.stdout)
    return None
