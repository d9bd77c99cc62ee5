"""A network to a model file. Together with ``runners.start``, which runs it, the only place that knows a format.

All formats begin with ``torch.export`` of plain torch operators, at a batch of two: an example of one image would fix
the batch at one.
"""

import copy
import io
from pathlib import Path
from typing import Any, TypeVar, assert_never

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from nextify.deploy.prepare import Prepare
from nextify.deploy.runners import Exported, Format, MissingExtra, Precision, needs, quiet
from nextify.networks.layers import Pointwise
from nextify.networks.network import Block, Classifier
from nextify.system.files import write_atomic, write_bytes_atomic
from nextify.system.native import compiler
from nextify.tasks.classification import Inference
from nextify.weights import Preprocessing

PRECISIONS: dict[Format, tuple[Precision, ...]] = {
    "onnx": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "bf16", "fp16", "int8"),
    "torch": ("fp32", "bf16", "fp16"),
    "aotinductor": ("fp32", "bf16"),
    "executorch": ("fp32",),
}
_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.float32,
}
_EXAMPLE = 2

AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)


class FormatError(ValueError):
    """A combination that a format does not have; the message names those that it has."""


def check(exported: Exported) -> None:
    """Raises ``FormatError`` or ``MissingExtra`` for what cannot be written here."""
    to = exported.format
    if exported.precision not in PRECISIONS[to]:
        raise FormatError(f"--to {to} has no --precision {exported.precision}: choose {', '.join(PRECISIONS[to])}")
    if to == "executorch" and (exported.size is None or exported.with_preprocessing):
        raise FormatError(
            "--to executorch plans its memory for one shape: leave --with-preprocessing out, and give --image-size as "
            "a number"
        )
    match to:
        case "onnx":
            for package in ("onnx", "onnxscript", "onnxruntime"):
                needs(package, "onnx")
        case "openvino" | "executorch":
            needs(to, to)
        case "aotinductor":
            if compiler() is None:
                raise MissingExtra("--to aotinductor needs a C++ compiler: install g++ or clang++, or name one in CXX")
        case "torch":
            pass
        case _:
            assert_never(to)


class Exportable(nn.Module):
    """What a file computes of a model with layer scale folded in: float32 logits, with ``mirror`` the mean over an
    image and its mirror image. ``prepare``: of pixels, where the file takes these."""

    def __init__(self, model: Classifier, mirror: bool, prepare: Prepare | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.prepare, self.model, self.dtype = prepare, model.to(dtype), dtype
        self.inference = Inference(mirror=mirror)

    def forward(self, images: Tensor) -> Tensor:
        x = images if self.prepare is None else self.prepare(images)
        return self.inference.logits(self.model, x.to(self.dtype))


def folded(model: AnyNetwork) -> AnyNetwork:
    """A copy in plain torch with layer scale multiplied into the last layer of each branch, where that is linear.

    It is the same function; products are rounded in another order.
    """
    model = copy.deepcopy(model).eval()
    for block in model.modules():
        if isinstance(block, Block) and block.layer_scale is not None:
            last = getattr(block, block.order[-1])
            if isinstance(last, Pointwise):
                with torch.no_grad():
                    last.weight.mul_(block.layer_scale[:, None])
                    if last.bias is not None:
                        last.bias.mul_(block.layer_scale)
                block.layer_scale = None
    return model


def write(exported: Exported, model: Classifier, mirror: bool, settings: Preprocessing, folder: Path) -> None:
    """Write the model file of ``exported`` (int8 aside, see ``quantize``) into ``folder``: of a ``model`` in plain
    torch, whose inputs are made by ``settings``; ``mirror`` is that of ``Inference``."""
    with quiet():
        save(trace(exported, model, mirror, settings), exported, folder / exported.file)


def save(program: ExportedProgram, exported: Exported, path: Path, output: str = "logits") -> None:
    """Write ``program`` as a model file whose one output is called ``output``, where the format names outputs."""
    match exported.format:
        case "torch" | "aotinductor":
            buffer = io.BytesIO()  # torch ends the process where it cannot finish a file, as on a full disk
            if exported.format == "torch":
                torch.export.save(program, buffer)
            else:
                torch._inductor.aoti_compile_and_package(program, package_path=buffer)
            write_bytes_atomic(path, buffer.getvalue())
        case "onnx":
            onnx_program(program, output).save(path, external_data=False)
        case "openvino":
            save_openvino(openvino_model(program, output), path, compress_to_fp16=exported.precision == "fp16")
        case "executorch":
            path.write_bytes(_executorch(program))
        case _:
            assert_never(exported.format)


def trace(exported: Exported, model: Classifier, mirror: bool, settings: Preprocessing) -> ExportedProgram:
    """The network as torch.export has it."""
    prepare = Prepare(settings) if exported.with_preprocessing else None
    # OpenVINO narrows the numbers itself: weights for fp16, and the computation for bf16.
    dtype = torch.float32 if exported.format == "openvino" else _DTYPES[exported.precision]
    module = Exportable(folded(model), mirror, prepare, dtype).eval()
    dims: dict[int, Any] = {0: Dim("batch", min=1)}
    if prepare is not None:
        example = torch.zeros(_EXAMPLE, 61, 83, 3, dtype=torch.uint8)
        dims |= {1: Dim("height", min=1), 2: Dim("width", min=1)}
    else:
        example = torch.zeros(_EXAMPLE, settings.channels, *(exported.size or settings.size))
        if exported.size is None:
            # AUTO, as torch asks for a larger least side where it cannot show that no axis shrinks to one pixel.
            dims |= {2: Dim.AUTO(min=_least(model)), 3: Dim.AUTO(min=_least(model))}
    if exported.format == "executorch":
        for parameter in module.parameters():  # XNNPACK takes no channels-last weights
            parameter.data = parameter.data.contiguous()
        return torch.export.export(module, (example[:1],))
    with torch.no_grad():
        return torch.export.export(module, (example,), dynamic_shapes=(dims,), strict=False)


def _least(model: Classifier) -> int:
    """Shortest side of any image for a file that takes all sizes: one pixel in the last stage is a case of its own."""
    return 2 * model.smallest_image


def check_dynamic(model: Classifier, settings: Preprocessing) -> None:
    """Raises ``FormatError`` where a network's own input is too small for a file that takes all sizes."""
    if min(settings.size) < _least(model):
        raise FormatError(
            f"--image-size dynamic takes images from {_least(model)} pixels a side, but this network is made for "
            f"{settings.size[0]}x{settings.size[1]}: give --image-size as a number"
        )


def onnx_program(program: ExportedProgram, output: str = "logits") -> Any:
    """``program`` as an ONNX model, with named input, output and batch."""
    return torch.onnx.export(
        program, dynamo=True, input_names=["images"], output_names=[output], verbose=False, external_data=False
    )


def openvino_model(program: ExportedProgram, output: str = "logits") -> Any:
    """``program`` as an OpenVINO model."""
    import openvino

    model = openvino.convert_model(program)
    model.inputs[0].get_tensor().set_names({"images"})
    model.outputs[0].get_tensor().set_names({output})
    return model


def save_openvino(model: Any, path: Path, *, compress_to_fp16: bool) -> None:
    """Write an OpenVINO model. Raises ``OSError`` where the system does not take it, as on a full disk."""
    import openvino

    try:
        openvino.save_model(model, path, compress_to_fp16=compress_to_fp16)
    except RuntimeError as error:
        if "iostream" not in str(error):
            raise
        # A C++ stream does not know why, but the system tells us when we write something there, too.
        write_atomic(path, lambda file: file.write(bytes(2**20)))
        raise OSError(f"{path} could not be written ({error}): is there space left in its folder?") from error


def _executorch(program: ExportedProgram) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    return bytes(to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)
