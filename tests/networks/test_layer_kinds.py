"""A layer of an unknown kind is refused everywhere; a registered one is counted, drawn and built."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from nextify.networks import layers
from nextify.networks.layout import Layer, Layout, UnknownLayer, layout, smallest_image, walk
from nextify.networks.network import ConvNet
from nextify.paper.design import CONVNEXT_TINY, Design
from nextify.report import diagram
from nextify.weights import naming

DESIGN = CONVNEXT_TINY.with_(depths=(1,), widths=(8,), stage_strides=(1,), downsampling="none")


@dataclass(frozen=True)
class Unknown:
    channels: int


@dataclass(frozen=True)
class Shift(Layer):
    """Adds a learned vector and halves the resolution."""

    channels: int
    label = "shift/2"

    @property
    def parameters(self) -> int:
        return self.channels

    @property
    def outputs(self) -> int:
        return self.channels

    def size(self, side: int) -> int:
        return side // 2

    def input_size(self, side: int) -> int:
        return 2 * side


class ShiftModule(nn.Module):
    def __init__(self, layer: Shift) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layer.channels))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, ::2, ::2] + self.weight


@pytest.fixture
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "MODULES", dict(layers.MODULES))
    layers.module_of(Shift)(ShiftModule)


def with_layer(layer: object, monkeypatch: pytest.MonkeyPatch) -> Layout:
    net = layout(DESIGN)
    changed = replace(net, stem=(*net.stem, ("shift", layer)))  # type: ignore[arg-type]

    def replaced(design: Design, in_channels: int = 3) -> Layout:
        return changed

    monkeypatch.setattr(diagram, "layout", replaced)
    return changed


def test_an_unknown_layer_is_refused_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    net = with_layer(Unknown(8), monkeypatch)
    for use in (
        lambda: list(walk(net, 32)),
        lambda: ConvNet(net),
        lambda: diagram.block_text(DESIGN),
        lambda: diagram.layer_differences(DESIGN, DESIGN),
        lambda: layers.build(Shift(8)),  # known to the plan, but without a module
    ):
        with pytest.raises(UnknownLayer, match="is not a known layer"):
            use()


@pytest.mark.usefixtures("_registered")
def test_a_new_layer_is_counted_drawn_and_built(monkeypatch: pytest.MonkeyPatch) -> None:
    net = with_layer(Shift(8), monkeypatch)
    placed = next(placed for placed in walk(net, 32) if placed.path == "stem.shift")
    assert (placed.parameters, placed.channels, placed.height, placed.macs) == (8, 8, 4, 0)
    assert smallest_image(net) == 8
    assert diagram.block_text(DESIGN).splitlines()[0].endswith("→ shift/2")
    model = ConvNet(net, 2).eval()
    assert "stem.shift.weight" in model.state_dict()
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 2)
    monkeypatch.setattr(naming, "layout", lambda _: net)
    own = naming.table.__wrapped__("nextify", None)
    assert {own.to_ours(name) for name in model.state_dict()} == set(model.state_dict())
