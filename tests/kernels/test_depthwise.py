"""The depthwise kernels against torch in float64, and under everything that takes autograd apart."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from nextify.kernels import choice, libraries
from nextify.kernels.depthwise import cpu
from nextify.kernels.depthwise.cpu import ready
from nextify.kernels.modules import FastDepthwise
from nextify.networks.layout import Conv
from nextify.system import native
from nextify.system.native import Mode
from tests.kernels.helpers import DTYPES, needs_kernels, recorder


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, mode: Mode = "on") -> Tensor:
    """The convolution of a `FastDepthwise`, as a function of its parameters too."""
    made = choice.depthwise(x, weight, bias, stride, mode)
    if made.kernel == "torch":
        return reference(x, weight, bias, stride)
    _, _, dtype, own, operator = made
    return cpu.depthwise_conv(x, weight, bias, stride, dtype=dtype, own=own, operator=operator)


def reference(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, weight.shape[-1] // 2, groups=weight.shape[0])
    return y.permute(0, 2, 3, 1)


def case(n: int, h: int, w: int, c: int, kernel_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Values that `dtype` holds exactly, so that a float64 reference sees the same numbers."""
    torch.manual_seed(n + h + w + c + kernel_size)
    tensors = torch.randn(n, h, w, c), torch.randn(c, 1, kernel_size, kernel_size), torch.randn(c)
    return tuple(t.to(dtype).requires_grad_() for t in tensors)  # type: ignore[return-value]


def outputs(function: object, inputs: tuple[Tensor, ...], stride: int, dtype: torch.dtype) -> list[Tensor]:
    """The output and the gradients of x, weight and bias, for an incoming gradient fixed by the shape."""
    inputs = tuple(t.detach().to(dtype).requires_grad_() for t in inputs)
    y = function(*inputs, stride)  # type: ignore[operator]
    incoming = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(y.dtype)
    return [y, *torch.autograd.grad(y, inputs, incoming)]


def error(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-12)).item()


def assert_close(got: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    limit = 5e-6 if dtype == torch.float32 else 4e-3  # rounding the result to bfloat16 alone costs up to 2e-3
    assert len(got) == len(expected)
    for name, a, b in zip(("output", "x", "weight", "bias"), got, expected, strict=False):
        assert a.shape == b.shape
        assert error(a, b) < limit, name


SHAPES = [(2, 9, 13, 40), (3, 8, 5, 7), (1, 1, 1, 16), (2, 4, 3, 33), (2, 17, 16, 64)]


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 7, *(pytest.param(k, marks=pytest.mark.slow) for k in (5, 9, 11))])
def test_agrees_with_float64(kernel_size: int, stride: int, dtype: torch.dtype) -> None:
    assert ready(kernel_size), libraries()
    for shape in SHAPES:
        inputs = case(*shape, kernel_size, dtype)
        assert_close(
            outputs(depthwise_conv, inputs, stride, dtype), outputs(reference, inputs, stride, torch.float64), dtype
        )


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_planes_larger_than_the_scratch(dtype: torch.dtype) -> None:
    inputs = case(1, 150, 130, 20, 7, dtype)
    assert_close(outputs(depthwise_conv, inputs, 1, dtype), outputs(reference, inputs, 1, torch.float64), dtype)


@needs_kernels
def test_the_number_of_threads_changes_nothing() -> None:
    inputs = case(5, 14, 14, 40, 7, torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(outputs(depthwise_conv, inputs, 1, torch.float32))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_infinities_and_nans_stay_where_they_are(dtype: torch.dtype) -> None:
    x, weight, _ = case(1, 9, 9, 20, 3, dtype)
    with torch.no_grad():
        x[0, 4, 4, 3], x[0, 8, 8, 5] = torch.nan, torch.inf
        weight.abs_()
        y, expected = (f(x, weight, None, 1) for f in (depthwise_conv, reference))
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.isinf(), expected.isinf())


@needs_kernels
def test_any_memory_layout_and_an_expanded_gradient() -> None:
    x, weight, bias = case(2, 6, 5, 24, 7, torch.float32)
    strided = x.detach().permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1).requires_grad_()
    grads = torch.autograd.grad(depthwise_conv(strided, weight, bias, 1).sum(), (strided, weight, bias))
    expected = torch.autograd.grad(reference(x, weight, bias, 1).sum(), (x, weight, bias))
    assert_close(list(grads), list(expected), torch.float32)


@needs_kernels
@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_gradients_of_some_inputs_only(wanted: tuple[bool, ...]) -> None:
    inputs = case(2, 6, 5, 24, 3, torch.float32)
    got, expected = [
        [t.detach().requires_grad_(want) for t, want in zip(inputs, wanted, strict=True)] for _ in range(2)
    ]
    depthwise_conv(*got, 1).square().sum().backward()
    reference(*expected, 1).square().sum().backward()
    for a, b in zip(got, expected, strict=True):
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or error(a.grad, b.grad) < 2e-6


@needs_kernels
@pytest.mark.parametrize("stride", [1, 2])
def test_second_derivatives(stride: int) -> None:
    inputs = case(2, 6, 5, 20, 3, torch.float32)
    results = []
    for function in (depthwise_conv, reference):
        grads = torch.autograd.grad(function(*inputs, stride).pow(3).sum(), inputs, create_graph=True)
        penalty = sum(g.square().sum() for g in grads)
        results.append(torch.autograd.grad(penalty, inputs))
    assert all(error(a, b) < 1e-5 for a, b in zip(*results, strict=True))


@needs_kernels
def test_autocast_keeps_parameter_gradients_in_their_type() -> None:
    inputs = case(2, 9, 9, 24, 7, torch.bfloat16)
    x, weight, bias = (t.detach().float().requires_grad_() for t in inputs)
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise_conv(x, weight, bias, 1)
    assert y.dtype == torch.bfloat16
    incoming = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    got = torch.autograd.grad(y, (x, weight, bias), incoming)
    assert [g.dtype for g in got] == [torch.float32] * 3
    expected = outputs(reference, inputs, 1, torch.float64)
    assert_close([y, *got], expected, torch.bfloat16)
    assert error(got[1], expected[2]) < 2e-6  # accumulated and handed over in float32


@needs_kernels
def test_checkpointing() -> None:
    inputs = case(2, 9, 9, 24, 7, torch.float32)
    plain = outputs(depthwise_conv, inputs, 1, torch.float32)
    again = outputs(lambda *a: checkpoint(depthwise_conv, *a, use_reentrant=False), inputs, 1, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@needs_kernels
@pytest.mark.parametrize("batch", [1, 2])
def test_a_single_image_takes_our_forward_pass_in_a_compiled_graph(batch: int) -> None:
    """Inductor would copy it around torch's convolution; eager fp32 stays with torch's."""
    x, weight, bias = (t.detach() for t in case(batch, 8, 8, 16, 7, torch.float32))
    nodes: list[torch.fx.Node] = []
    torch.compiler.reset()
    with torch.inference_mode():
        got = torch.compile(depthwise_conv, fullgraph=True, backend=recorder(nodes))(x, weight, bias, 1, "auto")
    assert any("depthwise_forward" in str(node.target) for node in nodes) == (batch == 1)
    assert error(got, reference(x, weight, bias, 1)) < 5e-6
    assert got.is_contiguous()


@needs_kernels
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str)
def test_compiles_without_a_graph_break(backend: str, dtype: torch.dtype) -> None:
    def block(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        return F.gelu(depthwise_conv(x, weight, bias, stride)) + 1

    torch.compiler.reset()
    inputs = case(2, 9, 9, 24, 7, dtype)
    compiled = torch.compile(block, fullgraph=True, backend=backend)
    for stride in (1, 2):
        got, expected = (outputs(f, inputs, stride, dtype) for f in (compiled, block))
        assert_close(got, expected, dtype)
    with torch.no_grad():
        assert error(compiled(*inputs, 1), block(*inputs, 1)) < 4e-3
    with torch.autocast("cpu", torch.bfloat16):
        got, expected = (outputs(f, inputs, 1, dtype) for f in (compiled, block))
    assert_close(got, expected, torch.bfloat16)


@needs_kernels
def test_exported_and_traced_graphs_hold_torch_operators_only() -> None:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(24, 1, 7, 7))

        def forward(self, x: Tensor) -> Tensor:
            return depthwise_conv(x, self.weight, None, 1)

    model, x = Block(), torch.randn(2, 9, 9, 24)
    for strict in (False, True):
        program = torch.export.export(model, (x,), strict=strict)
        assert not [n for n in program.graph.nodes if "nextify" in str(n.target)]
        assert error(program.module()(x), model(x)) < 2e-6


@needs_kernels
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # from opcheck itself
def test_operators_pass_torch_checks() -> None:
    x, weight, bias = (t.detach() for t in case(2, 5, 6, 20, 3, torch.float32))
    grad = torch.randn(2, 5, 6, 20)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        torch.ops.nextify.depthwise_forward.default, (x, weight, bias, 1, False, True), test_utils=tests
    )
    torch.library.opcheck(
        torch.ops.nextify.depthwise_forward.default, (x, weight, None, 2, True, True), test_utils=tests
    )
    rows = x.view(-1, 20)
    torch.library.opcheck(
        torch.ops.nextify.depthwise_weight_grad.default, (grad, rows, 5, 6, 3, 1, True, True), test_utils=tests
    )
    needs = (grad.requires_grad_(), rows.requires_grad_(), 5, 6, 3, 1, True, True)
    torch.library.opcheck(torch.ops.nextify.depthwise_weight_grad.default, needs)


@needs_kernels
@pytest.mark.parametrize("mode", ["on", "auto"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_operations_are_counted_alike(mode: Mode, dtype: torch.dtype) -> None:
    x, weight, bias = case(2, 9, 9, 24, 7, dtype)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        depthwise_conv(x, weight, bias, 1, mode)
    assert counter.get_total_flops() == 2 * 2 * 9 * 9 * 24 * 49
    with counter:
        depthwise_conv(x, weight, bias, 1, mode).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 2 * 9 * 9 * 24 * 49


def test_cases_without_a_kernel_take_torch() -> None:
    for kernel_size, dtype in ((1, torch.float32), (13, torch.float32), (3, torch.float64)):
        inputs = case(2, 5, 6, 8, kernel_size, dtype)
        got, expected = (outputs(f, inputs, 1, dtype) for f in (depthwise_conv, reference))
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert depthwise_conv(torch.empty(2, 5, 6, 8, device="meta"), torch.empty(8, 1, 3, 3, device="meta")).is_meta


def test_a_module_keeps_its_last_choice() -> None:
    layer, x = FastDepthwise(Conv(8, 8, 3, 1, 1, 8, True)), torch.randn(2, 5, 6, 8)
    assert torch.equal(layer.double()(x.double()), reference(x.double(), layer.weight, layer.bias, 1))
    assert layer.choice == choice.TYPE


@pytest.mark.parametrize(("compiler", "reason"), [(None, "no C++ compiler"), ("false", "failed"), ("true", "")])
def test_without_a_working_compiler(
    compiler: str | None, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr(native, "builds", {})
    monkeypatch.setattr(native, "compiler", lambda: compiler and shutil.which(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    inputs = case(2, 9, 9, 24, 7, torch.float32)
    got, expected = (outputs(f, inputs, 1, torch.float32) for f in (depthwise_conv, reference))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert libraries()["7×7"].startswith("not ours, because")
    assert reason in libraries()["7×7"]
    grad, x = torch.randn(2, 9, 9, 24), inputs[0].detach()  # the operator itself, as in a graph from elsewhere
    weight_grad, bias_grad = torch.ops.nextify.depthwise_weight_grad(grad, x.view(-1, 24), 9, 9, 7, 1, True, True)
    y = depthwise_conv(x, inputs[1], inputs[2], 1)
    expected = list(torch.autograd.grad(y, inputs[1:], grad))
    assert_close([weight_grad, bias_grad], expected, torch.float32)


@needs_kernels
@pytest.mark.slow
def test_processes_that_build_at_the_same_time(tmp_path: object) -> None:
    code = "from nextify.kernels.depthwise.cpu import ready; assert ready(3)"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    started = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]
    assert [process.wait(300) for process in started] == [0, 0, 0]


TRITON = """
import torch
from nextify.kernels.depthwise.gpu import forward, weight_grad
for n, h, w, c, k, stride in [(2, 5, 6, 40, 3, 1), (1, 7, 5, 8, 7, 2), (1, 4, 4, 33, 11, 1), (2, 9, 11, 20, 7, 1)]:
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(n, h, w, c).to(dtype)
        grad = torch.randn(n, (h - 1) // stride + 1, (w - 1) // stride + 1, c).to(dtype)
        got = weight_grad(grad, x, k, stride)
        weight, bias = torch.randn(c, 1, k, k, dtype=torch.float64), torch.randn(c, dtype=torch.float64)
        of_x, *expected = torch.ops.aten.convolution_backward(
            grad.double().permute(0, 3, 1, 2), x.double().permute(0, 3, 1, 2), weight, [c], [stride, stride],
            [k // 2, k // 2], [1, 1], False, [0, 0], c, [True, True, True])
        for a, b in zip(got, expected, strict=True):
            assert a.shape == b.shape and a.dtype == torch.float32
            assert (a - b).norm() / b.norm() < 1e-6
        if stride > 1:
            continue
        y = torch.nn.functional.conv2d(x.double().permute(0, 3, 1, 2), weight, bias, 1, k // 2, groups=c)
        for a, b in ((forward(x, weight, bias), y), (forward(grad, weight, None, flip=True), of_x)):
            b = b.permute(0, 2, 3, 1)
            assert a.shape == b.shape and a.dtype == dtype
            assert (a - b).norm() / b.norm() < (1e-6 if dtype == torch.float32 else 4e-3)
"""


@pytest.mark.slow
def test_gpu_kernel_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run(
        [sys.executable, "-c", TRITON], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_gpu_agrees_with_float64(stride: int, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        for kernel_size in (3, 7, 11):
            inputs = tuple(t.detach().cuda() for t in case(*shape, kernel_size, dtype))
            results = []
            for function, kind in ((depthwise_conv, dtype), (reference, torch.float64)):
                own = tuple(t.to(kind).requires_grad_() for t in inputs)
                y = function(*own, stride)
                incoming = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(y)
                results.append([y.detach(), *torch.autograd.grad(y, own, incoming)])
            limit = 2e-4 if dtype == torch.float32 else 1e-2
            assert all(error(a, b) < limit for a, b in zip(*results, strict=True))
