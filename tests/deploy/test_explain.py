"""Heat maps lie on what decides, and the checks tell maps that say something from those that do not."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nextify.cli import explanation, main
from nextify.deploy.explain import (
    LEAST_SIDE,
    SAME,
    Curve,
    Explanation,
    curves,
    explain,
    heat_map,
    random_agreement,
    steady_norms,
)
from nextify.deploy.runners import predict
from nextify.networks.layers import to_nchw, to_nhwc
from nextify.networks.network import ConvNet
from nextify.networks.zoo import create_model
from nextify.paper.design import CONVNEXT_TINY, Design
from nextify.paper.roadmap import roadmap
from nextify.report.explanations import write
from nextify.weights import About, Preprocessing, save_bundle
from tests.helpers import Captured, tiny_bundle

SIZE, OBJECT = 32, 8
SMALL = {"depths": (1, 1), "widths": (8, 16), "stage_strides": (1, 2)}
FAMILIES: dict[str, Design] = {
    "V1": CONVNEXT_TINY.with_(**SMALL, layer_scale="off"),
    "V2": CONVNEXT_TINY.with_(**SMALL, layer_scale="off", response_norm="global"),
    "ResNet": roadmap("resnet50")[0].design.with_(**SMALL),
    "pooled": CONVNEXT_TINY.with_(**SMALL, layer_scale="off", stem="conv3_pool", downsampling="pooled"),
}
SAMPLED = [pytest.param(name, marks=() if name in ("V1", "pooled") else pytest.mark.slow) for name in FAMILIES]
METHODS = [
    pytest.param("grad-cam", 7 / 8),  # a quarter by chance
    *(pytest.param(m, 5 / 8, marks=pytest.mark.slow) for m in ("grad-cam++", "hirescam", "integrated-gradients")),
]


def planted(images: int, seed: int, classes: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Noise with a red square, a green one, or none: images (N, 3, H, W), labels, and the squares' corners (N, 2)."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(images, 3, SIZE, SIZE, generator=random) * 0.3
    labels = torch.arange(images) % classes
    corners = torch.randint(SIZE - OBJECT + 1, (images, 2), generator=random)
    for image, label, (top, left) in zip(x, labels.tolist(), corners.tolist(), strict=True):
        if label < 2:
            image[label, top : top + OBJECT, left : left + OBJECT] += 2.5
    return x, labels, corners


@lru_cache
def trained(family: str, seed: int = 0) -> ConvNet:
    """A network that tells a red square from a green one and from none.

    The learning rate falls to nothing: with a constant one, where the maps lie depends on the last few steps.
    """
    torch.manual_seed(seed)
    model, steps = create_model(FAMILIES[family], 3), 100
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for step in range(steps):
        x, labels, _ = planted(24, step, 3)
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
        decay.step()
    return model.eval()


@pytest.mark.parametrize(("method", "hits"), METHODS)
@pytest.mark.parametrize("family", SAMPLED)
def test_the_map_of_a_planted_object_lies_on_it(family: str, method: Any, hits: float) -> None:
    model = trained(family)
    x, labels, corners = planted(64, 1000)
    with torch.no_grad():
        right = model(x).argmax(1) == labels
    assert right.float().mean() > 0.9
    found, share = [], []
    for image, label, (top, left) in zip(x[right], labels[right].tolist(), corners[right].tolist(), strict=True):
        heat = heat_map(model, image, label, method)
        assert heat.shape == (SIZE, SIZE)
        assert 0 <= heat.min() <= heat.max() <= 1.0001
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        margin = 4  # a pixel of the explained map
        found.append(top - margin <= row < top + OBJECT + margin and left - margin <= column < left + OBJECT + margin)
        inside = heat[max(0, top - margin) : top + OBJECT + margin, max(0, left - margin) : left + OBJECT + margin]
        share.append(inside.sum() / heat.sum())
    assert np.mean(found) >= hits
    assert np.median(share) > 0.3  # where at most a quarter of the image is


@pytest.mark.parametrize("family", SAMPLED)
def test_checks_tell_a_map_of_the_network_from_others(family: str) -> None:
    model = trained(family)
    x, labels, _ = planted(1, 1000)
    image, label = x[0], int(labels[0])
    heat = heat_map(model, image, label, "grad-cam")
    deletion, insertion = curves(lambda x: model(x).softmax(1).detach().numpy(), image, label, heat)
    assert deletion.area < deletion.random_area
    assert insertion.values[-1] == pytest.approx(deletion.values[0], abs=1e-5)
    assert random_agreement(model, lambda other: heat_map(other, image, label, "grad-cam"), heat) < SAME
    edges = image.abs().sum(0).numpy()  # of the image alone
    assert random_agreement(model, lambda other: edges, edges) == pytest.approx(1)
    constant = np.ones_like(heat)
    assert random_agreement(model, lambda other: constant, constant) == 1


def test_curves_of_a_map_that_is_right_and_of_one_that_is_wrong() -> None:
    image = torch.zeros(1, 16, 16)
    image[0, 4:8, 4:8] = 1.0
    right = image[0].numpy()

    def classify(images: Tensor) -> Any:
        """The class's probability is how much of the square is there."""
        there = (images[:, 0, 4:8, 4:8] > 0.9).float().mean((1, 2))
        return torch.stack([there, 1 - there], 1).numpy()

    deletion, insertion = curves(classify, image, 0, right)
    assert deletion.values[:2] == (1, 0)
    assert insertion.values[:2] == (0, 1)
    assert deletion.area < 0.1 < 0.3 < deletion.random_area < 0.7 < insertion.area
    deletion, insertion = curves(classify, image, 0, 1 - right)
    assert (deletion.area > 0.9, insertion.area < 0.1) == (True, True)


@pytest.mark.parametrize("family", SAMPLED)
def test_grad_cam_is_captums_where_the_axes_are_moved_for_it(family: str) -> None:
    attr = pytest.importorskip("captum.attr")
    model = trained(family)

    class Moved(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen = torch.nn.Identity()

        def forward(self, images: Tensor) -> Tensor:
            return model.forward_head(to_nhwc(self.seen(to_nchw(model.forward_features(images)))))

    x, labels, _ = planted(1, 1002)
    moved = Moved()
    with steady_norms(model):
        theirs = attr.LayerGradCam(moved, moved.seen).attribute(x, int(labels[0]), relu_attributions=True)
    theirs = F.interpolate(theirs.detach(), (SIZE, SIZE), mode="bilinear")[0, 0]
    ours = heat_map(model, x[0], int(labels[0]), "grad-cam")
    np.testing.assert_allclose(ours, theirs / theirs.max(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["V1", "pooled"])
def test_the_last_stages_map_adds_up_to_the_logit(family: str) -> None:
    model = trained(family)
    x, _, _ = planted(1, 1004)
    with steady_norms(model):
        maps = model.forward_features(x).detach().requires_grad_()
        logit = model.forward_head(maps)[0, 0]
        (gradient,) = torch.autograd.grad(logit, maps)
    norm = next(m for m in model.head.modules() if isinstance(m, torch.nn.LayerNorm))
    rest = model.head.classifier(norm.bias)[0]  # what is left without any map
    assert (gradient * maps).sum().item() == pytest.approx((logit - rest).item(), abs=1e-3)
    plain = model.forward_features(x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.forward_head(plain)[0, 0], plain)
    assert (gradient * plain).sum().item() == pytest.approx(0, abs=1e-2)  # as a layer norm undoes any scaling


def test_the_explained_map_has_pixels_enough() -> None:
    design = CONVNEXT_TINY.with_(depths=(1, 1, 1, 1), widths=(4, 4, 8, 8), layer_scale="off")
    model = create_model(design, 2).eval()  # strides 4, 8, 16, 32
    x = torch.randn(3, 64, 64)
    seen = []
    for stage in model.stages:
        stage.register_forward_hook(lambda _, __, out: seen.append(out.shape[1]))
    heat_map(model, x, 0, "hirescam")
    assert LEAST_SIDE in seen
    assert heat_map(model, torch.randn(3, 32, 32), 1, "grad-cam").shape == (32, 32)


@pytest.mark.parametrize(
    ("deletion", "insertion", "better"), [(0.83, 0.83, False), (0.9, 0.7, False), (0.5, 0.7, True), (0.9, 0.9, True)]
)
def test_a_map_no_better_than_chance_is_marked(
    deletion: float, insertion: float, better: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    flat = (Curve((area,) * 17, (0.83,) * 17) for area in (deletion, insertion))
    pixels = np.zeros((8, 8, 3), np.uint8)
    one = Explanation("x.png", "grad-cam", 0, "a", 0.9, *flat, 0.1, np.zeros((8, 8), np.float32), pixels)
    assert one.beats_chance == one.to_dict()["beats_chance"] == better
    page = write([one], tmp_path)[0].read_text()
    assert ("no better than chance" in page) == (not better)
    monkeypatch.setattr(explanation, "explain", lambda *_: [one])
    bundle = tiny_bundle(tmp_path / "b", ("a", "b"), 24, 0.75)
    assert main(["explain", str(bundle), "x.png", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert ("no better than chance" in said.err) == (not better)
    assert f"{deletion:.3f} (0.830)" in said.out


def test_command(tmp_path: Path, capsys: Captured) -> None:
    settings = Preprocessing((SIZE, SIZE), SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    about = About(FAMILIES["V1"], 3, classes=("<red>", "green", "none"), preprocessing=settings, temperature=2.0)
    bundle = save_bundle(tmp_path / "bundle", trained("V1").state_dict(), about)
    x, _, _ = planted(2, 1003)
    for i, image in enumerate((x * 0.25 + 0.5).clamp(0, 1).mul(255).byte().permute(0, 2, 3, 1)):
        Image.fromarray(image.numpy()).save(tmp_path / f"{i} <b>.png")
    out = tmp_path / "out"
    images = [str(tmp_path / f"{i} <b>.png") for i in range(2)]
    assert main(["explain", str(bundle), *images, str(tmp_path / "none.png"), "--out", str(out), "--json"]) == 1
    printed = capsys.readouterr()
    assert "none.png: no such file or folder" in printed.err
    assert json.loads(printed.out) == json.loads((out / "explanations.json").read_text())
    page = (out / "explanations.html").read_text()
    assert "<b>" not in page
    assert "&lt;red&gt;" in page or "green" in page
    names = {"1-0-b-.png", "1-0-b--grad-cam.png", "2-1-b-.png", "2-1-b--grad-cam.png"}
    assert {p.name for p in out.glob("*.png")} == names
    assert all(f'src="{name}"' in page for name in names)
    assert main(["explain", str(bundle), str(tmp_path), "--out", str(out), "--json"]) == 0
    assert [found["path"] for found in json.loads(capsys.readouterr().out)] == images  # without the maps in out
    (tmp_path / "photos").mkdir()
    out.rename(maps := tmp_path / "photos" / "explanations")
    assert main(["explain", str(bundle), str(tmp_path / "photos"), "--out", str(maps)]) == 2
    assert "there are only pictures of an earlier run: name images" in capsys.readouterr().err
    (one, _) = explain(str(bundle), images, index=1)
    assert isinstance(one, Explanation)
    assert one.index == 1
    assert one.probability == pytest.approx(
        next(guess.probability for guess in predict(bundle, images[0])[0].guesses if guess.index == 1), rel=1e-4
    )
    assert one.overlay().shape == (SIZE, SIZE, 3)
    assert main(["explain", str(bundle), images[0], "--index", "3", "--out", str(out)]) == 2
    assert "there is no class 3: the 3 classes are numbered from 0" in capsys.readouterr().err
