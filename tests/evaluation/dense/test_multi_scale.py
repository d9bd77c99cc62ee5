"""Segmenters measured at several sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from nextify.cli import main
from nextify.data.dense.placement import fitting
from nextify.evaluation import multi_scale
from nextify.evaluation.finder import open_finder
from nextify.evaluation.multi_scale import MultiScale
from nextify.networks.dense.design import fitted_head
from nextify.networks.dense.network import DenseNetwork
from nextify.networks.foreign import timm_network
from nextify.networks.zoo import create_model
from nextify.tasks.restoring import regions_back
from nextify.weights.bundle import About, save_bundle
from tests.evaluation.dense.helpers import made
from tests.evaluation.dense.test_dense_commands import CONVNEXT, fresh

CANVAS = (64, 96)


@pytest.fixture
def network() -> DenseNetwork:
    torch.manual_seed(0)
    return DenseNetwork(fitted_head(CONVNEXT, "fpn", CANVAS), 3, CANVAS).eval()


@torch.inference_mode()
def test_probabilities_of_sizes_and_mirror_images(network: DenseNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(2, 3, *CANVAS, generator=torch.Generator().manual_seed(0))
    found = MultiScale(network)(images)
    assert found.shape == (2, 3, *CANVAS)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(2, *CANVAS))
    torch.testing.assert_close(MultiScale(network)(images.flip(-1)), found.flip(-1), rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(multi_scale, "SCALES", (1.0,))
    own = (network(images).softmax(1) + network(images.flip(-1)).flip(-1).softmax(1)) / 2
    torch.testing.assert_close(MultiScale(network)(images).exp(), own)


@torch.inference_mode()
def test_a_class_without_any_probability(network: DenseNetwork) -> None:
    """So sure a network rounds the others' probabilities to 0, whose logarithms must not mix between two regions."""

    def sure(images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 3, *images.shape[-2:])
        logits[:, 1] = 500 * images[:, 0].sign()
        logits[:, 2] = -logits[:, 1]
        return logits

    model = MultiScale(network)
    model.network.forward = sure  # type: ignore[method-assign, assignment]
    left = torch.where(torch.arange(96) < 50, 1.0, -1.0).expand(1, 3, *CANVAS)
    for placement in (fitting((100, 150), CANVAS), fitting((37, 50), CANVAS)):
        found = regions_back(model(left)[0], placement)
        assert found.unique().tolist() == [1, 2]


def test_evaluate_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("nextify.cli.evaluation.read_any", lambda *args, **options: made("segmentation"))
    words = ["evaluate", str(fresh(tmp_path, "fpn")), "--data", "scenes", "--device", "cpu", "--multi-scale"]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("tiny with fpn, multi-scale on 3 images of made")


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multi-scale is for segmenters"):
        open_finder(fresh(tmp_path, "fcos"), multi_scale=True)
    swin = DenseNetwork(fitted_head(timm_network("swin_tiny_patch4_window7_224"), "fpn", CANVAS), 3, CANVAS)
    with pytest.raises(ValueError, match="any size"):
        MultiScale(swin)


@pytest.mark.parametrize("words", [["evaluate", "--data", "digits"], ["predict", "photo.png"]])
def test_a_classifier_is_refused(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = save_bundle(tmp_path / "bundle", create_model(CONVNEXT, 2).state_dict(), About(CONVNEXT, 2))
    assert main([words[0], str(bundle), *words[1:], "--multi-scale"]) == 2
    assert "--multi-scale is for segmenters, and" in capsys.readouterr().err
