"""The pixelwise part of a block in training, with matrix products of our own: against float64, against the layers one
by one, and under everything that takes autograd apart."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from nextify.kernels import choice, install
from nextify.kernels.pixelwise import strips
from nextify.kernels.pixelwise import training as pixelwise_grad
from nextify.kernels.pixelwise.products import Weights
from nextify.networks.network import Block
from nextify.paper.design import Design
from tests.helpers import SMALL, TWO_STAGES
from tests.kernels.helpers import (
    DTYPES,
    IMAGES,
    draw,
    fast_model,
    layer_by_layer,
    needs_kernels,
    networks,
    recorder,
)

pytestmark = needs_kernels
BLOCKS_RUN_IN = pixelwise_grad
NAMES = Weights._fields[:-1]


@pytest.fixture(autouse=True)
def _ours_on_any_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "own_products", lambda mode: True)
    monkeypatch.setattr(strips, "STRIP_BYTES", 1)
    monkeypatch.setattr(pixelwise_grad, "STRIP_BYTES", 1)
    monkeypatch.setattr(strips, "FEWEST_PIXELS", 37)  # divides no number of pixels here


def case(rows: int, columns: int, wide: int, outputs: int, without: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Inputs by name, whose values bfloat16 holds exactly."""
    found = {
        "x": draw(rows, columns),
        "shortcut": draw(rows, outputs, seed=1),
        "norm_weight": draw(columns, seed=2),
        "norm_bias": draw(columns, seed=3),
        "weight1": draw(wide, columns) / columns**0.5,
        "bias1": draw(wide, seed=4),
        "weight2": draw(outputs, wide, seed=5) / wide**0.5,
        "bias2": draw(outputs, seed=6),
        "scale": draw(outputs, seed=7),
    }
    return {name: t.bfloat16().float() for name, t in found.items() if name not in without}


def weights_in(inputs: dict[str, Tensor]) -> Weights:
    return Weights(*(inputs.get(name) for name in NAMES), 1e-6)  # type: ignore[arg-type]


def outputs_of(inputs: dict[str, Tensor], dtype: torch.dtype, incoming: torch.dtype) -> list[Tensor]:
    """Ours: the output, and the gradients of all inputs in turn."""
    leaves = {name: t.clone().requires_grad_() for name, t in inputs.items()}
    if dtype == torch.bfloat16:
        leaves |= {name: leaves[name].detach().to(dtype).requires_grad_() for name in ("x",)}
    y = pixelwise_grad.pixelwise(leaves["x"], leaves.get("shortcut"), weights_in(leaves), dtype)
    grad = draw(*y.shape, seed=8).bfloat16().to(incoming)
    return [y, *torch.autograd.grad(y, list(leaves.values()), grad.to(y.dtype))]


def exact(inputs: dict[str, Tensor]) -> list[Tensor]:
    leaves = {name: t.double().requires_grad_() for name, t in inputs.items()}
    y = layer_by_layer(leaves["x"], weights_in(leaves)) + leaves.get("shortcut", 0)
    return [y, *torch.autograd.grad(y, list(leaves.values()), draw(*y.shape, seed=8).bfloat16().double())]


def error(got: Tensor, expected: Tensor) -> float:
    return float((got.detach().double() - expected.detach()).norm() / expected.detach().norm())


@pytest.mark.parametrize(
    "sizes",
    [(1, 6, 10, 2), (5, 96, 384, 96), (149, 130, 70, 34), (100, 64, 256, 128), (75, 6, 300, 18), (11, 7, 29, 5)],
)
@pytest.mark.parametrize("strip", [1, 37, 1000])
def test_float32_against_float64(sizes: tuple[int, ...], strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "FEWEST_PIXELS", strip)
    inputs = case(*sizes)
    got = outputs_of(inputs, torch.float32, torch.float32)
    for name, own, expected in zip(("y", *inputs), got, exact(inputs), strict=True):
        assert error(own, expected) < 3e-6, name


@pytest.mark.parametrize("incoming", DTYPES)
@pytest.mark.parametrize("strip", [37, 1000])
def test_bfloat16_against_float64(incoming: torch.dtype, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "FEWEST_PIXELS", strip)
    inputs = case(149, 130, 70, 34)
    got = outputs_of(inputs, torch.bfloat16, incoming)
    for name, own, expected in zip(("y", *inputs), got, exact(inputs), strict=True):
        assert error(own, expected) < 1e-2, name


def test_a_last_strip_whose_panels_are_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1,300 rows panels have half the width, of the 1,200 that are left the whole, and more bytes."""
    monkeypatch.setattr(pixelwise_grad, "strip_of", lambda *_: 1300)
    inputs = case(2500, 8, 70, 8)
    got = outputs_of(inputs, torch.float32, torch.float32)
    for name, own, expected in zip(("y", *inputs), got, exact(inputs), strict=True):
        assert error(own, expected) < 3e-6, name


@pytest.mark.parametrize("without", [("norm_weight", "norm_bias"), ("bias1",), ("bias2",), ("scale",), ("shortcut",)])
def test_what_is_absent(without: tuple[str, ...]) -> None:
    inputs = case(50, 32, 64, 32, without)
    got = outputs_of(inputs, torch.float32, torch.float32)
    for name, own, expected in zip(("y", *inputs), got, exact(inputs), strict=True):
        assert error(own, expected) < 3e-6, name


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_to_the_bit_with_any_number_of_threads(dtype: torch.dtype) -> None:
    inputs, results = case(301, 96, 200, 96), []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        results.append(outputs_of(inputs, dtype, torch.float32))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def randomized(design: Design, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = fast_model(design, 10, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def step(model: nn.Module, ours: bool, images: Tensor = IMAGES) -> list[Tensor]:
    """The logits and the gradients of all parameters."""
    install(model, "on" if ours else "off")
    model.zero_grad()
    torch.manual_seed(1)
    logits = model(images)
    logits.float().square().sum().backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def assert_alike(got: list[Tensor], expected: list[Tensor], limit: float) -> None:
    assert len(got) == len(expected)
    nothing = 1e-6 * max(float(b.norm()) for b in expected)  # a bias before a batch norm has no gradient but rounding
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert float((a - b).norm()) < limit * float(b.norm()) + nothing


@pytest.mark.parametrize("design", networks().values(), ids=networks())
def test_trains_as_the_layers_one_by_one(design: Design, blocks: list[int]) -> None:
    model = randomized(design)
    got = step(model, ours=True)
    assert len(blocks) == sum(design.depths)
    # Batch norm of two images multiplies what rounding leaves.
    assert_alike(got, step(model, ours=False), 1e-3 if design.norm == "batch" else 2e-4)
    assert len(blocks) == sum(design.depths)


def test_stochastic_depth_drops_the_same_paths(blocks: list[int]) -> None:
    model = randomized(SMALL, stochastic_depth=0.5)
    assert_alike(step(model, ours=True), step(model, ours=False), 2e-4)
    assert len(blocks) == sum(SMALL.depths)


@pytest.mark.parametrize("how", ["autocast", "bfloat16"])
def test_bfloat16(how: str, blocks: list[int]) -> None:
    torch.manual_seed(0)
    model, images = fast_model(SMALL, 10), IMAGES
    exact = step(model, ours=False)
    if how == "bfloat16":
        model, images = model.bfloat16(), images.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        got, layers = step(model, True, images), step(model, False, images)
    assert len(blocks) == sum(SMALL.depths)
    for own, theirs, expected in zip(got, layers, exact, strict=True):
        assert own.dtype == theirs.dtype
        assert error(own, expected.double()) < 1.5 * error(theirs, expected.double()) + 1e-2


def test_second_derivatives() -> None:
    inputs = [t.requires_grad_() for t in case(4, 3, 5, 3).values()]

    def gradients(*leaves: Tensor) -> tuple[Tensor, ...]:
        x, shortcut, *rest = leaves
        y = pixelwise_grad.pixelwise(x, shortcut, Weights(*rest, 1e-6), torch.float32)  # type: ignore[arg-type]
        return torch.autograd.grad(y.square().sum(), leaves, create_graph=True)

    def by_layers(*leaves: Tensor) -> tuple[Tensor, ...]:
        x, shortcut, *rest = leaves
        y = shortcut + layer_by_layer(x, Weights(*rest, 1e-6))  # type: ignore[arg-type]
        return torch.autograd.grad(y.square().sum(), leaves, create_graph=True)

    twice = [torch.autograd.grad(sum(g.sin().sum() for g in f(*inputs)), inputs) for f in (gradients, by_layers)]
    for own, expected in zip(*twice, strict=True):
        assert error(own, expected.double()) < 1e-4


def test_checkpointing(blocks: list[int]) -> None:
    model = randomized(SMALL)
    expected = step(model, ours=True)
    model.set_grad_checkpointing()
    got = step(model, ours=True)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert len(blocks) == 3 * sum(SMALL.depths)  # the second time each block ran twice
    block = next(module for module in model.modules() if isinstance(module, Block))
    x = draw(2, 9, 7, 8).requires_grad_()
    checkpoint(block, x, use_reentrant=True).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("frozen", ["norm.weight", "pointwise1.weight", "layer_scale", "spatial.bias"])
def test_a_frozen_parameter_stays_without_a_gradient(frozen: str, blocks: list[int]) -> None:
    block = randomized(SMALL).stages[1].blocks[0]  # type: ignore[union-attr, index]
    parameter = block.get_parameter(frozen).requires_grad_(False)
    block(draw(2, 5, 7, 16).requires_grad_()).square().sum().backward()
    assert parameter.grad is None
    assert all(p.grad is not None for p in block.parameters() if p is not parameter)
    assert not blocks


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_a_hook_sees_whole_layers(kind: str, blocks: list[int]) -> None:
    model, seen = randomized(SMALL), []
    layer = model.stages[0].blocks[0].activation  # type: ignore[union-attr, index]
    hook = getattr(layer, f"register_{kind}_hook")(lambda module, *others: seen.append(module))
    step(model, ours=True)
    assert seen == [layer]
    assert blocks == [16, 24, 24, 32]
    hook.remove()
    step(model, ours=True)
    assert blocks[4:] == [8, 16, 24, 24, 32]


def test_odd_widths_in_bfloat16_go_layer_by_layer(blocks: list[int]) -> None:
    model = randomized(SMALL.with_(widths=(5, 8, 9, 12)))
    with torch.autocast("cpu", torch.bfloat16):
        step(model, ours=True)
    assert blocks == [8, 12]
    step(model, ours=True)
    assert blocks[2:] == [5, 8, 9, 9, 12]


@pytest.mark.parametrize("change", ["relu", "float64", "no compiler", "evaluation without gradients"])
def test_others_go_layer_by_layer(change: str, blocks: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = fast_model(SMALL.with_(activation="relu") if change == "relu" else SMALL, 2), IMAGES
    if change == "float64":
        model, images = model.double(), images.double()
    if change == "no compiler":
        monkeypatch.setattr(pixelwise_grad, "ready", lambda: False)
    with torch.set_grad_enabled(change != "evaluation without gradients"):
        model(images)
    assert not blocks


def test_under_functional_transforms(blocks: list[int]) -> None:
    block = randomized(SMALL, mode="on").stages[1].blocks[0]  # type: ignore[union-attr, index]
    parameters = {name: p.detach() for name, p in block.named_parameters()}
    images = draw(3, 2, 5, 7, 16)

    def loss(own: dict[str, Tensor], x: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(block, own, (x,))
        return y.square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, images)
    assert not blocks
    block(images[1].requires_grad_()).square().sum().backward()
    assert blocks == [16]
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None
        assert error(each[name][1], parameter.grad.double()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_compiles_without_a_graph_break(dtype: torch.dtype) -> None:
    model = randomized(TWO_STAGES, stochastic_depth=0.2)
    torch._dynamo.reset()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        expected = step(model, ours=True)
        model.forward = torch.compile(model.forward, fullgraph=True, backend="aot_eager")
        got = step(model, ours=True)
    assert_alike(got, expected, 1e-6 if dtype == torch.float32 else 2e-2)
    torch._dynamo.reset()


def test_a_compiled_graph_keeps_what_its_operators_take() -> None:
    """Inductor gives kept tensors of four axes an order of its own, and would copy them forth and back."""
    from torch._dynamo.backends.common import aot_autograd

    forward: list[torch.fx.Node] = []
    backward: list[torch.fx.Node] = []

    def noting(nodes: list[torch.fx.Node]) -> Any:
        return lambda graph, inputs: make_boxed_func(recorder(nodes)(graph, inputs))

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=noting(forward), bw_compiler=noting(backward))
    model = randomized(TWO_STAGES)
    torch.compile(model, fullgraph=True, backend=backend)(IMAGES).sum().backward()
    own = [node for node in (*forward, *backward) if "nextify." in str(node.target)]
    names = ("pixelwise.default", "pixelwise_grad", "depthwise_weight_grad")
    assert [sum(name in str(node.target) for node in own) for name in names] == [sum(TWO_STAGES.depths)] * 3
    for node in own:
        if "grad" in str(node.target):
            kept = node.args[1]
            assert isinstance(kept, torch.fx.Node)
            assert kept.op == "placeholder"
            assert kept.meta["val"].ndim == 2
    torch._dynamo.reset()


def test_operators_pass_torch_checks() -> None:
    inputs = case(12, 6, 10, 6)
    x, shortcut, *rest = inputs.values()
    torch.library.opcheck(torch.ops.nextify.pixelwise, (x, shortcut, *rest, 1e-6, torch.float32))
    torch.library.opcheck(torch.ops.nextify.pixelwise_grad, (shortcut, x, draw(12, 10), *rest, 1e-6))


def test_multiply_adds_are_counted() -> None:
    rows, columns, wide, outputs = 50, 32, 64, 48
    with FlopCounterMode(display=False) as counter:
        outputs_of(case(rows, columns, wide, outputs), torch.float32, torch.float32)
    assert counter.get_total_flops() == 3 * 2 * rows * wide * (columns + outputs)


def test_less_is_kept_for_the_backward_pass() -> None:
    block, kept = randomized(SMALL).stages[1].blocks[0], {}  # type: ignore[union-attr, index]
    parameters = {p.data_ptr() for p in block.parameters()}

    def note(t: Tensor) -> Tensor:
        if t.data_ptr() not in parameters:
            kept[t.data_ptr()] = t.numel()
        return t

    channels = []
    for ours in (True, False):
        kept.clear()
        x = draw(2, 12, 12, 16).requires_grad_()
        install(block, "on" if ours else "off")
        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            block(x)
        channels.append(sum(kept.values()) / (x.numel() / 16) / 16)
    assert channels[0] == 6  # the block's input, the norm's, and the hidden activations
    assert channels[1] > 10


def test_large_and_missing_numbers_go_through() -> None:
    inputs = case(4, 32, 32, 32, ("norm_weight", "norm_bias", "scale"))
    inputs["x"][1, 3], inputs["x"][2] = torch.nan, 1e30
    got = outputs_of(inputs, torch.float32, torch.float32)
    assert got[0][1].isnan().all()
    assert got[0][[0, 3]].isfinite().all()
    assert got[1][1].isnan().all()
    assert got[1][[0, 3]].isfinite().all()
    assert F.mse_loss(got[2], draw(4, 32, seed=8).bfloat16().float()) == 0
