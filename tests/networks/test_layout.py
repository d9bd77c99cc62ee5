"""Layouts: published parameters and costs, image sizes, errors; and that none of this needs torch."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest

import nextify
from nextify.networks.layout import Conv, ImageSizeError, cost, cost_by_part, layout, smallest_image, walk
from nextify.networks.zoo import designs, list_models
from nextify.paper.design import CONVNEXT_TINY, DESIGNS, RESNET50, Design, DesignError, InertChoice
from nextify.paper.published import MODELS, published_gflops, published_top1


def test_parameters_of_both_ends_of_the_roadmap() -> None:
    assert nextify.parameters(RESNET50) == 25_557_032
    assert nextify.parameters(CONVNEXT_TINY) == 28_589_128


@pytest.mark.parametrize("name", MODELS)
def test_families_cost_what_the_paper_prints(name: str) -> None:
    price, printed = cost(DESIGNS[name]), MODELS[name]
    digits = 0 if "isotropic" in name else 1
    assert round(price.parameters / 1e6, digits) == printed.parameters_millions
    assert round(price.macs / 1e9, 1) == printed.gflops


def test_published_top1_of_names() -> None:
    assert published_top1("resnet50_patchify") == 79.51
    assert published_top1("resnet50") == published_top1("resnet50_baseline") == 76.13
    assert published_top1("convnext_tiny") == 82.1
    assert published_top1("convnextv2_tiny") is None
    assert published_gflops("resnet50_layer_norm") == 4.46
    assert published_gflops("convnext_xlarge") == 60.9
    assert published_gflops("convnext_nano") is None


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny", "convnext_isotropic_small", "convnextv2_atto"])
def test_parts_add_up(name: str) -> None:
    parts, total = cost_by_part(DESIGNS[name]), cost(DESIGNS[name])
    for figure in ("parameters", "macs", "activations"):
        assert sum(getattr(part, figure) for part in parts.values()) == getattr(total, figure)
    assert next(iter(parts)) == "stem"
    assert list(parts)[-1] == "head"


def test_activations_are_conv_outputs() -> None:
    # RegNet's count for ResNet-50 at 224x224 is 11.1 million (arXiv 2003.13678, Table 3).
    assert round(cost(RESNET50, num_classes=0).activations / 1e6, 1) == 11.1


@pytest.mark.parametrize("name", list_models("*"))
def test_the_smallest_image_is_the_smallest(name: str) -> None:
    net = layout(designs()[name])
    size = smallest_image(net)
    assert min(p.height for p in walk(net, size)) == 1
    if size > 1:
        with pytest.raises(ImageSizeError, match=f"at least {size} pixels"):
            list(walk(net, size - 1))


def test_depthwise_macs_by_hand() -> None:
    first = next(p for p in walk(layout(CONVNEXT_TINY)) if p.path == "stages.0.blocks.0.spatial")
    assert isinstance(first.layer, Conv)
    assert (first.macs, first.parameters) == (96 * 49 * 56 * 56, 96 * 49 + 96)


def test_a_strided_block_convolves_the_incoming_width() -> None:
    design = nextify.roadmap("resnet50")["move_up"].design
    branch = dict(layout(design).stages[1].blocks[0].branch)
    spatial = branch["spatial"]
    assert isinstance(spatial, Conv)
    assert (spatial.in_channels, spatial.groups, spatial.stride) == (96, 96, 2)


def test_a_block_without_bottleneck_is_one_convolution_of_any_stride() -> None:
    net = layout(RESNET50.with_(bottleneck="none"))
    block = net.stages[1].blocks[0]
    assert tuple(dict(block.branch)) == ("spatial", "spatial_norm")
    assert tuple(dict(block.shortcut)) == ("conv", "norm")
    assert tuple(dict(block.after)) == ("activation",)
    spatial = dict(block.branch)["spatial"]
    assert isinstance(spatial, Conv)
    assert (spatial.in_channels, spatial.out_channels, spatial.stride, spatial.bias) == (64, 128, 2, False)


def test_pooled_downsampling_enters_a_stage_as_the_stem_does() -> None:
    net = layout(DESIGNS["convnext_pooled"])
    order = ("conv", "pool", "norm", "activation")
    assert tuple(dict(net.stem)) == tuple(dict(net.stages[1].downsample)) == order
    assert net.stages[0].downsample == ()  # its stride is 1
    assert all(block.shortcut == () for stage in net.stages for block in stage.blocks)
    assert tuple(dict(net.head)) == ("norm",)
    by_hand = (
        27 * 64 * 32**2
        + (9 * 64 + 8 * 64**2) * 16**2
        + (9 * 64 * 256) * 16**2
        + (9 * 256 + 8 * 256**2) * 8**2
        + (9 * 256**2) * 8**2
        + (9 * 256 + 8 * 256**2) * 4**2
        + 2560
    )
    assert cost(DESIGNS["convnext_pooled"], 32, 10).macs == by_hand
    dense = layout(DESIGNS["resnet_pooled"])
    assert [tuple(dict(block.branch)) for stage in dense.stages for block in stage.blocks] == [
        ("spatial", "norm", "activation")
    ] * 3
    by_hand = (
        27 * 64 * 32**2 + 9 * 64**2 * 16**2 + 9 * 64 * 256 * 16**2 + 2 * 9 * 256**2 * 8**2 + 9 * 256**2 * 4**2 + 2560
    )
    assert cost(DESIGNS["resnet_pooled"], 32, 10).macs == by_hand
    narrow = layout(RESNET50.with_(downsampling="pooled", stem="conv3", stage_strides=(1, 2, 1, 2)))
    entered = [dict(stage.downsample) for stage in narrow.stages]
    assert ["pool" in layers for layers in entered] == [False, True, False, True]
    assert [layers["conv"].out_channels for layers in entered[1:]] == [512, 1024, 2048]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be an odd whole number"),
        ({"depths": (3, 3)}, "one value per stage"),
        ({"stem": "patchify3"}, "stem must be conv7_pool, .* or patchify32, got 'patchify3'"),
        ({"norm": "group"}, "norm must be batch or layer"),
        ({"groups": 0}, "groups must be a whole number at least 1 .* or depthwise"),
        ({"layer_scale": 0.0}, "layer_scale must be a number above 0"),
        ({"kernel": 7}, "Design has no kernel"),
        ({"downsampling": "none"}, "stage_strides must all be 1"),
    ],
)
def test_impossible_designs_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DesignError, match=message):
        RESNET50.with_(**changes)


def test_groups_that_do_not_divide_say_so() -> None:
    with pytest.raises(ValueError, match="groups=5 does not divide"):
        layout(RESNET50.with_(groups=5))
    with pytest.raises(ValueError, match=r"groups=64 does not divide .* 96 channels"):
        layout(
            RESNET50.with_(groups="depthwise", bottleneck="none", depths=(1, 1), widths=(64, 96), stage_strides=(1, 2))
        )


@pytest.mark.parametrize("spatial", ["middle", "first"])
def test_a_widening_block_without_bottleneck_has_a_group_per_incoming_channel(spatial: str) -> None:
    net = layout(RESNET50.with_(groups="depthwise", bottleneck="none", spatial=spatial))
    conv = dict(net.stages[1].blocks[0].branch)["spatial"]
    assert isinstance(conv, Conv)
    assert (conv.in_channels, conv.out_channels, conv.groups, conv.parameters) == (64, 128, 64, 128 * 9)


def test_inert_choices_warn_and_ordinary_ones_do_not() -> None:
    with pytest.warns(InertChoice, match="layer_scale"):
        RESNET50.with_(layer_scale=1e-6).warn_of_inert_choices()
    with pytest.warns(InertChoice, match="response_norm"):
        DESIGNS["resnet_pooled"].with_(response_norm="global").warn_of_inert_choices()
    with pytest.warns(InertChoice, match="1x1 depthwise"):
        CONVNEXT_TINY.with_(kernel_size=1).warn_of_inert_choices()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for design in designs().values():
            design.warn_of_inert_choices()


def test_differences_are_the_changed_fields() -> None:
    assert Design().differences(Design().with_(kernel_size=7)) == {"kernel_size": (3, 7)}


@pytest.mark.parametrize(
    "statement",
    [
        "import nextify, nextify.networks.layout, nextify.paper.roadmap, nextify.paper.published",
        "import nextify.fitting.fit, nextify.report.diagram",
        "import nextify; nextify.macs(nextify.roadmap('resnet50')[0].design); nextify.list_models()",
        "from nextify.cli import main; main(['--help']); main([]); main(['--version'])",
        "from nextify.cli import main; main(['models']); main(['show', 'convnext_tiny'])",
        "from nextify.cli import main; main(['runs', 'docs'])",
    ],
)
def test_torch_is_not_imported(statement: str) -> None:
    code = f"import sys; {statement}; sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
