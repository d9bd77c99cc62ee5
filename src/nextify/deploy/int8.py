"""The ways to quantize that are tried, and quantizing by NNCF."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nextify.deploy import formats
from nextify.deploy.export import Source
from nextify.deploy.runners import Exported
from nextify.evaluation.runner import Floats

Part = Literal["stem", "depthwise", "head"]


@dataclass(frozen=True)
class Int8:
    """One way to quantize."""

    name: str
    smooth_quant: float | None = None
    """How much of the activations' range moves into the weights of linear layers (arXiv 2211.10438), 0 to 1; None
    moves nothing."""
    keep: tuple[Part, ...] = ()
    """Layers that stay in floating point."""


INT8 = (
    Int8("int8"),
    Int8("int8, SmoothQuant 0.5", 0.5),
    Int8("int8, SmoothQuant 0.8", 0.8),
    Int8("int8, stem and head kept", None, ("stem", "head")),
    Int8("int8, depthwise kept", None, ("depthwise",)),
    Int8("int8, SmoothQuant 0.5, all three kept", 0.5, ("stem", "depthwise", "head")),
)


def write_int8(exported: Exported, how: Int8, source: Source, calibration: Sequence[Floats], folder: Path) -> None:
    """Quantize by NNCF and write the file."""
    import nncf
    from nncf.quantization.advanced_parameters import QuantizationParameters

    settings = source.about.preprocessing
    program = formats.trace(replace(exported, precision="fp32"), source.model, source.mirror, settings)
    path = folder / exported.file
    smooth = how.smooth_quant
    options: dict[str, Any] = {"subset_size": len(calibration)}
    # NNCF would give each channel of a depthwise convolution's input a range of its own, but takes the rows of our
    # (N, H, W, C) for the channels.
    one_range = QuantizationParameters(per_channel=False)
    parameters = nncf.AdvancedQuantizationParameters(activations_quantization_params=one_range)
    if smooth is not None:  # which NNCF does for transformers only
        parameters.smooth_quant_alphas = nncf.AdvancedSmoothQuantParameters(matmul=smooth)
        options["model_type"] = nncf.ModelType.TRANSFORMER
    options["advanced_parameters"] = parameters
    if exported.format == "openvino":
        model = formats.openvino_model(program)
        nodes = [(op.get_friendly_name(), op.get_type_name()) for op in model.get_ordered_ops()]
        depthwise = [name for name, kind in nodes if kind == "GroupConvolution"]
        linear = [name for name, kind in nodes if kind == "MatMul"]
        first = [name for name, kind in nodes if kind == "Convolution"]
        data = nncf.Dataset(list(calibration))
    else:
        import onnx

        model = formats.onnx_program(program).model_proto
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        groups = {n.name: next((a.i for a in n.attribute if a.name == "group"), 1) for n in convolutions}
        linear = [node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
        depthwise = [name for name, count in groups.items() if count > 1]
        first = [name for name, count in groups.items() if count == 1]
        data = nncf.Dataset([{"images": batch} for batch in calibration])
    layers: dict[Part, list[str]] = {"stem": first[:1], "depthwise": depthwise, "head": linear[-1:]}
    if kept := [name for part in how.keep for name in layers[part]]:
        options["ignored_scope"] = nncf.IgnoredScope(names=kept)
    quantized = nncf.quantize(model, data, **options)
    if exported.format == "openvino":
        formats.save_openvino(quantized, path, compress_to_fp16=False)
    else:
        onnx.save_model(quantized, str(path))
