"""The same random weights give the same logits here and in timm, torchvision and transformers, in both directions.

Every norm, scale and bias is drawn at order 1: at their initial values (layer scale 1e-6) parity would prove nothing.
Of each library's classes a small network is compared; of the published sizes most are marked slow.
``NEXTIFY_PARITY_OUT=FILE`` appends each measured error to a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nextify.networks.zoo import create_model
from nextify.paper.design import CONVNEXT_TINY, DESIGNS, RESNET50, Design
from nextify.weights.design_detection import infer_design
from nextify.weights.naming import Naming, WeightsError, recognize, rename
from nextify.weights.sources import require_fit

IMAGES = 100
TOLERANCE = 1e-5


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights of the variance that keeps activations at order 1, and norms, scales and biases of order 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, mean: float, std: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std + mean)

    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(7)
            elif name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.ndim >= 2 and max(tensor.shape) < tensor.numel():
                normal(tensor, 0.0, tensor[0].numel() ** -0.5)
            elif name.endswith(("bias", "running_mean")) or "beta" in name:
                normal(tensor, 0.0, 0.3)
            else:
                normal(tensor, 1.0, 0.3)
    return model.eval()


@dataclass(frozen=True)
class Case:
    naming: Naming
    name: str
    design: Design
    build: Callable[[], nn.Module]

    def __str__(self) -> str:
        return f"{self.naming}-{self.name}"


def _timm(name: str) -> nn.Module:
    import timm

    return timm.create_model(name)


def _torchvision(name: str) -> nn.Module:
    import torchvision

    return torchvision.models.get_model(name, weights=None)


def _huggingface(name: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    if name.startswith("resnet"):
        config = transformers.ResNetConfig(num_labels=1000, depths=list(DESIGNS[name].depths))
        return transformers.ResNetForImageClassification(config)
    design = DESIGNS[name]
    v2 = "V2" if name.startswith("convnextv2") else ""
    config = getattr(transformers, f"ConvNext{v2}Config")(
        hidden_sizes=list(design.widths), depths=list(design.depths), num_labels=1000
    )
    return getattr(transformers, f"ConvNext{v2}ForImageClassification")(config)


_BUILDERS: dict[Naming, Callable[[str], nn.Module]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "huggingface": _huggingface,
}
_BELOW_TINY = ("atto", "femto", "pico", "nano")
_DEFAULT_RUN = ("convnext_atto", "convnextv2_atto")
DEPTHS, WIDTHS = (1, 1, 2, 1), (8, 16, 24, 32)


def _small_timm_resnet() -> nn.Module:
    from timm.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, DEPTHS)


def _small_torchvision_resnet() -> nn.Module:
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, list(DEPTHS))


def _small_torchvision_convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(*sizes) for sizes in zip(WIDTHS, (*WIDTHS[1:], None), DEPTHS, strict=True)])


def _small_huggingface_resnet() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=1000, depths=list(DEPTHS)))


_SMALL_RESNET = RESNET50.with_(depths=DEPTHS)
_SMALL = (
    Case("timm", "resnet_small", _SMALL_RESNET, lambda: empty(_small_timm_resnet)),
    Case("torchvision", "resnet_small", _SMALL_RESNET, lambda: empty(_small_torchvision_resnet)),
    Case("huggingface", "resnet_small", _SMALL_RESNET, lambda: empty(_small_huggingface_resnet)),
    Case(
        "torchvision",
        "convnext_of_8_channels",
        CONVNEXT_TINY.with_(depths=DEPTHS, widths=WIDTHS),
        lambda: empty(_small_torchvision_convnext),
    ),
)


def _cases() -> list[Any]:
    cases = [pytest.param(case, id=str(case)) for case in _SMALL]
    for name, design in DESIGNS.items():
        if "isotropic" in name or "pooled" in name:  # no other library has them
            continue
        for naming, build in _BUILDERS.items():
            if name == "resnet200" and naming == "torchvision":
                continue
            if naming == "torchvision" and (name.startswith("convnextv2") or name.endswith((*_BELOW_TINY, "xlarge"))):
                continue
            case = Case(naming, name, design, lambda build=build, name=name: empty(lambda: build(name)))
            marks = () if name in _DEFAULT_RUN else pytest.mark.slow
            cases.append(pytest.param(case, id=str(case), marks=marks))
    return cases


def empty(build: Callable[[], nn.Module]) -> nn.Module:
    """A network whose weights are yet to be filled, without the time that drawing its first ones takes."""
    with torch.device("meta"):
        return build().to_empty(device="cpu")


def logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        chunks = [model(chunk) for chunk in images.split(25)]
    return torch.cat([c if isinstance(c, Tensor) else c.logits for c in chunks])


def _record(case: Case, direction: str, error: float) -> None:
    if out := os.environ.get("NEXTIFY_PARITY_OUT"):
        with open(out, "a") as file:
            row = {"naming": case.naming, "model": case.name, "direction": direction, "error": error}
            file.write(json.dumps(row) + "\n")


def assert_same(case: Case, direction: str, ours: Tensor, theirs: Tensor) -> None:
    error = float((ours - theirs).norm() / theirs.norm())
    _record(case, direction, error)
    assert error <= TOLERANCE
    assert torch.equal(ours.argmax(1), theirs.argmax(1))
    assert theirs.std(dim=0).mean() > 1e-2  # the logits depend on the image, or agreement would mean little


@pytest.mark.parametrize("case", _cases())
def test_logits_agree_both_ways(case: Case) -> None:
    torch.manual_seed(0)
    theirs = randomize(case.build())
    images = torch.randn(IMAGES, 3, 64, 32)
    expected = logits(theirs, images)

    recognized = recognize(theirs.state_dict())
    design = infer_design(recognized)
    assert recognized.unexpected == ()
    assert recognized.naming == (
        "torchvision" if case.name.startswith("resnet") and case.naming == "timm" else case.naming
    )
    assert design == case.design
    ours = empty(lambda: create_model(design))
    ours.load_state_dict(recognized.state)
    assert_same(case, "in", logits(ours.eval(), images), expected)

    # Bit-exact round trip, shapes included.
    back = rename(recognized.state, design, case.naming)
    original = theirs.state_dict()
    assert back.keys() == original.keys()
    for name, tensor in original.items():
        assert back[name].shape == tensor.shape, name
        assert torch.equal(back[name], tensor), name

    # Our weights in their model.
    randomize(ours, seed=1)
    theirs.load_state_dict(rename(ours.state_dict(), design, case.naming))
    assert_same(case, "out", logits(ours, images), logits(theirs, images))


@pytest.mark.parametrize(
    "name", ["convnext_atto", pytest.param("convnext_tiny", marks=pytest.mark.slow), "convnextv2_atto"]
)
def test_official_names_are_those_that_timm_converts(name: str) -> None:
    """The official code is on no registry; timm's own reader of its files is the judge."""
    from timm.models.convnext import checkpoint_filter_fn

    design = DESIGNS[name]
    ours = randomize(create_model(design)).state_dict()
    theirs = _timm(name)
    theirs.load_state_dict(checkpoint_filter_fn({"model": rename(ours, design, "official")}, theirs))
    expected = rename(ours, design, "timm")
    assert all(torch.equal(tensor, expected[n]) for n, tensor in theirs.state_dict().items())


def test_isotropic_official_weights_mean_what_the_paper_says() -> None:
    """timm has no isotropic model, so the official forward pass is written out here on the official names."""
    design = DESIGNS["convnext_isotropic_large"].with_(depths=(3,), widths=(48,))
    ours = create_model(design, 10)
    randomize(ours)
    w = rename(ours.state_dict(), design, "official")
    images = torch.randn(IMAGES, 3, 64, 32)
    x = nn.functional.conv2d(images, w["stem.weight"], w["stem.bias"], stride=16)
    for b in range(3):
        y = nn.functional.conv2d(x, w[f"blocks.{b}.dwconv.weight"], w[f"blocks.{b}.dwconv.bias"], padding=3, groups=48)
        y = y.permute(0, 2, 3, 1)
        y = nn.functional.layer_norm(y, (48,), w[f"blocks.{b}.norm.weight"], w[f"blocks.{b}.norm.bias"], 1e-6)
        y = nn.functional.linear(y, w[f"blocks.{b}.pwconv1.weight"], w[f"blocks.{b}.pwconv1.bias"])
        y = nn.functional.linear(nn.functional.gelu(y), w[f"blocks.{b}.pwconv2.weight"], w[f"blocks.{b}.pwconv2.bias"])
        x = x + (w[f"blocks.{b}.gamma"] * y).permute(0, 3, 1, 2)
    x = nn.functional.layer_norm(x.mean((-2, -1)), (48,), w["norm.weight"], w["norm.bias"], 1e-6)
    expected = nn.functional.linear(x, w["head.weight"], w["head.bias"])
    got = logits(ours, images)
    assert float((got - expected).norm() / expected.norm()) <= TOLERANCE
    assert torch.equal(got.argmax(1), expected.argmax(1))
    design_again = infer_design(recognize(w))
    assert design_again == design


def test_other_resnets() -> None:
    with torch.device("meta"):
        deeper = infer_design(recognize(_torchvision("resnet101").state_dict()))
        assert deeper == DESIGNS["resnet50"].with_(depths=(3, 4, 23, 3))
        # ResNeXt's blocks widen by 2 and ResNet-18 has basic blocks: neither is a design here.
        for name in ("resnext50_32x4d", "resnet18"):
            recognized = recognize(_torchvision(name).state_dict())
            with pytest.raises(WeightsError, match="design"):
                require_fit(recognized, infer_design(recognized), name)
