"""Backbones, timm's registry, and what compilers and exporters make of the networks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import nextify.timm
from nextify.networks.backbone import Backbone, features, pick
from nextify.networks.layout import ImageSizeError
from nextify.networks.zoo import create_model, designs
from nextify.paper.design import DESIGNS, RESNET50, Design
from nextify.weights import About, Preprocessing, rename, save_bundle
from nextify.weights.models import create_backbone
from tests.helpers import SMALL

BETWEEN = ("resnet50_depthwise", "resnet50_move_up", "resnet50_fewer_norms", "resnet50_layer_norm")
"""Steps between ResNet and ConvNeXt."""
SHAPES = {
    "convnext": SMALL,
    "convnextv2": SMALL.with_(layer_scale="off", response_norm="global"),
    "isotropic": DESIGNS["convnext_isotropic_small"].with_(depths=(2,), widths=(8,)),
    "pooled": DESIGNS["convnext_pooled"].with_(widths=(8, 16, 24)),
    "dense": DESIGNS["resnet_pooled"].with_(widths=(8, 16, 24)),
    "resnet": RESNET50.with_(depths=(1, 1, 2, 1), widths=(8, 16, 24, 32)),
    **{
        name: design.with_(depths=(1, 1, 2, 1), widths=(8, 16, 24, 32))
        for name, design in designs().items()
        if name in BETWEEN
    },
}
IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("design", SHAPES.values(), ids=SHAPES)
def test_maps_have_the_channels_and_strides_they_state(design: Design) -> None:
    backbone = create_backbone(design).eval()
    maps = backbone(IMAGES)
    assert len(maps) == len(design.depths)
    for feature, channels, stride, y in zip(
        backbone.feature_info, backbone.channels, backbone.strides, maps, strict=True
    ):
        assert y.shape == (2, channels, 64 // stride, 96 // stride)
        assert feature.module == f"stages.{feature.stage}"
    nhwc = create_backbone(design, output_format="NHWC").eval()
    nhwc.load_state_dict(backbone.state_dict())
    assert all(torch.equal(a.permute(0, 3, 1, 2), b) for a, b in zip(nhwc(IMAGES), maps, strict=True))


def test_every_design_states_its_features() -> None:
    for design in designs().values():
        from nextify.networks.layout import layout

        found = features(layout(design))
        assert len(found) == len(design.depths)
        if len(found) == 4:
            assert [f.stride for f in found] == [4, 8, 16, 32]


def test_out_indices_are_read_as_timm_reads_them() -> None:
    assert pick((1, -1), 4) == (1, 3)
    assert pick(2, 4) == (2, 3)
    assert pick(None, 4) == (0, 1, 2, 3)
    for wrong in ((4,), (-5,), ()):
        with pytest.raises(ValueError, match="out_indices"):
            pick(wrong, 4)
    backbone = create_backbone(SMALL, features_only=True, out_indices=(0, 2))
    assert backbone.channels == [8, 24]
    assert len(backbone.stages) == 3  # what lies behind the last output is left out


def test_norms_on_the_outputs() -> None:
    backbone = create_backbone(SMALL, norms=True, out_indices=(1, 3)).eval()
    for y in backbone(IMAGES):
        assert torch.allclose(y.mean(dim=1), torch.zeros(()), atol=1e-4)
        assert torch.allclose(y.std(dim=1, correction=0), torch.ones(()), atol=1e-2)
    assert isinstance(create_backbone(SHAPES["resnet"], norms=True).norms["0"], nn.BatchNorm2d)


def test_frozen_stages_stay_as_they_are() -> None:
    backbone = create_backbone(SHAPES["resnet"], frozen_stages=2).train()
    before = {n: t.clone() for n, t in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    sum(y.square().mean() for y in backbone(IMAGES)).backward()  # type: ignore[union-attr]
    optimizer.step()
    changed = {
        n.split(".")[0] + "." + n.split(".")[1]
        for n, t in backbone.state_dict().items()
        if not torch.equal(t, before[n])
    }
    assert changed == {"stages.2", "stages.3"}
    with pytest.raises(ValueError, match="frozen_stages"):
        create_backbone(SMALL, frozen_stages=5)


def test_weights_of_a_bundle(tmp_path: Path) -> None:
    model = create_model(SMALL, 5)
    save_bundle(tmp_path / "b", model.state_dict(), About(SMALL, 5, preprocessing=Preprocessing()))
    backbone = create_backbone(SMALL, weights=tmp_path / "b")
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in backbone.state_dict().items())
    with pytest.raises(ImageSizeError, match="at least 32"):
        backbone(IMAGES[..., :16])


# timm


def test_every_design_is_in_timms_registry() -> None:
    names = timm.list_models("nextify_*")
    assert set(names) == {f"nextify_{name}" for name in designs()}
    assert timm.__file__ != nextify.timm.__file__


@pytest.fixture
def model() -> Any:
    return timm.create_model(
        "nextify_convnext_atto", num_classes=7, in_chans=1, drop_path_rate=0.1, drop_rate=0.1, global_pool="avg"
    )


def test_timms_interface(model: Any) -> None:
    x = torch.randn(2, 1, 64, 64)
    assert model.eval()(x).shape == (2, 7)
    maps = model.forward_features(x)
    assert maps.shape == (2, 320, 2, 2)
    features = model.forward_head(maps, pre_logits=True)
    assert torch.allclose(model.get_classifier()(features), model(x), atol=1e-6)
    assert model.num_features == model.head_hidden_size == 320
    assert model.pretrained_cfg["classifier"] == "head.classifier"
    assert model.pretrained_cfg["first_conv"] == "stem.conv"
    assert timm.data.resolve_model_data_config(model)["crop_pct"] == 0.875
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    model.reset_classifier(0, "")
    assert model(x).shape == (2, 320, 2, 2)
    with pytest.raises(ValueError, match="global_pool"):
        timm.create_model("nextify_convnext_atto", global_pool="max")


def test_timm_trains_it(model: Any) -> None:
    from timm.optim import create_optimizer_v2

    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.8)
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    undecayed = model.no_weight_decay()
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (name not in undecayed), name
    scales = sorted({g["lr_scale"] for g in optimizer.param_groups})
    assert len(scales) == 14  # stem, 12 blocks, head
    model.set_grad_checkpointing()
    model.train()(torch.randn(2, 1, 64, 64)).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    optimizer.step()


def test_timms_features_only() -> None:
    net = timm.create_model("nextify_convnextv2_atto", features_only=True, out_indices=(1, -1)).eval()
    assert net.feature_info.channels() == [80, 320]
    assert net.feature_info.reduction() == [8, 32]
    maps = net(torch.randn(1, 3, 64, 64))
    assert [tuple(y.shape) for y in maps] == [(1, 80, 8, 8), (1, 320, 2, 2)]
    reference = timm.create_model("convnextv2_atto", features_only=True, out_indices=(1, -1))
    assert reference.feature_info.channels() == net.feature_info.channels()
    assert reference.feature_info.reduction() == net.feature_info.reduction()


def test_timm_loads_any_naming(tmp_path: Path) -> None:
    theirs = timm.create_model("convnext_atto").eval()
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    overlay = {"file": str(tmp_path / "x.pth")}
    ours = timm.create_model("nextify_convnext_atto", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-6)
    gray = timm.create_model("nextify_convnext_atto", pretrained=True, in_chans=1, pretrained_cfg_overlay=overlay)
    assert torch.equal(gray.stem.conv.weight, theirs.stem[0].weight.sum(1, keepdim=True))
    torch.save({"state_dict": ours.state_dict()}, tmp_path / "checkpoint.pth")
    again = timm.create_model("nextify_convnext_atto", checkpoint_path=str(tmp_path / "checkpoint.pth")).eval()
    with torch.inference_mode():
        assert torch.equal(again(x), ours(x))


@pytest.mark.parametrize("classes", [7, 1000])
def test_timm_keeps_a_checkpoints_classifier(tmp_path: Path, classes: int) -> None:
    theirs = timm.create_model("convnext_atto", num_classes=classes, in_chans=5).eval()
    torch.save(theirs.state_dict(), tmp_path / "x.pth")

    def ours(**wanted: Any) -> Any:
        overlay = {"file": str(tmp_path / "x.pth")}
        return timm.create_model("nextify_convnext_atto", pretrained=True, pretrained_cfg_overlay=overlay, **wanted)

    x = torch.randn(2, 5, 64, 64)
    same = ours(num_classes=classes, in_chans=5).eval()
    with torch.inference_mode():
        assert torch.allclose(same(x), theirs(x), rtol=1e-4, atol=1e-6)
    assert ours(num_classes=3, in_chans=5)(x).shape == (2, 3)
    if classes == 7:  # nobody asked for 1000
        with pytest.raises(RuntimeError, match=r"size mismatch for head\.classifier\.weight"):
            ours(in_chans=5)


def test_timm_without_pooling_gives_what_timms_own_gives(tmp_path: Path) -> None:
    theirs = timm.create_model("convnext_atto", num_classes=7, global_pool="").eval()
    torch.nn.init.normal_(theirs.head.norm.weight)
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    overlay = {"file": str(tmp_path / "x.pth")}
    ours = timm.create_model(
        "nextify_convnext_atto", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=7, global_pool=""
    ).eval()
    x = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        assert torch.allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
        for model in (ours, theirs):
            model.reset_classifier(0, "")
        assert torch.allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_layer_decay_in_timm_is_that_of_timms_own() -> None:
    from timm.optim import param_groups_layer_decay

    def scales(name: str) -> list[tuple[tuple[int, ...], float]]:
        model = timm.create_model(name, num_classes=7)
        groups = param_groups_layer_decay(model, layer_decay=0.5)
        return sorted((tuple(p.squeeze().shape), group["lr_scale"]) for group in groups for p in group["params"])

    assert scales("nextify_convnext_atto") == scales("convnext_atto")


# Memory formats, checkpointing, compilers, exporters


@pytest.mark.parametrize("design", SHAPES.values(), ids=SHAPES)
def test_memory_format_and_checkpointing_change_nothing(design: Design) -> None:
    torch.manual_seed(0)
    model = create_model(design, 5)
    assert torch.equal(model.eval()(IMAGES), model(IMAGES.contiguous(memory_format=torch.channels_last)))
    results = []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        model.zero_grad()
        model(IMAGES).square().sum().backward()
        results.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    "name",
    [n if n in ("convnextv2", "resnet50_fewer_norms") else pytest.param(n, marks=pytest.mark.slow) for n in SHAPES],
)
def test_export(name: str) -> None:
    model = create_model(SHAPES[name], 5).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (IMAGES,), dynamic_shapes={"images": {0: batch}})
    other = torch.randn(3, 3, 64, 96)
    assert torch.allclose(program.module()(other), model(other), atol=1e-5)
    assert not [n.target for n in program.graph.nodes if "nextify" in str(n.target)]


@pytest.mark.parametrize(
    "name",
    [n if n in ("convnextv2", "resnet50_fewer_norms") else pytest.param(n, marks=pytest.mark.slow) for n in SHAPES],
)
def test_one_graph(name: str) -> None:
    """``fullgraph=True`` raises where a graph would break; the backend without code generation keeps this short."""
    design = SHAPES[name]
    if len(design.depths) == 4:  # the deeper stages repeat what the first two hold
        design = design.with_(depths=(1, 1), widths=(8, 16), stage_strides=design.stage_strides[:2])
    model = create_model(design, 5, stochastic_depth=0.1).train()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(IMAGES).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext", "convnextv2", "isotropic", "pooled", "resnet"])
def test_compiled_code_gives_the_same(name: str) -> None:
    model = create_model(SHAPES[name], 5).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations inside its compiler
        compiled = torch.compile(model, fullgraph=True)
        with torch.inference_mode():
            assert torch.allclose(compiled(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext", "convnextv2", "isotropic", "pooled", "resnet"])
def test_onnx(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = create_model(SHAPES[name], 5).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations inside its exporter
        torch.onnx.export(model, (IMAGES,), tmp_path / "x.onnx", dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(tmp_path / "x.onnx"))
    (logits,) = session.run(None, {session.get_inputs()[0].name: IMAGES.numpy()})
    with torch.inference_mode():
        assert torch.allclose(torch.from_numpy(logits), model(IMAGES), rtol=1e-4, atol=1e-5)


def test_a_backbone_keeps_the_names_of_other_libraries_weights() -> None:
    backbone = Backbone(create_model(SMALL, 0), (3,))
    assert (
        rename(backbone.state_dict(), SMALL, "timm").keys()
        < timm.create_model("convnext_tiny", depths=SMALL.depths, dims=SMALL.widths).state_dict().keys()
    )
