"""Which design a state dict holds, read off its tensors."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nextify.networks.layout import layout
from nextify.networks.network import ConvNet
from nextify.networks.zoo import designs
from nextify.paper.design import CONVNEXT_TINY, RESNET50, Design, DesignError
from nextify.weights.naming import Recognized, WeightsError

_BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.")


def infer_design(recognized: Recognized) -> Design:
    """The design of recognized weights: widths, depths, kernel, groups, stem, layer scale, response norm.

    The initial value of layer scale and the activations leave no trace in the weights: they are the released models'.
    Raises ``WeightsError`` where the tensors are those of no ConvNeXt or ResNet, or, in our own names, of several
    designs."""
    state = recognized.state
    guess: Design | None = None
    try:
        guess = _guess(state)
    except (KeyError, DesignError) as error:
        if recognized.naming != "nextify":
            raise WeightsError(f"the weights have {recognized.naming}'s names, but match no design: {error}") from None
    if guess is not None and recognized.naming != "nextify":
        return guess
    # Our own names serve every design, and what has no weights (activations, strides) tells many of them apart.
    fitting: dict[Design, str] = {}
    for name, design in designs().items():
        if design.depths == depths(state) and not mismatches(state, design):
            fitting.setdefault(design, name)
    if guess is not None and not fitting and not mismatches(state, guess):
        return guess
    if len(fitting) == 1:
        return next(iter(fitting))
    if not fitting:
        raise WeightsError("the weights have nextify's names, but fit no named design: give the design, or a bundle")
    raise WeightsError(
        f"the weights fit {', '.join(fitting.values())} equally well (activations have no weights); name the right one"
    )


def depths(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    counts: dict[int, int] = {}
    for name in state:
        if found := _BLOCK.match(name):
            stage, block = int(found[1]), int(found[2])
            counts[stage] = max(counts.get(stage, 0), block + 1)
    return tuple(counts.get(stage, 0) for stage in range(max(counts, default=-1) + 1))


def _guess(state: Mapping[str, Tensor]) -> Design:
    blocks = depths(state)
    stages = range(len(blocks))
    stem = state["stem.conv.weight"]
    spatial = state["stages.0.blocks.0.spatial.weight"]
    if "stages.0.blocks.0.pointwise1_norm.weight" in state:
        groups = spatial.shape[0] // spatial.shape[1]
        return RESNET50.with_(
            depths=blocks,
            widths=tuple(state[f"stages.{s}.blocks.0.pointwise1.weight"].shape[0] for s in stages),
            stage_strides=tuple(1 if s == 0 else 2 for s in stages),
            kernel_size=spatial.shape[-1],
            groups=groups if groups > 1 else 1,
        )
    isotropic = "stem.norm.weight" not in state
    return CONVNEXT_TINY.with_(
        depths=blocks,
        widths=tuple(state[f"stages.{s}.blocks.0.pointwise2.weight"].shape[0] for s in stages),
        stage_strides=tuple(1 if s == 0 or isotropic else 2 for s in stages),
        kernel_size=spatial.shape[-1],
        stem=f"patchify{stem.shape[-1]}",
        downsampling="none" if isotropic else "separate",
        layer_scale=1e-6 if "stages.0.blocks.0.layer_scale" in state else "off",
        response_norm="global" if "stages.0.blocks.0.response_norm.weight" in state else "off",
    )


def class_count(state: Mapping[str, Tensor]) -> int:
    """Width of the classifier; 0 without one."""
    head = state.get("head.classifier.weight")
    return 0 if head is None else head.shape[0]


def channel_count(state: Mapping[str, Tensor]) -> int:
    """Channels of the images."""
    return state["stem.conv.weight"].shape[1]


Shapes = Mapping[str, tuple[int, ...]]
"""Of a network's tensors, by their names."""


class Misfit(NamedTuple):
    """Tensors that are not as a network has them; false where all are."""

    missing: Sequence[str] = ()
    unexpected: Sequence[str] = ()
    misshapen: Sequence[str] = ()

    def __bool__(self) -> bool:
        return any(map(len, self))

    def refuse(self, what: str) -> None:
        """Raise one readable ``WeightsError`` where any tensor does not fit."""
        lines = [
            f"  {title} ({len(names)}): {', '.join(names[:8])}{f' and {len(names) - 8} more' if len(names) > 8 else ''}"
            for title, names in self._asdict().items()
            if names
        ]
        if lines:
            raise WeightsError("\n".join([f"{what} does not fit the design:", *lines]))


def shapes(network: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@lru_cache(maxsize=128)
def expected_shapes(design: Design, num_classes: int, in_channels: int) -> Shapes:
    """Name and shape of every tensor of a design's network, without allocating it."""
    with torch.device("meta"):
        return shapes(ConvNet(layout(design, in_channels), num_classes))


def mismatches(
    state: Mapping[str, Tensor],
    design: Design,
    num_classes: int | None = None,
    in_channels: int | None = None,
    members: int = 1,
) -> Misfit:
    """What of tensors in our names does not fit a design; a batch norm's counter may be missing, as in files older than
    the counter."""
    classes = class_count(state) if num_classes is None else num_classes
    channels = channel_count(state) if in_channels is None else in_channels
    expected = expected_shapes(design, classes, channels)
    if members > 1:
        expected = {f"members.{i}.{name}": shape for i in range(members) for name, shape in expected.items()}
    return differences(state, expected)


def differences(state: Mapping[str, Tensor], expected: Shapes, optional: str = "") -> Misfit:
    """``mismatches`` with given names and shapes; names that begin with ``optional``, if any, may be missing."""
    spared = {n for n in expected if n.endswith("num_batches_tracked") or (optional and n.startswith(optional))}
    missing = [n for n in expected if n not in state and n not in spared]
    unexpected = [n for n in state if n not in expected]
    misshapen = [
        f"{n} is {tuple(state[n].shape)}, not {expected[n]}"
        for n in expected
        if n in state and tuple(state[n].shape) != expected[n]
    ]
    return Misfit(missing, unexpected, misshapen)
