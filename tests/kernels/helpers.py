"""What the tests of compiled kernels share."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nextify.kernels import install
from nextify.kernels.pixelwise.products import Weights
from nextify.networks.network import ConvNet
from nextify.networks.zoo import create_model
from nextify.paper.design import DESIGNS, Design
from nextify.system import native
from nextify.system.native import Mode
from tests.helpers import SMALL

needs_kernels = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler here")
DTYPES = [torch.float32, torch.bfloat16]
IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def networks(small: Design = SMALL) -> dict[str, Design]:
    """Networks by name that differ in what their blocks are made of."""
    return {
        "convnext": small,
        "isotropic": DESIGNS["convnext_isotropic_small"].with_(depths=(2,), widths=(8,)),
        "no layer scale": small.with_(layer_scale="off"),
        "batch norm": small.with_(norm="batch"),
    }


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def layer_by_layer(x: Tensor, weights: Weights) -> Tensor:
    """``scale * (W2 gelu(W1 norm(x) + b1) + b2)`` by torch's layers, in the type of ``x``."""
    weights = Weights(*(None if t is None else t.to(x.dtype) for t in weights[:-1]), weights.eps)  # type: ignore[arg-type]
    y = x
    if weights.norm_weight is not None:
        y = F.layer_norm(y, y.shape[-1:], weights.norm_weight, weights.norm_bias, weights.eps)
    y = F.linear(F.gelu(F.linear(y, weights.weight1, weights.bias1)), weights.weight2, weights.bias2)
    return y if weights.scale is None else y * weights.scale


def fast_model(name_or_design: str | Design, num_classes: int = 1000, mode: Mode = "auto", **options: Any) -> ConvNet:
    """A network with kernels installed."""
    model = create_model(name_or_design, num_classes, **options)
    install(model, mode)
    return model


def recorder(nodes: list[torch.fx.Node]) -> Callable[[torch.fx.GraphModule, list[torch.Tensor]], object]:
    """A backend of `torch.compile` that notes a graph's nodes and runs them as they are."""

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        nodes.extend(graph.graph.nodes)
        return graph.forward

    return backend


def noting_blocks(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The channels of every block that the module's ``run`` takes from now on, in turn."""
    seen: list[int] = []
    real = module.run

    def run(x: torch.Tensor, *others: Any, **options: Any) -> torch.Tensor:
        seen.append(x.shape[-1])
        y: torch.Tensor = real(x, *others, **options)
        return y

    monkeypatch.setattr(module, "run", run)
    return seen
