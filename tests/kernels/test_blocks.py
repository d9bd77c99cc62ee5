"""Whole blocks in training against plain torch in float64, and what they leave to the layers."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nextify.kernels import choice, install, installed, libraries
from nextify.kernels.blocks import training as blocks
from nextify.networks.layers import BatchNorm, DropPath, LayerNorm
from nextify.networks.network import Block, ConvNet
from nextify.networks.zoo import create_model
from nextify.paper.design import CONVNEXT_TINY, RESNET50, Design
from nextify.paper.roadmap import roadmap
from nextify.system import native
from tests.kernels.helpers import needs_kernels

pytestmark = needs_kernels

RAGGED = {"depths": (1, 2), "widths": (17, 24), "stage_strides": (1, 2)}
"""Channels that fill no whole number of vectors."""


threads = pytest.mark.parametrize("as_measured", [1, 3], indirect=True, ids=["1 thread", "3 threads"])


@pytest.fixture(autouse=True)
def as_measured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, or as many as a test asks for, on what "auto" takes for a processor that was measured."""
    count = getattr(request, "param", 1)
    monkeypatch.setattr(choice, "AVX512", True)
    monkeypatch.setattr(choice, "MOST_THREADS_WHOLE", max(count, choice.MOST_THREADS_WHOLE))
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def drawn(design: Design, stochastic_depth: float = 0.0) -> ConvNet:
    """A network in training whose norms, biases and scales are not at their initial values."""
    torch.manual_seed(0)
    model = create_model(design, 3, stochastic_depth=stochastic_depth).train()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 1 if parameter.ndim == 1 else 0, 0.3)
    return model


def step(model: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The output for the images, and the gradients of all parameters."""
    torch.manual_seed(7)  # of the dropped paths
    model.zero_grad()
    y = model(images)
    (y * torch.arange(1, y.numel() + 1).view_as(y)).sum().backward()
    return y.detach(), [parameter.grad for parameter in model.parameters()]  # type: ignore[misc]


def kernels_of(model: nn.Module) -> set[str]:
    return {group.kernel for group in installed(model) if group.module == "FastBlock"}


def assert_same_step(model: ConvNet, images: Tensor, within: float = 1e-5) -> None:
    """Outputs, gradients and running statistics are those of plain torch in float64.

    A gradient is compared with the length of all: those of a bias that a batch norm takes back are noise around zero.
    """
    exact = copy.deepcopy(model).double()
    install(model)
    (y, grads), (expected, of_expected) = step(model, images), step(exact, images.double())
    assert kernels_of(model) == {"whole"}
    torch.testing.assert_close(y.double(), expected, rtol=within, atol=within * float(expected.abs().max()))
    length = max(float(grad.norm()) for grad in of_expected)
    for grad, exact_grad, (name, parameter) in zip(grads, of_expected, model.named_parameters(), strict=True):
        assert grad.stride() == parameter.stride()
        error = float((grad.double() - exact_grad).norm())
        assert error <= within * max(float(exact_grad.norm()), length / 100), name
    for buffer, exact_buffer in zip(model.buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(buffer.double(), exact_buffer.double(), rtol=within, atol=within)


@threads
@pytest.mark.parametrize("row", [row.name for row in roadmap()])
def test_every_row_of_the_roadmap(row: str) -> None:
    changes = {**RAGGED, "stem": "patchify2", **({"layer_scale": 0.5} if row == "separate_downsampling" else {})}
    assert_same_step(drawn(roadmap()[row].design.with_(**changes), 0.5), torch.randn(5, 3, 14, 10))


@threads
@pytest.mark.parametrize("widths", [(16, 16), (20, 65), (48, 96)], ids=str)
@pytest.mark.parametrize("design", [RESNET50, CONVNEXT_TINY], ids=["resnet", "convnext"])
def test_odd_numbers_of_channels_and_pixels(design: Design, widths: tuple[int, int]) -> None:
    small = design.with_(depths=(1, 1), widths=widths, stage_strides=(1, 2), stem="patchify2")
    assert_same_step(drawn(small), torch.randn(3, 3, 6, 22))


@threads
@pytest.mark.parametrize("kernel", [3, 5, 9, 11])
@pytest.mark.parametrize("groups", [1, "depthwise"])
def test_kernels_larger_than_the_image(kernel: int, groups: int | str) -> None:
    design = RESNET50.with_(**RAGGED, groups=groups, kernel_size=kernel, stem="patchify2")
    assert_same_step(drawn(design), torch.randn(4, 3, 6, 4))


@threads
def test_a_single_image_and_many() -> None:
    design = CONVNEXT_TINY.with_(**RAGGED, stem="patchify2", layer_scale=0.5)
    for images in (1, 70):  # more rows than are summed in float
        assert_same_step(drawn(design), torch.randn(images, 3, 8, 8))


@threads
def test_nan_goes_through_as_in_torch() -> None:
    model = drawn(roadmap()["baseline"].design.with_(**RAGGED))
    plain, images = copy.deepcopy(model), torch.randn(2, 3, 16, 16)
    install(model)
    model.stages[0].blocks[0].pointwise2_norm.weight.data[3] = torch.nan  # type: ignore[index, union-attr]
    plain.stages[0].blocks[0].pointwise2_norm.weight.data[3] = torch.nan  # type: ignore[index, union-attr]
    (y, grads), (expected, of_expected) = step(model, images), step(plain, images)
    assert kernels_of(model) == {"whole"}
    assert expected.isnan().all()
    assert torch.equal(y.isnan(), expected.isnan())
    for grad, exact, (name, _) in zip(grads, of_expected, model.named_parameters(), strict=True):
        assert torch.equal(grad.isnan(), exact.isnan()), name


@threads
@pytest.mark.parametrize("kind", [LayerNorm, BatchNorm])
@pytest.mark.parametrize("spread", [0.0, 0.01])
def test_norms_far_from_zero(kind: type[nn.Module], spread: float) -> None:
    norm = LayerNorm(20, eps=1e-6) if kind is LayerNorm else BatchNorm(20)
    exact, x = copy.deepcopy(norm).double(), 10.1 + spread * torch.randn(2, 6, 6, 20)
    y = blocks.run(x, norm, blocks.Parts((), [blocks.Described(norm, kind)], ()))
    expected = exact(x.double())
    # A mean near 10 is a float, 5e-7 off: by eps' deviation 5e-4, by a spread of 0.01 5e-5.
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=2e-3)
    outgoing = torch.randn(y.shape)
    grads = torch.autograd.grad(y, list(norm.parameters()), outgoing)
    of_expected = torch.autograd.grad(expected, list(exact.parameters()), outgoing.double())
    for grad, exact_grad in zip(grads, of_expected, strict=True):
        torch.testing.assert_close(grad.double(), exact_grad, rtol=1e-3, atol=0.02)


@threads
def test_memory_in_any_order() -> None:
    model = drawn(RESNET50.with_(**RAGGED))
    block, x = model.stages[0].blocks[0], torch.randn(2, 17, 5, 6)  # type: ignore[index, union-attr]
    for conv in (m for m in block.modules() if isinstance(m, nn.Conv2d)):
        conv.weight.data = conv.weight.data.contiguous()
    exact = copy.deepcopy(block).double()
    install(model)
    outgoing = torch.randn(2, 5, 6, 68).transpose(1, 2)
    found = []
    for module, dtype in ((block, torch.float32), (exact, torch.float64)):
        images = x.to(dtype).detach().requires_grad_()
        y = module(images.permute(0, 3, 2, 1))
        found.append((y.detach(), *torch.autograd.grad(y, [images, *module.parameters()], outgoing.to(dtype))))
    assert block.choice.kernel == "whole"
    for got, expected in zip(*found, strict=True):
        assert float((got.double() - expected).norm()) <= 1e-5 * float(expected.norm())


@threads
def test_calls_may_overlap_and_be_checkpointed() -> None:
    model = drawn(CONVNEXT_TINY.with_(**RAGGED, stem="patchify2"))
    install(model)
    block = model.stages[0].blocks[0]  # type: ignore[index, union-attr]
    inputs = [torch.randn(2, 4, 5, 17, requires_grad=True) for _ in range(2)]
    alone = [torch.autograd.grad(block(x).square().sum(), x)[0] for x in inputs]
    first, second = (block(x).square().sum() for x in inputs)
    assert torch.equal(torch.autograd.grad(first, inputs[0])[0], alone[0])
    assert torch.equal(torch.autograd.grad(second, inputs[1])[0], alone[1])
    again = checkpoint(block, inputs[0], use_reentrant=False).square().sum()
    assert torch.equal(torch.autograd.grad(again, inputs[0])[0], alone[0])
    (grad,) = torch.autograd.grad(block(inputs[0]).square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()


def test_a_penalty_on_gradients_is_refused_with_the_remedy() -> None:
    model = drawn(CONVNEXT_TINY.with_(**RAGGED, stem="patchify2"))
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    for mode in ("auto", "off"):
        install(model, mode)  # type: ignore[arg-type]
        y = model(images).sum()  # whose own gradient is constant
        (grad,) = torch.autograd.grad(y, images, create_graph=True)
        if mode == "auto":
            with pytest.raises(RuntimeError, match=r'cannot differentiate twice; .*install\(model, "off"\)'):
                (y + grad.square().sum()).backward()
        else:
            (y + grad.square().sum()).backward()


def test_copies_and_pickles_train_by_themselves() -> None:
    model = drawn(RESNET50.with_(**RAGGED))
    install(model)
    images = torch.randn(2, 3, 16, 16)
    start = copy.deepcopy(model)
    expected = step(model, images)
    for other in (copy.deepcopy(start), pickle.loads(pickle.dumps(start))):
        found = step(other, images)
        assert torch.equal(found[0], expected[0])
        assert all(torch.equal(a, b) for a, b in zip(found[1], expected[1], strict=True))


def frozen(block: Block) -> None:
    block.pointwise1.weight.requires_grad_(False)


def with_a_hook(block: Block) -> None:
    block.pointwise1.register_forward_hook(lambda *_: None)


def with_a_norm_in_evaluation(block: Block) -> None:
    block.pointwise1_norm.eval()


def of_another_kind(block: Block) -> None:
    block.pointwise1_norm = nn.Identity()


def with_a_hook_on_the_shortcut(block: Block) -> None:
    block.shortcut.register_forward_hook(lambda *_: None)


def with_a_hook_on_the_dropped_paths(block: Block) -> None:
    block.drop_path.register_forward_hook(lambda *_: None)


def with_a_hook_on_the_last_layers(block: Block) -> None:
    block.after.register_forward_hook(lambda *_: None)


def with_another_shortcut(block: Block) -> None:
    block.shortcut = nn.Sequential(block.shortcut.conv)  # type: ignore[assignment]


def without_last_layers(block: Block) -> None:
    block.after = nn.Identity()  # type: ignore[assignment]


def with_other_dropped_paths(block: Block) -> None:
    class Doubled(DropPath):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    block.drop_path = Doubled(0.0)


def with_a_smaller_kernel(block: Block) -> None:
    block.spatial.weight = nn.Parameter(torch.randn(17, 17, 1, 1))
    block.shortcut.conv.stride = 1
    block.spatial.padding = (0, 0)


@pytest.mark.parametrize(
    "change",
    [
        *(frozen, with_a_hook, with_a_norm_in_evaluation, of_another_kind),
        *(with_a_hook_on_the_shortcut, with_a_hook_on_the_dropped_paths, with_a_hook_on_the_last_layers),
        *(with_another_shortcut, without_last_layers, with_other_dropped_paths, with_a_smaller_kernel),
    ],
)
def test_what_is_left_to_the_layers(change: object) -> None:
    model = drawn(RESNET50.with_(**RAGGED))
    install(model)
    block = model.stages[0].blocks[0]  # type: ignore[index, union-attr]
    change(block)  # type: ignore[operator]
    plain = copy.deepcopy(block)
    x = torch.randn(2, 4, 4, 17, requires_grad=True)
    got = block(x)
    assert block.choice.kernel == "torch"
    assert torch.equal(got, Block.forward(plain, x))


def test_autocast_float64_threads_and_evaluation_are_left_to_the_layers() -> None:
    model = drawn(RESNET50.with_(**RAGGED))
    install(model)
    images = torch.randn(2, 3, 16, 16)

    with torch.autocast("cpu", torch.bfloat16):
        step(model, images)
    assert kernels_of(model) == {"torch"}
    step(model, images)
    assert kernels_of(model) == {"whole"}
    torch.set_num_threads(3)
    step(model, images)
    assert kernels_of(model) == {"torch"}
    torch.set_num_threads(1)
    model.eval()
    step(model, images)
    assert kernels_of(model) == {"torch"}
    step(model.train().double(), images.double())
    assert kernels_of(model) == {"torch"}


def test_what_was_not_measured_is_left_to_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = drawn(RESNET50.with_(**RAGGED))
    images = torch.randn(2, 3, 16, 16)
    for name, value in (("AVX512", False), ("MOST_BYTES_WHOLE", 1000), ("MOST_BYTES_WEIGHT", 1000)):
        with monkeypatch.context() as changed:
            changed.setattr(choice, name, value)
            install(model)
            step(model, images)
            assert kernels_of(model) == {"torch"}


def test_an_evaluation_leaves_what_trained_on_record() -> None:
    model = drawn(CONVNEXT_TINY.with_(**RAGGED, stem="patchify2"))
    install(model)
    images = torch.randn(2, 3, 8, 8)
    step(model, images)
    trained = installed(model)
    assert {(group.module, group.kernel) for group in trained} == {("FastBlock", "whole"), ("FastChain", "whole")}
    with torch.no_grad():
        model.eval()(images)
    assert installed(model) == trained


def test_without_a_working_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(native, "builds", {})
    monkeypatch.setattr(native, "compiler", lambda: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = drawn(RESNET50.with_(**RAGGED))
    plain, images = copy.deepcopy(model), torch.randn(2, 3, 16, 16)
    install(model)
    (y, grads), (expected, of_expected) = step(model, images), step(plain, images)
    assert torch.equal(y, expected)
    assert all(torch.equal(a, b) for a, b in zip(grads, of_expected, strict=True))
    assert kernels_of(model) == {"torch"}
    assert libraries()["blocks"].startswith("not ours, because no C++ compiler")


def test_pixels_under_taps() -> None:
    table = blocks.pixels_under_taps(2, 3, 2, 3, 2, 1)  # (9, 2 * 2 * 1)
    assert table.shape == (9, 4)
    assert table[4].tolist() == [0, 4, 6, 10]  # the middle tap
    assert table[5].tolist() == [1, 5, 7, 11]
    assert table[0].tolist() == [-1, -1, -1, -1]
    assert table[1].tolist() == [-1, 2, -1, 8]


def test_weights_of_another_shape_are_refused() -> None:
    model = drawn(RESNET50.with_(**RAGGED))
    install(model)
    block, x = model.stages[1].blocks[0], torch.randn(2, 4, 4, 68)  # type: ignore[index, union-attr]
    block(x)
    block.pointwise1.weight = nn.Parameter(torch.randn(24, 60))
    with pytest.raises(ValueError, match="does not fit 68 channels"):
        block(x)
    block.pointwise1.weight = nn.Parameter(torch.randn(24, 68))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        block(x[:1, :1, :1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_parameters_of_another_type_are_left_to_torch(dtype: torch.dtype) -> None:
    model = drawn(RESNET50.with_(**RAGGED))
    install(model)
    block = model.to(dtype).stages[0].blocks[0]  # type: ignore[index, union-attr]
    with pytest.raises(RuntimeError, match="same dtype"):
        block(torch.randn(2, 4, 4, 17))
    block.float()
    block.pointwise1_norm.running_var = block.pointwise1_norm.running_var.to(dtype)
    with contextlib.suppress(RuntimeError):
        block(torch.randn(2, 4, 4, 17))
    assert block.choice.kernel == "torch"


def test_paths_of_another_batch_and_images_smaller_than_the_window() -> None:
    model = drawn(CONVNEXT_TINY.with_(**RAGGED, stem="patchify2"), 0.5)
    install(model)
    block, x = model.stages[1].blocks[1], torch.randn(3, 4, 4, 24)  # type: ignore[index, union-attr]
    block.drop_path.part = (torch.arange(2), 6)
    with pytest.raises(ValueError, match="for 2 images, and the batch has 3"):
        block(x)
    downsample = model.stages[1].downsample  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="2x2 pixels does not fit an image of"):
        downsample(torch.randn(2, 1, 4, 17))  # type: ignore[operator]
    assert downsample.choice.kernel == "whole"  # type: ignore[union-attr]


def test_constants_of_norms_may_change() -> None:
    model = drawn(RESNET50.with_(**RAGGED))
    images = torch.randn(2, 3, 16, 16)
    install(model)
    step(model, images)
    for norm in (module for module in model.modules() if isinstance(module, BatchNorm)):
        norm.eps, norm.momentum = 0.5, 0.9
    assert_same_step(model, images)


def test_threads_repeat_themselves_and_take_an_image_each() -> None:
    model = drawn(RESNET50.with_(**RAGGED, stem="patchify2"))
    install(model)
    for count in (2, 1):
        torch.set_num_threads(2)
        images = torch.randn(count, 3, 12, 12)
        first = step(copy.deepcopy(model), images)
        for _ in range(5):
            again = step(copy.deepcopy(model), images)
            assert torch.equal(first[0], again[0])
            assert all(map(torch.equal, first[1], again[1]))


def test_threads_share_a_network() -> None:
    model = drawn(CONVNEXT_TINY.with_(**RAGGED, stem="patchify2"))
    install(model)
    block = model.stages[0].blocks[0]  # type: ignore[index, union-attr]
    inputs = [torch.randn(8, 8, 8, 17, requires_grad=True) for _ in range(4)]

    def gradient(x: Tensor) -> Tensor:
        torch.set_num_threads(1)
        return torch.autograd.grad(block(x).square().sum(), x)[0]

    expected = [gradient(x) for x in inputs]

    def repeated(number: int) -> bool:
        return all(torch.equal(gradient(inputs[number]), expected[number]) for _ in range(25))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(repeated, range(4))) == [True] * 4


def test_failures_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    library = blocks._library()
    layer = blocks.Layer(blocks.BATCH_NORM, 1, 1, 1, 1 << 60, 1, 1, 1 << 60)  # more than a vector can have
    for call in ((ctypes.byref(layer), 1, threads) for threads in (1, 2)):
        assert library.nextify_layers(*call) == library.nextify_layers_backward(*call) == 1
    norm = LayerNorm(20)
    monkeypatch.setattr(library, "nextify_layers", lambda *_: 1)
    with pytest.raises(RuntimeError, match="blocks kernel failed with code 1"):
        blocks.run(torch.ones(1, 2, 2, 20), norm, blocks.Parts((), [blocks.Described(norm, LayerNorm)], ()))


def test_programs_end_with_their_networks() -> None:
    model = drawn(CONVNEXT_TINY.with_(**RAGGED, stem="patchify2"))
    install(model)
    before = len(blocks._programs)
    step(model, torch.randn(2, 3, 8, 8))
    assert len(blocks._programs) > before
    del model
    gc.collect()
    assert len(blocks._programs) <= before
