"""Our GELU against torch's in float64, and under everything that takes autograd apart."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nextify.kernels import choice, libraries
from nextify.kernels.modules import FastGELU
from nextify.system import native
from nextify.system.native import Mode
from tests.kernels.helpers import DTYPES, needs_kernels, recorder

pytestmark = needs_kernels


def module(mode: Mode = "on") -> FastGELU:
    found = FastGELU()
    found.kernels = mode
    return found


gelu = module()


def value_and_gradient(x: Tensor, function: object) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    y = function(x)  # type: ignore[operator]
    incoming = torch.linspace(-2, 2, x.numel()).view(x.shape).to(torch.bfloat16).to(x.dtype)
    return y.detach(), torch.autograd.grad(y, x, incoming)[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(7,), (3, 5, 9), (2, 129, 130)], ids=str)
def test_agrees_with_float64(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(len(shape))
    x = (4 * torch.randn(shape)).to(dtype)
    limit = 2e-6 if dtype == torch.float32 else 2**-8
    for got, expected in zip(value_and_gradient(x, gelu), value_and_gradient(x.double(), F.gelu), strict=True):
        assert got.dtype == dtype
        assert (got.double() - expected).abs().le(limit * expected.abs().clamp_min(1)).all()
    assert libraries()["gelu"].startswith("compiled")


def test_far_from_zero_and_no_numbers() -> None:
    x = torch.tensor([0.0, -0.0, 5.59, 5.61, -5.59, -5.61, 60.0, -60.0, 3e38, -3e38, torch.nan, torch.inf])
    y, grad = value_and_gradient(x, gelu)
    expected, expected_grad = value_and_gradient(x.double(), F.gelu)
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=1e-6, equal_nan=True)
    finite = expected_grad.isfinite() & x.abs().lt(1e30)
    torch.testing.assert_close(grad.double()[finite], expected_grad[finite], rtol=1e-6, atol=2e-6)
    assert grad[10].isnan()


def test_any_memory_layout_and_number_of_threads() -> None:
    x = torch.randn(3, 40, 41, 8)
    crossed = x.permute(0, 3, 1, 2)
    for got, expected in zip(value_and_gradient(crossed, gelu), value_and_gradient(crossed, F.gelu), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=2e-6)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(value_and_gradient(x, gelu))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_gradients_of_gradients_checkpoints_and_autocast() -> None:
    x = torch.randn(50, dtype=torch.float32, requires_grad=True)
    (first,) = torch.autograd.grad(gelu(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    (reference,) = torch.autograd.grad(F.gelu(x).sum(), x, create_graph=True)
    torch.testing.assert_close(second, torch.autograd.grad(reference.sum(), x)[0], rtol=1e-5, atol=1e-5)
    plain, kept = (
        torch.autograd.grad(gelu(x).sum(), x),
        torch.autograd.grad(checkpoint(gelu, x, use_reentrant=False).sum(), x),
    )
    assert torch.equal(plain[0], kept[0])
    net = nn.Sequential(nn.Linear(8, 16), gelu)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(torch.randn(2, 8)).dtype == torch.bfloat16


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", ["on", "auto"])
def test_compiled_and_exported(mode: Mode, backend: str) -> None:
    net = nn.Sequential(nn.Linear(8, 16), module(mode))
    x = torch.randn(2, 8)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend=backend)(x), net(x))
    targets = {str(node.target) for node in torch.export.export(net, (x,)).graph.nodes}
    assert "aten.gelu.default" in targets
    assert not any("nextify" in target for target in targets)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compiled_for_inference_it_is_in_parts_that_can_be_fused(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-12, 12, 1001), torch.tensor([-60.0, 60.0, -3e38, 3e38])]).to(dtype)
    nodes: list[torch.fx.Node] = []
    torch._dynamo.reset()
    with torch.inference_mode():
        got = torch.compile(gelu, fullgraph=True, backend=recorder(nodes))(x)
    limit = 2e-6 if dtype == torch.float32 else 2**-8
    expected = F.gelu(x.double())
    assert got.dtype == dtype
    assert (got.double() - expected).abs().le(limit * expected.abs().clamp_min(1)).all()
    assert nodes
    assert not any("gelu" in str(node.target) for node in nodes)


def test_without_a_working_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(native, "builds", {})
    monkeypatch.setattr(native, "compiler", lambda: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    x = torch.randn(30)
    assert all(
        torch.equal(a, b) for a, b in zip(value_and_gradient(x, gelu), value_and_gradient(x, F.gelu), strict=True)
    )
    assert libraries()["gelu"].startswith("not ours, because no C++ compiler")
    assert gelu.choice == choice.NOT_READY
    torch.testing.assert_close(torch.ops.nextify.gelu(x), F.gelu(x))
    torch.testing.assert_close(torch.ops.nextify.gelu_grad(x, x), torch.ops.aten.gelu_backward(x, x))


def test_other_types_and_modes_are_torchs() -> None:
    x = torch.randn(30)
    assert torch.equal(gelu(x.double()), F.gelu(x.double()))
    assert gelu.choice == choice.TYPE
    assert torch.equal(gelu(x.half()), F.gelu(x.half()))
