"""Blocks run in strips of pixels against the same layers one by one, and where they must not be."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from nextify.kernels import choice, install
from nextify.kernels.pixelwise import products, strips
from nextify.kernels.pixelwise import training as pixelwise_grad
from nextify.paper.design import Design
from tests.helpers import SMALL
from tests.kernels.helpers import IMAGES, fast_model, needs_kernels, networks, recorder

pytestmark = needs_kernels
BLOCKS_RUN_IN = strips


@pytest.fixture(autouse=True, params=["our products", "torch's products"])
def ours(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the matrix products are our own, on any CPU."""
    ours: bool = request.param == "our products"
    monkeypatch.setattr(choice, "own_products", lambda mode: ours)
    monkeypatch.setattr(pixelwise_grad, "ready", lambda: False)
    monkeypatch.setattr(strips, "STRIP_BYTES", 1)
    for name in ("LEAST_BYTES", "LEAST_BYTES_COMPILED", "LEAST_BYTES_OWN"):
        monkeypatch.setattr(choice, name, 1)
    monkeypatch.setattr(strips, "FEWEST_PIXELS", 37)  # divides no number of pixels here
    return ours


def one_by_one(model: nn.Module, images: Tensor) -> Tensor:
    y: Tensor = plain(model)(images)
    return y


def plain(model: nn.Module) -> nn.Module:
    copied = copy.deepcopy(model)
    install(copied, "off")
    return copied


@pytest.mark.parametrize("design", networks().values(), ids=networks())
def test_gives_what_the_layers_give_one_by_one(design: Design, blocks: list[int]) -> None:
    torch.manual_seed(0)
    model = fast_model(design, 0).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        got, expected = model(IMAGES), one_by_one(model, IMAGES)
        assert len(blocks) == sum(design.depths)
        assert torch.allclose(got, expected, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        assert torch.equal(model(IMAGES), got)


@pytest.mark.parametrize("how", ["autocast", "bfloat16"])
def test_bfloat16(how: str, blocks: list[int]) -> None:
    torch.manual_seed(0)
    model, images = fast_model(SMALL, 0).eval(), IMAGES
    if how == "bfloat16":
        model, images = model.bfloat16(), images.bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        got, expected = model(images), one_by_one(model, images)
    assert len(blocks) == sum(SMALL.depths)
    assert got.dtype == expected.dtype
    assert (got - expected).norm() < 2e-2 * expected.norm()


def test_odd_widths_in_bfloat16(blocks: list[int]) -> None:
    torch.manual_seed(0)
    model = fast_model(SMALL.with_(widths=(5, 9, 13, 21)), 0).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got, expected = model(IMAGES), one_by_one(model, IMAGES)
    assert blocks == [5, 9, 13, 13, 21]
    assert (got - expected).norm() < 2e-2 * expected.norm()


@pytest.mark.parametrize("change", ["relu", "float64", "float16", "no compiler"])
def test_others_go_layer_by_layer(change: str, blocks: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = fast_model(SMALL.with_(activation="relu") if change == "relu" else SMALL, 2).eval(), IMAGES
    if change.startswith("float"):
        dtype = getattr(torch, change)
        model, images = model.to(dtype), images.to(dtype)
    if change == "no compiler":
        monkeypatch.setattr(strips, "ready", lambda: False)
        monkeypatch.setattr(choice, "own_products", lambda mode: False)
    with torch.no_grad():
        model(images)
    assert not blocks


def test_training_takes_the_layers_one_by_one(blocks: list[int]) -> None:
    model = fast_model(SMALL, 2, stochastic_depth=0.5)
    model(IMAGES).sum().backward()
    model.eval()(IMAGES).sum().backward()  # gradients in evaluation mode
    with torch.no_grad():
        model.train()(IMAGES)
    assert blocks == [8]  # the first block's path is never dropped
    frozen = fast_model(SMALL, 2).eval().requires_grad_(False)
    frozen(IMAGES)
    assert len(blocks) == 1 + sum(SMALL.depths)
    frozen(IMAGES.clone().requires_grad_()).sum().backward()
    assert len(blocks) == 1 + sum(SMALL.depths)


@pytest.mark.parametrize("trained", ["spatial.weight", "layer_scale", "norm.bias", "pointwise2.bias"])
def test_one_trained_parameter_gets_its_gradient(trained: str, blocks: list[int]) -> None:
    block = fast_model(SMALL, 2).eval().requires_grad_(False).stages[1].blocks[0]
    parameter = block.get_parameter(trained).requires_grad_()
    block(torch.randn(2, 5, 7, 16)).square().sum().backward()
    assert parameter.grad is not None
    assert not blocks


@pytest.mark.parametrize("name", ["pointwise1", "activation"])
def test_a_hook_sees_whole_layers(name: str, blocks: list[int]) -> None:
    model = fast_model(SMALL, 2).eval()
    seen: list[tuple[int, ...]] = []
    layer = getattr(model.stages[0].blocks[0], name)
    hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    with torch.no_grad():
        with_hook = model(IMAGES)
        assert seen == [(2, 16, 24, 32)]
        assert blocks == [16, 24, 24, 32]
        hook.remove()
        assert torch.allclose(model(IMAGES), with_hook, rtol=1e-4, atol=1e-5)
    assert blocks[4:] == [8, 16, 24, 24, 32]


def test_a_hook_on_every_module_sees_whole_layers(blocks: list[int]) -> None:
    model = fast_model(SMALL, 2).eval()
    seen: list[nn.Module] = []
    hook = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(module))
    try:
        with torch.no_grad():
            model(IMAGES)
    finally:
        hook.remove()
    assert not blocks
    assert sum(isinstance(module, nn.GELU) for module in seen) == sum(SMALL.depths)


def test_a_layer_of_another_kind_is_called(blocks: list[int]) -> None:
    class Adapter(nn.Linear):
        pass

    model = fast_model(SMALL, 2).eval()
    model.stages[0].blocks[0].pointwise2 = Adapter(32, 8)
    with torch.no_grad():
        model(IMAGES)
    assert blocks == [16, 24, 24, 32]


def test_any_memory_layout(blocks: list[int]) -> None:
    block = fast_model(SMALL, 2).eval().stages[1].blocks[0]
    for images in (torch.randn(1, 16, 9, 7), torch.randn(3, 16, 9, 7)):
        with torch.no_grad():
            got = block(images.permute(0, 2, 3, 1))  # (N, H, W, C), and not contiguous
            assert torch.allclose(got, one_by_one(block, images.permute(0, 2, 3, 1).contiguous()), rtol=1e-4, atol=1e-5)
    assert blocks == [16, 16]


def test_beside_another_default_device(blocks: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = fast_model(SMALL, 2).eval()
    monkeypatch.setattr(products, "_kept", threading.local())
    with torch.inference_mode():
        with torch.device("meta"):
            got = model(IMAGES)
        assert got.device.type == "cpu"
        assert torch.equal(got, model(IMAGES))
    assert len(blocks) == 2 * sum(SMALL.depths)


def test_in_threads() -> None:
    model = fast_model(SMALL, 2).eval()
    with torch.no_grad():
        expected = model(IMAGES)

        def run(_: int) -> Tensor:
            with torch.no_grad():
                y: Tensor = model(IMAGES)
            return y

        with ThreadPoolExecutor(4) as pool:
            assert all(torch.equal(got, expected) for got in pool.map(run, range(12)))


def test_under_vmap(blocks: list[int]) -> None:
    block = fast_model(SMALL, 2).eval().stages[1].blocks[0]
    images = torch.randn(3, 2, 5, 7, 16)
    with torch.no_grad():
        got = torch.vmap(block)(images)
        assert not blocks
        assert torch.allclose(got[0], block(images[0]), rtol=1e-4, atol=1e-5)


def test_few_pixels_stay_in_a_cache_as_they_are(blocks: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = fast_model(SMALL, 2).eval()
    for name in ("LEAST_BYTES", "LEAST_BYTES_OWN"):
        monkeypatch.setattr(choice, name, 2 * 16 * 24 * 32 * 4)  # the first block's hidden activations
    with torch.no_grad():
        model(IMAGES)
    assert blocks == [8]


def test_a_compiled_graph_holds_one_operator_a_block() -> None:
    model = fast_model(SMALL, 2).eval()
    nodes: list[torch.fx.Node] = []
    torch._dynamo.reset()
    with torch.inference_mode():
        got = torch.compile(model, fullgraph=True, backend=recorder(nodes))(IMAGES)
        assert torch.allclose(got, model(IMAGES), rtol=1e-5, atol=1e-6)
    assert sum("nextify.strips" in str(node.target) for node in nodes) == sum(SMALL.depths)
    torch._dynamo.reset()


def test_multiply_adds_are_counted() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = fast_model(SMALL, 2).eval()
    counts = []
    for network in (model, plain(model)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(IMAGES)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


def test_a_profiler_sees_all_steps(ours: bool) -> None:
    from torch.profiler import ProfilerActivity, profile

    model = fast_model(SMALL, 2).eval()
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        model(IMAGES)
    seen = {event.key for event in profiler.key_averages()}
    torchs = {"aten::mm", "aten::native_layer_norm", "nextify::bias_gelu", "nextify::scaled_sum"}
    assert ({"nextify::pixelwise"} if ours else torchs) <= seen
