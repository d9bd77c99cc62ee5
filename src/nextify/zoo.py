"""Names to designs, and designs to torch modules."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import TYPE_CHECKING

from nextify.design import DESIGNS, Design
from nextify.layout import layout
from nextify.roadmap import ROADMAPS

if TYPE_CHECKING:
    from nextify.nn.network import ConvNet


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
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    stochastic_depth: float = 0.0,
) -> ConvNet:
    """The torch module of a named or given design, with fresh weights drawn from torch's global generator.

    Args:
        name_or_design: a name of ``list_models()`` or a ``Design``.
        num_classes: width of the classifier; 0 gives features.
        in_channels: channels of the images.
        stochastic_depth: chance that the last block's branch is dropped in training.

    Raises:
        UnknownModel: no design of that name.
    """
    from nextify.nn.network import ConvNet

    design = find_design(name_or_design)
    design.warn_of_inert_choices()
    return ConvNet(layout(design, in_channels), num_classes, stochastic_depth)
