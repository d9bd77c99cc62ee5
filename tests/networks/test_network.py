"""Networks against their Layouts: parameters and multiply-adds of all named designs, and a training step of every
design one or two decisions away from the roadmap."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import nextify
from nextify.networks.layout import (
    Conv,
    ImageSizeError,
    Layer,
    Layout,
    MaxPool,
    Named,
    Norm,
    cost,
    layout,
    smallest_image,
    walk,
)
from nextify.paper.design import DESIGNS, Design, DesignError, InertChoice
from nextify.paper.roadmap import ROADMAPS
from tests.paper.published import PAPER

NAMES = [
    *(name for name in DESIGNS if not name.startswith("resnet")),
    *(f"{r}_{row.name}" for r, roadmap in ROADMAPS.items() for row in roadmap if row.name != "training_technique"),
]
"""Every distinct design."""
ALIKE = {
    *(n for n in NAMES if n.startswith("resnet200") and n != "resnet200_separate_downsampling"),
    *(n for n in NAMES if n.endswith(("_femto", "_pico", "_nano", "_small", "_base", "_large", "_xlarge", "_huge"))),
    "resnet50_kernel_5",
    "resnet50_kernel_9",
} - {"convnext_isotropic_small"}
"""They differ from others in depths, widths or the size of the kernel only."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in ALIKE else ()) for n in NAMES])
def test_the_network_has_the_layouts_parameters_and_multiply_adds(name: str) -> None:
    with torch.device("meta"):
        model = nextify.create_model(name).eval()
        images = torch.empty(1, 3, 224, 224)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        logits = model(images)
    assert logits.shape == (1, 1000)
    price = cost(nextify.networks.zoo.designs()[name])
    assert sum(p.numel() for p in model.parameters()) == price.parameters
    assert counter.get_total_flops() == 2 * price.macs
    regime, _, step = name.partition("_")
    published = {row["step"]: row["macs"] for row in PAPER.get(regime, [])}
    if step in published:
        assert price.macs == published[step]


@pytest.mark.parametrize("name", ["resnet50", "resnet50_gelu", "convnext_atto", "convnextv2_atto"])
def test_parameters_have_the_layouts_paths(name: str) -> None:
    with torch.device("meta"):
        model = nextify.create_model(name)
    expected = {placed.path for placed in walk(model.layout) if placed.parameters}
    found = {path if path.endswith("layer_scale") else path.rpartition(".")[0] for path, _ in model.named_parameters()}
    assert found == expected


# Tiny relatives of the roadmap's designs: two stages, so that a stage is entered with stride 2 once.
TINY: dict[str, Any] = {"depths": (1, 2), "widths": (8, 16), "stage_strides": (1, 2)}
VALUES: dict[str, tuple[Any, ...]] = {
    "depths": ((1, 2), (2, 1)),
    "widths": ((8, 16), (12, 20)),
    "stem": ("conv7_pool", "patchify4", "conv3_pool", "conv3", "patchify2", "patchify1"),
    "groups": (1, 2, "depthwise"),
    "bottleneck": ("narrow", "inverted"),
    "spatial": ("middle", "first"),
    "kernel_size": (3, 5, 7, 9, 11),
    "activation": ("relu", "gelu"),
    "activations": ("after_every_conv", "between_pointwise"),
    "norms": ("after_every_conv", "before_expand"),
    "norm": ("batch", "layer"),
    "downsampling": ("in_block", "separate", "pooled", "none"),
    "layer_scale": ("off", 1e-6),
    "response_norm": ("off", "global"),
}


@cache
def relatives() -> list[Design]:
    """All designs at most two decisions away from a row of either roadmap, at tiny widths, without repetition."""
    starts = dict.fromkeys(row.design.with_(**TINY) for row in itertools.chain(*ROADMAPS.values()))
    return list(dict.fromkeys(design for start in starts for design in (start, *_changed(start))))


def _changed(start: Design) -> Iterator[Design]:
    options = [(name, value) for name, values in VALUES.items() for value in values if value != getattr(start, name)]
    for one, two in itertools.combinations_with_replacement(options, 2):
        if one != two and one[0] == two[0]:
            continue
        changes = dict([one, two])
        if changes.get("downsampling") == "none":
            changes["stage_strides"] = (1, 1)
        yield start.with_(**changes)


RELATIVE = ROADMAPS["resnet50"][0].design.with_(**TINY)

NONE, CONSTANT, VARIES = range(3)
"""What is left of a shift of one channel: nothing, the same shift of every image and pixel, or something else."""


def through(layer: Layer, shift: int) -> int:
    """What a layer makes of a shift of its input."""
    if shift != CONSTANT:
        return shift
    if isinstance(layer, Norm) and layer.kind == "batch":
        return NONE  # subtracted with the mean
    if isinstance(layer, Conv) and not (layer.padding and layer.kernel_size > 1):
        return CONSTANT  # with zero padding the border would differ
    return CONSTANT if isinstance(layer, MaxPool) else VARIES


def seen(net: Layout, source: str) -> bool:
    """Whether a shift of all that the layer at ``source`` gives reaches the logits. Where batch norms subtract it on
    every way, the bias of that layer has a zero gradient by theory, whatever the images."""

    def chain(prefix: str, layers: Named, shift: int) -> int:
        for name, layer in layers:
            shift = max(through(layer, shift), CONSTANT if f"{prefix}.{name}" == source else NONE)
        return shift

    shift = chain("stem", net.stem, NONE)
    for s, stage in enumerate(net.stages):
        shift = chain(f"stages.{s}.downsample", stage.downsample, shift)
        for b, block in enumerate(stage.blocks):
            path = f"stages.{s}.blocks.{b}"
            shift = max(chain(f"{path}.shortcut", block.shortcut, shift), chain(path, block.branch, shift))
            shift = chain(f"{path}.after", block.after, shift)
    return chain("head", net.head, shift) > NONE or source == "head.classifier"


def check_training_step(design: Design) -> None:
    torch.manual_seed(0)
    net = layout(design)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InertChoice)
        model = nextify.create_model(design, num_classes=3).double().train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("layer_scale"):
                parameter.fill_(0.5)  # from 1e-6, real gradients of twice scaled layers are as small as rounding
    size = max(smallest_image(net), 16)
    images = torch.randn(4, 3, size, size, dtype=torch.float64)
    loss = nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None, f"{name} gets no gradient in {design}"
        assert torch.isfinite(gradient).all(), f"{name} gets a gradient that is not finite in {design}"
        # Rounding leaves less than 1e-15 where theory says zero.
        layer, _, kind = name.rpartition(".")
        assert (gradient.abs().max() > 1e-12) == (kind != "bias" or seen(net, layer)), f"{name} in {design}"
    optimizer.step()
    assert torch.isfinite(model(images)).all()
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_there_are_many_relatives() -> None:
    assert len(relatives()) > 1500
    assert len({type(d.groups) for d in relatives()}) == 2


def test_every_sixty_fourth_relative_trains_a_step() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the networks are too small for more
    try:
        for design in relatives()[::64]:
            check_training_step(design)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_all_relatives_train_a_step() -> None:
    for design in relatives():
        check_training_step(design)


def test_images_below_the_smallest_are_refused() -> None:
    model = nextify.create_model(RELATIVE.with_(stem="patchify4", downsampling="separate"), num_classes=2)
    size = model.smallest_image
    assert model(torch.randn(2, 3, size, size)).shape == (2, 2)
    with pytest.raises(ImageSizeError, match=f"at least {size} pixels"):
        model(torch.randn(2, 3, size - 1, size))


@pytest.mark.parametrize("name", ["resnet50_patchify", "resnet50_fewer_norms", "convnext_tiny", "convnextv2_tiny"])
def test_no_decay_for_biases_norms_and_scales(name: str) -> None:
    with torch.device("meta"):
        model = nextify.create_model(name)
    undecayed = set(model.undecayed_parameters())
    for path, parameter in model.named_parameters():
        grn = "response_norm" in path
        assert (path in undecayed) == (parameter.ndim < 2 or grn), path


def test_classifier_can_be_replaced_and_left_out() -> None:
    design = RELATIVE
    model = nextify.create_model(design, num_classes=0)
    images = torch.randn(2, 3, 64, 64)
    assert model(images).shape == (2, model.num_features)
    model.reset_classifier(7)
    assert model(images).shape == (2, 7)


def test_gradient_checkpointing_changes_nothing() -> None:
    design = DESIGNS["convnext_atto"].with_(depths=(1, 2), widths=(8, 16), stage_strides=(1, 2), layer_scale=0.1)
    torch.manual_seed(0)
    model, images = nextify.create_model(design, num_classes=3), torch.randn(2, 3, 32, 32)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(images).square().sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    plain = gradients()
    model.set_grad_checkpointing()
    for a, b in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(a, b)


def test_stochastic_depth_grows_linearly_and_is_off_in_evaluation() -> None:
    model = nextify.create_model(RELATIVE, num_classes=2, stochastic_depth=0.2)
    rates = [block.drop_path.rate for stage in model.stages for block in stage.blocks]  # type: ignore[attr-defined]
    assert rates == pytest.approx([0.0, 0.1, 0.2])
    images = torch.randn(2, 3, 64, 64)
    model.eval()
    torch.testing.assert_close(model(images), model(images), rtol=0, atol=0)


def test_in_channels_and_unusual_sizes() -> None:
    model = nextify.create_model(RELATIVE, num_classes=2, in_channels=1).eval()
    assert model(torch.randn(2, 1, 33, 57)).shape == (2, 2)


def test_an_unknown_design_names_the_nearest() -> None:
    with pytest.raises(nextify.networks.zoo.UnknownModel, match="did you mean convnext_tiny"):
        nextify.create_model("convnext_tinny")


@pytest.mark.parametrize(
    ("name", "source"), [("convnextv2_tiny", "timm:convnextv2_tiny"), ("resnet50_patchify", "timm:NAME")]
)
def test_pretrained_says_which_weights_to_give(name: str, source: str) -> None:
    with pytest.raises(ValueError, match=f'give weights="{source}", hf:owner/name, a file or a bundle'):
        nextify.create_model(name, pretrained=True)


def test_a_design_that_cannot_be_is_refused() -> None:
    with pytest.raises(DesignError):
        Design().with_(kernel_size=2)
