"""Names to designs, and designs to torch modules."""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from nextify.networks.layout import layout
from nextify.paper.design import DESIGNS, Design
from nextify.paper.roadmap import ROADMAPS

if TYPE_CHECKING:
    from nextify.networks.network import ConvNet


class UnknownModel(KeyError):
    """An unknown model name; the message suggests the nearest ones."""

    def __str__(self) -> str:
        return str(self.args[0])


def designs() -> dict[str, Design]:
    """Every named design: the families, then each row of both roadmaps as ``resnet50_patchify``, ``resnet200_gelu``, …

    A row that changes only the recipe has the design of its neighbour, under a name of its own.
    """
    steps = {f"{regime}_{row.name}": row.design for regime, roadmap in ROADMAPS.items() for row in roadmap}
    return {**DESIGNS, **steps}


def list_models(pattern: str = "*") -> list[str]:
    """List the names of all designs that match a shell-style pattern, in the order of ``designs``."""
    return [name for name in designs() if fnmatch(name, pattern)]


def find_design(name: str | Design) -> Design:
    """The design of that name; a ``Design`` is returned as it is. Raises ``UnknownModel`` where there is none."""
    if isinstance(name, Design):
        return name
    known = designs()
    if not isinstance(name, str):
        raise UnknownModel(f"a model is a name of list_models() or a Design, got {name!r:.60}")
    if name not in known:
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
    """Build the network of a design, with fresh weights from torch's global generator.

    ``nextify.create_model`` takes the same arguments and can load weights too. Raises ``UnknownModel`` where there is
    no design of that name."""
    design = find_design(name_or_design)
    design.warn_of_inert_choices()
    from nextify.networks.network import ConvNet

    return ConvNet(layout(design, in_channels), num_classes, stochastic_depth)
