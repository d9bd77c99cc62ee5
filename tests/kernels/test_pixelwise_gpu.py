"""The pixelwise part of a block on a GPU: its Triton kernels in Triton's interpreter, and on a GPU the network against
its layers one by one."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from nextify.kernels import gpu, install, libraries
from nextify.kernels.pixelwise import strips
from nextify.networks.zoo import create_model
from nextify.paper.design import Design
from tests.helpers import ROOT, SMALL
from tests.kernels.helpers import DTYPES, networks, noting_blocks

ODD = SMALL.with_(widths=(8, 16, 24, 40))
NETWORKS = networks(ODD)
INTERPRETED = """
import sys
import torch
from nextify.kernels import gpu
from nextify.kernels.pixelwise import gpu as pixelwise_gpu
assert gpu.try_on("cpu") == "triton"
right, pixelwise_gpu.normalize = pixelwise_gpu.normalize, lambda x, *others: x
assert "do not agree" in gpu.try_on("cpu")
pixelwise_gpu.normalize = right
from tests.kernels.helpers import draw
from tests.kernels.test_pixelwise_grad import NAMES, case, error, exact, weights_in
nothing, small = (), (11, 7, 29, 5)
for sizes, absent in {
    "small": [(small, nothing), (small, ("norm_weight", "norm_bias")), (small, ("bias1", "bias2")),
              (small, ("scale", "shortcut"))],
    "large": [((5, 96, 384, 96), nothing), ((149, 130, 70, 34), nothing)],
}[sys.argv[1]]:
    for dtype in (torch.float32, torch.bfloat16):
        inputs = case(*sizes, absent)
        x, shortcut, weights = inputs["x"].to(dtype), inputs.get("shortcut"), weights_in(inputs)
        out = torch.empty(sizes[0], sizes[3])
        before = pixelwise_gpu.run(x, shortcut, weights, out, dtype=dtype, keeps=True)
        grad = draw(*out.shape, seed=8).bfloat16().float()
        found = pixelwise_gpu.backward(grad, x, before, weights)
        got = {"y": out, "shortcut": grad, **dict(zip(("x", *NAMES), found, strict=True))}
        for name, expected in zip(("y", *inputs), exact(inputs), strict=True):
            assert error(got[name], expected) < (3e-6 if dtype == torch.float32 else 1.5e-2), (sizes, dtype, name)
        again = torch.empty_like(out)
        pixelwise_gpu.run(x, shortcut, weights, again, dtype=dtype, keeps=False)
        assert torch.equal(again, out)
"""


@pytest.mark.parametrize("sizes", ["small", pytest.param("large", marks=pytest.mark.slow)])
def test_kernels_in_the_interpreter(sizes: str) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run(
        [sys.executable, "-c", INTERPRETED, sizes],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_without_a_gpu_the_reason_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(gpu, "notes", [])
    assert gpu.describe() == "torch; none of ours was asked for yet"
    assert not gpu.ready()
    assert gpu.describe().startswith(("not ours, because", "torch, no triton"))
    assert libraries()["gpu"] == gpu.describe()


@pytest.fixture
def _exact_products() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def network(design: Design) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = create_model(design, 10)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.cuda(), torch.randn(2, 3, 64, 96).cuda()


def step(model: nn.Module, images: torch.Tensor, ours: bool) -> list[torch.Tensor]:
    """The logits and the gradients of all parameters."""
    install(model, "on" if ours else "off")
    model.zero_grad()
    logits = model(images)
    logits.float().square().sum().backward()
    return [logits.detach().float(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-12))


@pytest.mark.gpu
@pytest.mark.usefixtures("_exact_products")
@pytest.mark.parametrize(
    ("design", "dtype"),
    [(NETWORKS[name], dtype) for name in NETWORKS for dtype in DTYPES if (name, dtype) != ("batch norm", DTYPES[1])],
)  # batch norm of two images multiplies what rounding leaves
def test_gpu_trains_as_the_layers_one_by_one(design: Design, dtype: torch.dtype) -> None:
    model, images = network(design)
    exact = step(model.double(), images.double(), ours=False)
    model = model.float()
    with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
        got, layers = step(model, images, ours=True), step(model, images, ours=False)
    nothing = 1e-6 * max(float(b.norm()) for b in exact)  # a bias before a batch norm has no gradient but rounding
    rounding = 1e-4 if dtype == torch.float32 else 2e-2
    for own, theirs, expected in zip(got, layers, exact, strict=True):
        assert own.dtype == theirs.dtype
        assert own.shape == theirs.shape
        if float(expected.norm()) > nothing:
            assert error(own, expected) < 1.5 * error(theirs, expected) + rounding


@pytest.mark.gpu
@pytest.mark.usefixtures("_exact_products")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gpu_infers_as_the_layers_one_by_one(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = network(ODD)
    seen = noting_blocks(strips, monkeypatch)
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = []
        for ours in (True, False):
            install(model, "on" if ours else "off")
            found.append(model(images).float())
    assert seen == [8, 16, 24, 24, 40]
    assert error(*found) < (1e-5 if dtype == torch.float32 else 5e-2)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_gpu_compiled_network_agrees() -> None:
    model, images = network(ODD)
    expected = step(model, images, ours=False)
    torch._dynamo.reset()
    model.forward = torch.compile(model.forward, fullgraph=True)
    for own, theirs in zip(step(model, images, ours=True), expected, strict=True):
        assert error(own, theirs) < 2e-3
    torch._dynamo.reset()
