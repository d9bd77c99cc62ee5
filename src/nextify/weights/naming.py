"""What other libraries call the same tensors: one table per naming, read in both directions.

A row of a table gives our name, theirs and, where theirs has another shape, how it is shaped. ``{s}`` is a stage,
``{b}`` a block, both from 0; ``{2s+1}`` or ``{s+1}`` is computed from them; ``*`` is a parameter or buffer (``weight``,
``bias``, ``running_mean``, …). The first row that matches counts: the official stem is number 0 of the downsampling
layers. A row whose tensor a design does not have (layer scale, response norm) is passed over.

Sources: facebookresearch/ConvNeXt ``models/convnext.py`` and ``convnext_isotropic.py``, facebookresearch/ConvNeXt-V2
``models/convnextv2.py``, timm 1.0 ``models/convnext.py`` and ``resnet.py``, torchvision 0.26 ``models/convnext.py`` and
``resnet.py``, transformers 5 ``modeling_convnext.py``, ``modeling_convnextv2.py`` and ``modeling_resnet.py``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, Self, get_args

from torch import Tensor

from nextify.networks.layout import layout, smallest_image, walk
from nextify.networks.zoo import designs
from nextify.paper.design import CONVNEXT_TINY, RESNET50, Design
from nextify.weights.dialects import official_spelling, unwrapped

Naming = Literal["nextify", "official", "timm", "torchvision", "huggingface"]
NAMINGS: tuple[Naming, ...] = get_args(Naming)
Family = Literal["convnext", "convnextv2", "isotropic", "resnet"]
State = dict[str, Tensor]


class WeightsError(ValueError):
    """Weights that cannot be read, recognized, matched or named; the message lists what is wrong and the remedy."""


_TIMM = """
stem.conv.*                            stem.0.*
stem.norm.*                            stem.1.*
stages.{s}.downsample.norm.*           stages.{s}.downsample.0.*
stages.{s}.downsample.conv.*           stages.{s}.downsample.1.*
stages.{s}.blocks.{b}.spatial.*        stages.{s}.blocks.{b}.conv_dw.*
stages.{s}.blocks.{b}.norm.*           stages.{s}.blocks.{b}.norm.*
stages.{s}.blocks.{b}.pointwise1.weight       stages.{s}.blocks.{b}.mlp.fc1.weight    narrow O,I,1,1
stages.{s}.blocks.{b}.pointwise1.bias         stages.{s}.blocks.{b}.mlp.fc1.bias
stages.{s}.blocks.{b}.response_norm.*  stages.{s}.blocks.{b}.mlp.grn.*
stages.{s}.blocks.{b}.pointwise2.weight       stages.{s}.blocks.{b}.mlp.fc2.weight    narrow O,I,1,1
stages.{s}.blocks.{b}.pointwise2.bias         stages.{s}.blocks.{b}.mlp.fc2.bias
stages.{s}.blocks.{b}.layer_scale      stages.{s}.blocks.{b}.gamma
head.norm.*                            head.norm.*
head.classifier.*                      head.fc.*
"""

_OFFICIAL = """
stem.conv.*                            downsample_layers.0.0.*
stem.norm.*                            downsample_layers.0.1.*
stages.{s}.downsample.norm.*           downsample_layers.{s}.0.*
stages.{s}.downsample.conv.*           downsample_layers.{s}.1.*
stages.{s}.blocks.{b}.spatial.*        stages.{s}.{b}.dwconv.*
stages.{s}.blocks.{b}.norm.*           stages.{s}.{b}.norm.*
stages.{s}.blocks.{b}.pointwise1.*     stages.{s}.{b}.pwconv1.*
stages.{s}.blocks.{b}.response_norm.weight    stages.{s}.{b}.grn.gamma    1,1,1,C
stages.{s}.blocks.{b}.response_norm.bias      stages.{s}.{b}.grn.beta     1,1,1,C
stages.{s}.blocks.{b}.pointwise2.*     stages.{s}.{b}.pwconv2.*
stages.{s}.blocks.{b}.layer_scale      stages.{s}.{b}.gamma
norms.{s}.*                            norm{s}.*
head.norm.*                            norm.*
head.classifier.*                      head.*
"""

_OFFICIAL_ISOTROPIC = """
stem.conv.*                            stem.*
stages.0.blocks.{b}.spatial.*          blocks.{b}.dwconv.*
stages.0.blocks.{b}.norm.*             blocks.{b}.norm.*
stages.0.blocks.{b}.pointwise1.*       blocks.{b}.pwconv1.*
stages.0.blocks.{b}.pointwise2.*       blocks.{b}.pwconv2.*
stages.0.blocks.{b}.layer_scale        blocks.{b}.gamma
head.norm.*                            norm.*
head.classifier.*                      head.*
"""

_TORCHVISION = """
stem.conv.*                            features.0.0.*
stem.norm.*                            features.0.1.*
stages.{s}.downsample.norm.*           features.{2s}.0.*
stages.{s}.downsample.conv.*           features.{2s}.1.*
stages.{s}.blocks.{b}.spatial.*        features.{2s+1}.{b}.block.0.*
stages.{s}.blocks.{b}.norm.*           features.{2s+1}.{b}.block.2.*
stages.{s}.blocks.{b}.pointwise1.*     features.{2s+1}.{b}.block.3.*
stages.{s}.blocks.{b}.pointwise2.*     features.{2s+1}.{b}.block.5.*
stages.{s}.blocks.{b}.layer_scale      features.{2s+1}.{b}.layer_scale    C,1,1
head.norm.*                            classifier.0.*
head.classifier.*                      classifier.2.*
"""

_HUGGINGFACE = """
stem.conv.*                            convnext.embeddings.patch_embeddings.*
stem.norm.*                            convnext.embeddings.layernorm.*
stages.{s}.downsample.norm.*           convnext.encoder.stages.{s}.downsampling_layer.0.*
stages.{s}.downsample.conv.*           convnext.encoder.stages.{s}.downsampling_layer.1.*
stages.{s}.blocks.{b}.spatial.*        convnext.encoder.stages.{s}.layers.{b}.dwconv.*
stages.{s}.blocks.{b}.norm.*           convnext.encoder.stages.{s}.layers.{b}.layernorm.*
stages.{s}.blocks.{b}.pointwise1.*     convnext.encoder.stages.{s}.layers.{b}.pwconv1.*
stages.{s}.blocks.{b}.pointwise2.*     convnext.encoder.stages.{s}.layers.{b}.pwconv2.*
stages.{s}.blocks.{b}.layer_scale      convnext.encoder.stages.{s}.layers.{b}.layer_scale_parameter
head.norm.*                            convnext.layernorm.*
head.classifier.*                      classifier.*
"""

# V2 has a prefix of its own, the response norm, and no layer scale.
_HUGGINGFACE_V2 = (
    "\n".join(row for row in _HUGGINGFACE.splitlines() if "layer_scale" not in row).replace("convnext.", "convnextv2.")
    + """
stages.{s}.blocks.{b}.response_norm.*  convnextv2.encoder.stages.{s}.layers.{b}.grn.*    1,1,1,C
"""
)

# timm's plain ResNet has torchvision's names.
_TORCHVISION_RESNET = """
stem.conv.weight                             conv1.weight
stem.norm.*                                  bn1.*
stages.{s}.blocks.{b}.pointwise1.weight      layer{s+1}.{b}.conv1.weight    O,I,1,1
stages.{s}.blocks.{b}.pointwise1_norm.*      layer{s+1}.{b}.bn1.*
stages.{s}.blocks.{b}.spatial.weight         layer{s+1}.{b}.conv2.weight
stages.{s}.blocks.{b}.spatial_norm.*         layer{s+1}.{b}.bn2.*
stages.{s}.blocks.{b}.pointwise2.weight      layer{s+1}.{b}.conv3.weight    O,I,1,1
stages.{s}.blocks.{b}.pointwise2_norm.*      layer{s+1}.{b}.bn3.*
stages.{s}.blocks.{b}.shortcut.conv.weight   layer{s+1}.{b}.downsample.0.weight    O,I,1,1
stages.{s}.blocks.{b}.shortcut.norm.*        layer{s+1}.{b}.downsample.1.*
head.classifier.*                            fc.*
"""

_HUGGINGFACE_RESNET = """
stem.conv.weight                             resnet.embedder.embedder.convolution.weight
stem.norm.*                                  resnet.embedder.embedder.normalization.*
stages.{s}.blocks.{b}.pointwise1.weight      resnet.encoder.stages.{s}.layers.{b}.layer.0.convolution.weight    O,I,1,1
stages.{s}.blocks.{b}.pointwise1_norm.*      resnet.encoder.stages.{s}.layers.{b}.layer.0.normalization.*
stages.{s}.blocks.{b}.spatial.weight         resnet.encoder.stages.{s}.layers.{b}.layer.1.convolution.weight
stages.{s}.blocks.{b}.spatial_norm.*         resnet.encoder.stages.{s}.layers.{b}.layer.1.normalization.*
stages.{s}.blocks.{b}.pointwise2.weight      resnet.encoder.stages.{s}.layers.{b}.layer.2.convolution.weight    O,I,1,1
stages.{s}.blocks.{b}.pointwise2_norm.*      resnet.encoder.stages.{s}.layers.{b}.layer.2.normalization.*
stages.{s}.blocks.{b}.shortcut.conv.weight   resnet.encoder.stages.{s}.layers.{b}.shortcut.convolution.weight    O,I,1,1
stages.{s}.blocks.{b}.shortcut.norm.*        resnet.encoder.stages.{s}.layers.{b}.shortcut.normalization.*
head.classifier.*                            classifier.1.*
"""

_TABLES: dict[tuple[Naming, Family | None], str] = {
    ("nextify", None): "",  # read off the layouts
    ("official", "convnext"): _OFFICIAL,
    ("official", "convnextv2"): _OFFICIAL,
    ("official", "isotropic"): _OFFICIAL_ISOTROPIC,
    ("timm", "convnext"): _TIMM,
    ("timm", "convnextv2"): _TIMM,
    ("torchvision", "convnext"): _TORCHVISION,
    ("huggingface", "convnext"): _HUGGINGFACE,
    ("huggingface", "convnextv2"): _HUGGINGFACE_V2,
    ("torchvision", "resnet"): _TORCHVISION_RESNET,
    ("timm", "resnet"): _TORCHVISION_RESNET,
    ("huggingface", "resnet"): _HUGGINGFACE_RESNET,
}


_HOLE = re.compile(r"\{(?P<factor>\d*)(?P<letter>[a-z])(?:\+(?P<offset>\d+))?\}")


@cache
def _expression(template: str) -> re.Pattern[str]:
    pattern, end = "", 0
    for hole in _HOLE.finditer(template):
        pattern += re.escape(template[end : hole.start()])
        pattern += rf"(?P<{hole['letter']}_{hole['factor'] or 1}_{hole['offset'] or 0}>\d+)"
        end = hole.end()
    pattern += re.escape(template[end:])
    return re.compile(pattern.replace(re.escape("*"), r"(?P<leaf>[a-z_]+)"))


def _match(template: str, name: str) -> dict[str, str | int] | None:
    """Stage, block and leaf of a name; None where it is not the template's."""
    found = _expression(template).fullmatch(name)
    if found is None:
        return None
    places: dict[str, str | int] = {}
    for group, text in found.groupdict().items():
        if group == "leaf":
            places["leaf"] = text
            continue
        letter, factor, offset = group.split("_")
        index, rest = divmod(int(text) - int(offset), int(factor))
        if rest or index < 0:
            return None
        places[letter] = index
    return places


def _build(template: str, places: Mapping[str, str | int]) -> str:
    def number(hole: re.Match[str]) -> str:
        return str(int(hole["factor"] or 1) * int(places[hole["letter"]]) + int(hole["offset"] or 0))

    return _HOLE.sub(number, template).replace("*", str(places.get("leaf", "*")))


@dataclass(frozen=True)
class Table:
    """One library's names for one family of designs."""

    naming: Naming
    rows: tuple[tuple[str, str, str], ...]
    """Templates of our name and theirs, and their shape."""

    @classmethod
    def read(cls, naming: Naming, text: str) -> Self:
        """The table of a text with one row per line."""
        lines = [[*line.split(maxsplit=2), ""] for line in text.splitlines() if line.strip()]
        return cls(naming, tuple((ours, theirs, shape.strip()) for ours, theirs, shape, *_ in lines))

    def to_ours(self, name: str) -> str | None:
        """Our name of their tensor; None where the table has no row for it."""
        for ours, theirs, _ in self.rows:
            if (places := _match(theirs, name)) is not None:
                return _build(ours, places)
        return None

    def to_theirs(self, name: str) -> tuple[str | None, str]:
        """Their name of our tensor and its shape; None where the table has no row for it."""
        for ours, theirs, shape in self.rows:
            if (places := _match(ours, name)) is not None:
                return _build(theirs, places), shape
        return None, ""


@cache
def table(naming: Naming, family: Family | None) -> Table | None:
    """The table of a naming for a family; None where the library has no such model. Our own has any design."""
    if naming == "nextify" and family is not None:
        return table(naming, None)
    if naming == "nextify":
        return Table(naming, tuple((name, name, "") for name in _own_names()))
    text = _TABLES.get((naming, family))
    return None if text is None else Table.read(naming, text)


def _own_names() -> list[str]:
    """Templates of our names: wherever a named design has a layer with parameters."""
    found = set()
    for design in designs().values():
        net = layout(design)
        for placed in walk(net, smallest_image(net)):
            if placed.parameters:
                leaf = "" if placed.layer == "layer_scale" else ".*"
                found.add(
                    re.sub(r"(stages|blocks)\.\d+", lambda place: f"{place[1]}.{{{place[1][0]}}}", placed.path) + leaf
                )
    return sorted(found)


def family(design: Design) -> Family | None:
    """The released family that a design belongs to, whatever its widths, depths, kernel and patch; None for others."""
    base = design.with_(
        depths=(1,), widths=(1,), stage_strides=(1,), kernel_size=7, layer_scale="off", response_norm="off"
    )
    convnext = CONVNEXT_TINY.with_(depths=(1,), widths=(1,), stage_strides=(1,), layer_scale="off")
    later_strides = set(design.stage_strides[1:])
    if not design.stem.startswith("patchify"):
        resnet = RESNET50.with_(depths=(1,), widths=(1,), stage_strides=(1,), kernel_size=7)
        return "resnet" if base == resnet and design.kernel_size == 3 and later_strides <= {2} else None
    if base.with_(stem="patchify4") == convnext and later_strides <= {2} and design.stage_strides[0] == 1:
        return "convnextv2" if design.response_norm == "global" else "convnext"
    if base.with_(stem="patchify4") == convnext.with_(downsampling="none") and len(design.depths) == 1:
        return "isotropic" if design.response_norm == "off" else None
    return None


@dataclass(frozen=True)
class Recognized:
    """A state dict in our names, and what it was."""

    naming: Naming
    state: State
    unexpected: tuple[str, ...]
    """Names in the file that no row of the naming's table knows."""
    table: Table
    notes: tuple[str, ...] = ()
    """What was stripped, renamed or left out."""
    output_norms: State = field(default_factory=dict)
    """Norms of a backbone's outputs, by the names that ``Backbone`` gives them."""


def recognize(state: Mapping[str, Tensor]) -> Recognized:
    """Find out whose names these are and translate them into ours. Raises ``WeightsError`` where the names are in no
    table."""
    state, of_prefix = unwrapped(state)
    state, of_release = official_spelling(state)
    state = _whole(state)
    found, names = Table("nextify", ()), dict[str, str]()
    for naming, kind in _TABLES:
        candidate = table(naming, kind)
        assert candidate is not None
        translated = {name: ours for name in state if (ours := candidate.to_ours(name)) is not None}
        if len(translated) > len(names):
            found, names = candidate, translated
    if len(names) * 2 <= len(state) or "stem.conv.weight" not in names.values():
        shown = ", ".join(list(state)[:4]) or "nothing"
        raise WeightsError(
            f"these weights have none of the names that nextify, official ConvNeXt, timm, torchvision or Hugging Face "
            f"use for ConvNeXt or ResNet (they begin with {shown}); rename them to one of those first"
        )
    tensors = {our: smallest(state[their], our) for their, our in names.items()}
    norms = {name: tensors.pop(name) for name in list(tensors) if name.startswith("norms.")}
    notes = of_prefix + of_release
    if norms:
        listed = ", ".join(sorted({f"norm{name.split('.')[1]}" for name in norms}))
        notes += (f"the norms of a backbone's outputs ({listed}) load with create_backbone(…, norms=True) alone",)
    unexpected = tuple(name for name in state if name not in names)
    return Recognized(found.naming, tensors, unexpected, found, notes, norms)


def _whole(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names with the prefix of the whole, which Hugging Face's models without a head leave out."""
    convnext = "convnextv2." if any(".grn." in name for name in state) else "convnext."
    starts = {"embeddings.patch_embeddings.": convnext, "embedder.embedder.": "resnet."}
    prefix = next((p for start, p in starts.items() if any(name.startswith(start) for name in state)), "")
    return {prefix + name: tensor for name, tensor in state.items()}


def smallest(tensor: Tensor, our_name: str) -> Tensor:
    """Our shape of a foreign tensor: 1x1 convolutions as matrices, scales and response norms as vectors."""
    if our_name.endswith(("layer_scale", "response_norm.weight", "response_norm.bias", "mask_token")):
        return tensor.reshape(-1) if tensor.numel() == max(tensor.shape, default=0) else tensor
    matrix = our_name.endswith(("pointwise1.weight", "pointwise2.weight", "shortcut.conv.weight", "projection.weight",
                                "prediction.weight", "classifier.weight"))  # fmt: skip
    return tensor[:, :, 0, 0] if matrix and tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor


# timm's models narrower than tiny (atto, femto, pico, nano) have conv_mlp: their 1x1 layers are convolutions.
TIMM_CONV_MLP_BELOW = 96


def rename(state: Mapping[str, Tensor], design: Design, naming: Naming) -> State:
    """The ``state`` of a design, in our names, in another library's names and shapes. Raises ``WeightsError`` where the
    library has no model of this design."""
    kind = family(design)
    names = table(naming, kind)
    if names is None:
        have = [n for n in NAMINGS if table(n, kind) is not None]
        what = {None: "this design", "isotropic": "isotropic ConvNeXt", "resnet": "ResNet", "convnextv2": "ConvNeXt-V2"}
        raise WeightsError(
            f"{naming} has no names for {what.get(kind, kind)}; its weights can be written as {' or '.join(have)}"
        )
    if limit := _limits(design, naming):
        raise WeightsError(f"{naming}'s ConvNeXt has {limit}; write these weights as nextify")
    renamed: State = {}
    for name, tensor in state.items():
        theirs, shape = names.to_theirs(name)
        if theirs is None:
            raise WeightsError(f"{naming} has no name for {name}; write these weights as nextify")
        if shape.startswith("narrow "):
            shape = shape.removeprefix("narrow ") if design.widths[0] < TIMM_CONV_MLP_BELOW else ""
        renamed[theirs] = shaped(tensor, shape)
    return renamed


def _limits(design: Design, naming: Naming) -> str:
    """What a library's ConvNeXt fixes and this design has otherwise; empty where nothing stands in the way."""
    if naming == "nextify" or family(design) not in ("convnext", "convnextv2"):
        return ""
    if naming in ("official", "timm") and len(design.depths) != 4:
        return "4 stages"
    if naming != "timm" and design.kernel_size != 7:
        return "7x7 kernels only"
    if naming in ("official", "torchvision") and design.stem != "patchify4":
        return "a 4x4 stem only"
    if naming == "torchvision" and design.layer_scale == "off":
        return "layer scale always"
    return ""


def shaped(tensor: Tensor, shape: str) -> Tensor:
    """A tensor that we keep in its smallest form, with a further axis for each ``1`` of ``shape``; as it is for an
    empty one."""
    axes = shape.split(",") if shape else []
    return tensor[tuple(None if axis == "1" else slice(None) for axis in axes)]
