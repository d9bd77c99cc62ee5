"""The kernel for convolutions of patches against torch in float64, and under what takes autograd apart."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from nextify.kernels import choice
from nextify.kernels.modules import FastPatches
from nextify.kernels.patches.cpu import patches_conv, ready
from nextify.networks.layers import SpatialConv
from nextify.networks.layout import Conv
from tests.helpers import TWO_STAGES
from tests.kernels.helpers import DTYPES, draw, fast_model, needs_kernels, recorder

pytestmark = needs_kernels
SIZES = [(2, 8, 12, 16, 24, 2), (3, 12, 8, 3, 10, 4), (1, 6, 6, 6, 34, 3), (2, 28, 28, 96, 192, 2), (1, 1, 1, 8, 2, 1)]
"""N, H, W, C, O, K."""


def reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, weight.shape[-1]).permute(0, 2, 3, 1)


def case(n: int, h: int, w: int, c: int, o: int, k: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Inputs that ``dtype`` holds exactly: x, weight and bias."""
    weight = draw(o, c, k, k) / (c * k * k) ** 0.5
    return [t.to(dtype).float().requires_grad_() for t in (draw(n, h, w, c), weight, draw(o))]


def error(got: Tensor, expected: Tensor) -> float:
    return float((got.detach().double() - expected.detach()).norm() / expected.detach().norm())


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_and_gradients_are_torchs(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    assert ready()
    inputs = case(*sizes, dtype=dtype)  # type: ignore[arg-type]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected, got = reference(*exact), patches_conv(*inputs, dtype)
    incoming = draw(*expected.shape).to(dtype)
    limit = 1e-6 if dtype == torch.float32 else 4e-3
    assert got.dtype == dtype
    assert error(got, expected) < limit
    with torch.no_grad():
        assert torch.equal(patches_conv(*inputs, dtype), got)
    found = torch.autograd.grad(got, inputs, incoming)
    for own, other in zip(found, torch.autograd.grad(expected, exact, incoming.double()), strict=True):
        assert own.dtype == torch.float32
        assert error(own, other) < limit


def test_parameters_in_bfloat16_any_memory_and_no_bias() -> None:
    x, weight, bias = (t.detach().bfloat16() for t in case(2, 8, 8, 6, 4, 2))
    exact = reference(x.double(), weight.double(), None)
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    for w in (weight, weight.contiguous(memory_format=torch.channels_last)):
        assert error(patches_conv(turned, w, None, torch.bfloat16), exact) < 4e-3
    shifted = reference(x.double(), weight.double(), bias.double())
    assert error(patches_conv(x, weight, bias, torch.bfloat16), shifted) < 4e-3
    learned = weight.clone().requires_grad_()
    patches_conv(x, learned, None, torch.bfloat16).sum().backward()
    assert learned.grad is not None
    assert learned.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_number_of_threads_changes_nothing(dtype: torch.dtype) -> None:
    inputs, found, before = case(2, 56, 56, 32, 48, 2), [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = patches_conv(*inputs, dtype)
            found.append([y, *torch.autograd.grad(y.float().square().sum(), inputs)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_a_gradient_can_itself_be_differentiated() -> None:
    inputs = case(2, 4, 6, 5, 7, 2)
    penalties = []
    for function, values in (
        (lambda *t: patches_conv(*t, torch.float32), inputs),
        (reference, [t.detach().double().requires_grad_() for t in inputs]),
    ):
        first = torch.autograd.grad(function(*values).square().sum(), values, create_graph=True)
        penalties.append(torch.autograd.grad(sum(g.square().sum() for g in first), values))
    for got, expected in zip(*penalties, strict=True):
        assert error(got, expected) < 1e-5


def test_checkpoints_and_counted_operations() -> None:
    inputs = case(2, 8, 8, 6, 4, 2)
    y = checkpoint(patches_conv, *inputs, torch.float32, use_reentrant=False)
    plain = torch.autograd.grad(patches_conv(*inputs, torch.float32).sum(), inputs)
    assert all(torch.equal(a, b) for a, b in zip(torch.autograd.grad(y.sum(), inputs), plain, strict=True))
    counts = []
    for function in (lambda *t: patches_conv(*t, torch.float32), reference):
        with FlopCounterMode(display=False) as counter:
            function(*inputs).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 3 * 2 * 2 * 16 * 24 * 4


def test_auto_trains_with_it_in_compiled_graphs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "own_products", lambda mode: True)
    model = fast_model("convnext_atto", 3)
    nodes: list[torch.fx.Node] = []
    convolutions = [m for m in model.modules() if isinstance(m, FastPatches)]
    assert len(convolutions) == 4
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        model(x)
    assert {m.choice.kernel for m in convolutions if m.choice} == {"torch"}
    torch.compile(model, backend=recorder(nodes))(x)
    assert sum("conv2d" in str(node.target) for node in nodes) == 1  # the stem's


def test_a_compiled_graph_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "own_products", lambda mode: True)
    model, x = fast_model(TWO_STAGES.with_(widths=(32, 64)), 3), torch.randn(2, 3, 64, 64)
    grads = []
    for run in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        run(x).square().sum().backward()
        grads.append([p.grad.double() for p in model.parameters() if p.grad is not None])
    assert all(error(got, exact) < 1e-4 for got, exact in zip(*grads, strict=True))


def test_images_of_no_whole_number_of_patches_run_on_torch() -> None:
    plain, layer = (SpatialConv(Conv(8, 6, 2, 2, 0, groups=1, bias=True)) for _ in range(2))
    layer.load_state_dict(plain.state_dict())
    layer.__class__ = FastPatches
    layer.__dict__["kernels"] = "on"
    assert isinstance(layer, FastPatches)
    whole, cut = draw(2, 6, 6, 8), draw(2, 7, 6, 8)
    assert error(layer(whole), plain(whole).double()) < 1e-6
    assert layer.choice is not None
    assert layer.choice.kernel == "ours"
    assert torch.equal(layer(cut), plain(cut))
    assert choice.patches(cut, layer.weight, layer.bias, "on").reason == "the image is no whole number of patches"
    assert choice.patches(whole.double(), layer.weight, layer.bias, "on") == choice.TYPE
    assert choice.patches(whole[..., :4], layer.weight, layer.bias, "on") == choice.SHAPE
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(whole).dtype == torch.bfloat16
