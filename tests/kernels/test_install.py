"""Kernels are installed into a finished network, and nothing about it changes but the speed."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from torch import nn

import nextify
from nextify.kernels import Installed, choice, describe, install
from nextify.kernels.modules import Fast
from nextify.networks.layout import layout
from nextify.networks.network import ConvNet
from nextify.networks.zoo import create_model, designs
from nextify.paper.design import RESNET50, Design
from tests.helpers import SMALL, TWO_STAGES
from tests.kernels.helpers import fast_model, recorder


def narrow(design: Design) -> Design:
    """The design with one block a stage and few channels."""
    stages = len(design.depths)
    return design.with_(depths=(1,) * stages, widths=tuple(8 * (i + 1) for i in range(stages)))


def distinct() -> dict[str, Design]:
    """Every design of the zoo that differs from the others when it is narrow."""
    found: dict[Design, str] = {}
    for name, design in designs().items():
        if not isinstance(design.groups, int) or design.groups == 1:
            found.setdefault(narrow(design), name)
    return {name: design for design, name in found.items()}


def fast_modules(model: nn.Module) -> int:
    return sum(isinstance(module, Fast) for module in model.modules())


@pytest.mark.parametrize("name", distinct())
def test_a_network_is_the_same_with_and_without_kernels(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(distinct()[name], 5).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    images, names = torch.randn(2, 3, 64, 64), list(model.state_dict())
    with torch.no_grad():
        plain = model(images)
        install(model, "on")
        fast = model(images)
        install(model, "off")
        assert torch.equal(model(images), plain)
    assert list(model.state_dict()) == names
    assert float((fast - plain).norm() / plain.norm()) < 1e-5


def test_a_network_without_kernels_is_plain_torch() -> None:
    model = create_model(SMALL, 2)
    assert not any(type(module).__module__.startswith("nextify.kernels") for module in model.modules())
    for part in (model.stem, *model.stages, model.head):  # as a whole it looks at the images' size
        nodes = torch.fx.symbolic_trace(part.eval()).graph.nodes
        assert nodes
        assert not [node for node in nodes if "nextify" in f"{node.target} {getattr(node.target, '__module__', '')}"]


def test_install_is_idempotent_and_off_takes_it_back() -> None:
    model = create_model(SMALL, 2)
    kinds = [type(module) for module in model.modules()]
    parameters = [id(parameter) for parameter in model.parameters()]
    install(model)
    once = [type(module) for module in model.modules()]
    assert fast_modules(model)
    install(model, "on")
    assert [type(module) for module in model.modules()] == once
    assert [id(parameter) for parameter in model.parameters()] == parameters
    assert install(model, "off") == []
    assert [type(module) for module in model.modules()] == kinds
    assert not any({"kernels", "choice"} & set(vars(module)) for module in model.modules())


def test_copies_pickles_and_hooks_survive() -> None:
    model = create_model(SMALL, 2).eval()
    seen: list[nn.Module] = []
    model.stages[0].blocks[0].spatial.register_forward_hook(lambda module, *_: seen.append(module))  # type: ignore[index, union-attr]
    install(model, "on")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        assert len(seen) == 1
        assert torch.equal(copy.deepcopy(model)(images), expected)
    install(model, "on")
    again = create_model(SMALL, 2).eval()
    install(again, "on")
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(pickle.loads(pickle.dumps(again))(images), expected)


def test_what_layers_run_on_is_told_with_the_reason() -> None:
    model = create_model(SMALL, 2).eval().double()
    found = install(model, "on")
    assert {group.kernel for group in found} == {"undecided"}
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64, dtype=torch.float64))
    groups = [
        Installed(**{**g, "layers": tuple(g["layers"])}) for g in json.loads(json.dumps(describe(model)))["layers"]
    ]
    assert {(group.kernel, group.reason) for group in groups} == {("torch", "neither float32 nor bfloat16")}
    blocks = next(group for group in groups if group.module == "FastBlock")
    assert blocks.layers == tuple(f"stages.{s}.blocks.{b}" for s, b in ((0, 0), (1, 0), (2, 0), (2, 1), (3, 0)))


def test_only_networks_of_ours_are_touched() -> None:
    other = nn.Sequential(nn.Linear(4, 4), nn.GELU())
    assert install(other, "on") == []
    assert type(other[1]) is nn.GELU
    approximate = create_model(SMALL, 2)
    approximate.stages[0].blocks[0].activation = nn.GELU(approximate="tanh")  # type: ignore[index, union-attr]
    install(approximate, "on")
    assert type(approximate.stages[0].blocks[0].activation) is nn.GELU  # type: ignore[index, union-attr]


def test_an_unknown_mode_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="auto, on or off"):
        install(create_model(SMALL, 2), "fast")  # type: ignore[arg-type]


def test_public_builders_give_plain_networks() -> None:
    assert not fast_modules(nextify.create_model(SMALL, 2))
    assert not fast_modules(nextify.create_backbone(SMALL))
    assert not fast_modules(ConvNet(layout(RESNET50.with_(depths=(1, 1, 1, 1))), 2))
    backbone = nextify.create_backbone(SMALL).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        plain = backbone(images)
        install(backbone, "on")
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(backbone(images), plain, strict=True))
    assert fast_modules(backbone)


@pytest.mark.parametrize("precision", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str)
def test_compiled_for_inference_biases_are_added_where_they_can_be_fused(
    precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32; under autocast a bias added afterwards would be rounded once more."""
    monkeypatch.setattr(choice, "AVX2_ALONE", True)
    monkeypatch.setattr(choice, "own_products", lambda mode: False)
    model = fast_model(TWO_STAGES, 0).eval()
    nodes: list[torch.fx.Node] = []
    images = torch.randn(2, 3, 64, 96)
    torch._dynamo.reset()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        got = torch.compile(model, fullgraph=True, backend=recorder(nodes))(images)
        expected = model(images)
    products = [node for node in nodes if "linear" in str(node.target)]
    linear = [len(node.args) > 2 and node.args[2] is not None for node in products]
    assert linear
    assert all(has_bias == (precision == torch.bfloat16) for has_bias in linear)
    error = (got - expected).norm() / expected.norm()
    assert error < (1e-5 if precision == torch.float32 else 2e-2)
    torch._dynamo.reset()


def test_weights_of_another_shape_are_refused() -> None:
    """Kernels would read memory that is not theirs."""
    block = fast_model(SMALL, 2, "on").eval().stages[1].blocks[0]  # type: ignore[union-attr, index]
    images = torch.randn(1, 9, 9, 16)
    block.spatial.weight = nn.Parameter(torch.randn(8, 1, 7, 7))
    with torch.no_grad(), pytest.raises(RuntimeError):
        block(images)
    block = fast_model(SMALL, 2, "on").eval().stages[1].blocks[0]  # type: ignore[union-attr, index]
    block.pointwise2.weight = nn.Parameter(torch.randn(16, 32))
    with torch.no_grad(), pytest.raises((RuntimeError, ValueError)):
        block(images)


def test_layer_scale_folded_equals_layer_scale_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model(SMALL.with_(depths=(1,), widths=(8,), stage_strides=(1,), downsampling="none"), 2).eval()
    block, x = model.stages[0].blocks[0], torch.randn(2, 6, 6, 8)  # type: ignore[index, union-attr]
    applied = block(x)
    install(model)
    monkeypatch.setattr(choice, "block", lambda *_: choice.SLOWER)  # layer by layer
    asked: list[bool] = []
    monkeypatch.setattr(choice, "scales_output", lambda *_: bool(asked.append(False)))
    torch.testing.assert_close(block(x), applied)
    assert asked
