"""Names to designs, and designs to torch modules."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from nextify.networks.layout import layout
from nextify.paper.design import DESIGNS, Design
from nextify.paper.roadmap import ROADMAPS

if TYPE_CHECKING:
    from nextify.networks.network import ConvNet


class UnknownModel(KeyError):
    """A name that is in no list; the message suggests the nearest ones."""

    def __str__(self) -> str:
        return str(self.args[0])


def designs() -> dict[str, Design]:
    """Every named design: the families, then each row of both roadmaps as ``resnet50_patchify``, ``resnet200_gelu``, …

    Rows in which only the recipe changes share their neighbour's design and keep a name of their own."""
    steps = {f"{regime}_{row.name}": row.design for regime, roadmap in ROADMAPS.items() for row in roadmap}
    return {**DESIGNS, **steps}


def list_models(pattern: str = "*") -> list[str]:
    """Names of all designs that match a shell-style pattern, in order."""
    return [name for name in designs() if fnmatch(name, pattern)]


def find_design(name: str | Design) -> Design:
    """The design of a name. Raises ``UnknownModel`` with the nearest names for an unknown one."""
    if isinstance(name, Design):
        return name
    known = designs()
    if name not in known:
        from difflib import get_close_matches

        near = get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "nextify models lists them"
        raise UnknownModel(f"no model {name!r}; {hint}")
    return known[name]


def create_model(
    name_or_design: str | Design,
    num_classes: int | None = None,
    *,
    in_channels: int | None = None,
    stochastic_depth: float = 0.0,
    weights: str | Path | None = None,
) -> ConvNet:
    """The torch module of a named or given design, with given weights or fresh ones from torch's global generator.

    Args:
        name_or_design: a name of ``list_models()`` or a ``Design``.
        num_classes: width of the classifier; 0 gives features. Not given: 1000, or what the weights have.
        in_channels: channels of the images. Not given: 3, or what the weights have.
        stochastic_depth: chance that the last block's branch is dropped in training.
        weights: a bundle, another library's file, ``hf:owner/name`` or ``timm:name``; ``nextify.weights.load`` gives
            the preprocessing, classes and licence with the model.

    Raises:
        UnknownModel: no design of that name.
        WeightsError: weights that cannot be read, are not safe, or are of another design.
    """
    design = find_design(name_or_design)
    design.warn_of_inert_choices()
    if weights is not None:
        from nextify.weights import load

        return load(
            weights,
            name_or_design,
            num_classes=num_classes,
            in_channels=in_channels,
            stochastic_depth=stochastic_depth,
        ).model.train()
    from nextify.networks.network import ConvNet

    net = layout(design, 3 if in_channels is None else in_channels)
    return ConvNet(net, 1000 if num_classes is None else num_classes, stochastic_depth)
