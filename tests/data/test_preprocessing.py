"""One image, many libraries: ours is what timm and torchvision do with PIL images, and the rest is explained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nextify.data.foreign import (
    foreign_preprocess,
    from_huggingface_config,
    from_timm_config,
    to_huggingface_config,
)
from nextify.weights import Preprocessing, PreprocessingError, library_settings, report_differences

SETTINGS = Preprocessing(size=(32, 32), resize_size=37)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (120, 91, 3), dtype=np.uint8)
    smooth = np.linspace(0, 255, 120 * 91 * 3).reshape(120, 91, 3)
    return Image.fromarray((0.5 * noise + 0.5 * smooth).astype(np.uint8))


@pytest.mark.parametrize("foreign", ["timm", "torchvision"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", [32, 36, 37, 41])
def test_same_pixels_as_timm_and_torchvision(foreign: Any, interpolation: Any, resize: int, image: Image.Image) -> None:
    settings = Preprocessing(size=(32, 32), resize_size=resize, interpolation=interpolation)
    for picture in (image, image.transpose(Image.Transpose.ROTATE_90), image.resize((20, 20))):
        theirs = foreign_preprocess(picture, settings, foreign)
        assert torch.allclose(settings(picture), theirs, atol=2e-6)
        report = report_differences(picture, settings, foreign)
        assert report.causes == ()
        assert report.unexplained == 0.0


def test_squash_as_timm_at_384(image: Image.Image) -> None:
    settings = Preprocessing(size=(48, 48), resize_size=48, fit="squash")
    assert torch.allclose(settings(image), foreign_preprocess(image, settings, "timm"), atol=2e-6)
    with pytest.raises(PreprocessingError, match="squash"):
        foreign_preprocess(image, settings, "torchvision")


def test_differences_are_named_and_add_up(image: Image.Image) -> None:
    theirs = Preprocessing(size=(32, 32), resize_size=34, interpolation="bilinear", antialias=False)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 4)).eval()
    report = report_differences(image, SETTINGS, "torchvision", foreign_settings=theirs, on="tensor", model=model)
    assert [c.setting for c in report.causes] == ["resize_size", "interpolation", "antialias", "resize on"]
    for cause in report.causes:
        assert cause.max_abs > 0
        assert cause.logits_max_abs is not None
    assert report.total.max_abs > 0.1
    assert report.unexplained == 0.0
    assert "resize_size: 37 here, 34 there" in str(report)


def test_huggingface_route_is_explained(image: Image.Image) -> None:
    pytest.importorskip("transformers")
    report = report_differences(image, SETTINGS, "huggingface")
    assert {c.setting for c in report.causes} == {"resize on", "crop offset"}
    assert report.unexplained < 0.02  # one step of 8-bit rounding, in normalized units
    large = Preprocessing(size=(384, 384), resize_size=384, fit="squash")
    assert report_differences(image, large, "huggingface").total.max_abs < 0.04
    cropped = Preprocessing(size=(384, 384), resize_size=438)
    report = report_differences(image, cropped, "huggingface")
    assert "fit" in {c.setting for c in report.causes}
    assert "squash at 384" in report.notes[0]


def test_what_libraries_use_themselves() -> None:
    pytest.importorskip("transformers")
    assert library_settings("torchvision", "convnext_tiny").resize_size == 236
    assert library_settings("torchvision", "convnext_tiny").interpolation == "bilinear"
    assert library_settings("timm", "convnext_tiny.fb_in1k") == Preprocessing()
    squash = library_settings("timm", "convnext_tiny.fb_in22k_ft_in1k_384")
    assert (squash.fit, squash.size) == ("squash", (384, 384))
    # transformers' bare processor has the mean and std of no released ConvNeXt.
    assert library_settings("huggingface", "").mean == (0.5, 0.5, 0.5)
    with pytest.raises(PreprocessingError, match="no pretrained configuration"):
        library_settings("timm", "nonesuch")


def test_settings_survive_other_libraries_files() -> None:
    for settings in (Preprocessing(), Preprocessing(size=(160, 160), resize_size=183, interpolation="bilinear")):
        assert from_huggingface_config(to_huggingface_config(settings)) == settings
    assert from_timm_config({"input_size": (3, 288, 288), "crop_pct": 0.95}).resize_size == 303
    with pytest.raises(PreprocessingError, match=r"interpolation must be .*, got 5"):  # Pillow's Hamming filter
        from_huggingface_config({"resample": 5})
    with pytest.raises(PreprocessingError, match="do_resize: false, but images of all sizes"):
        from_huggingface_config({"do_resize": False, "size": {"height": 32, "width": 32}})


def test_a_huggingface_processor_is_read_as_it_computes() -> None:
    transformers = pytest.importorskip("transformers")
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (90, 90, 3)).astype(np.uint8))  # no half pixels in its crops
    convnext: dict[str, Any] = {"size": {"shortest_edge": 64}, "crop_pct": 0.8}
    cases = [
        ("ConvNextImageProcessor", convnext),
        ("ConvNextImageProcessor", convnext | {"do_normalize": False}),
        ("ConvNextImageProcessor", convnext | {"do_rescale": False}),
        ("ConvNextImageProcessor", convnext | {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3}),
        ("ViTImageProcessor", {"size": {"height": 48, "width": 64}}),
        ("BitImageProcessor", {"size": {"shortest_edge": 80}, "crop_size": {"height": 64, "width": 64}}),
    ]
    for name, given in cases:
        processor = getattr(transformers, name)(**given)
        theirs = processor(image, return_tensors="pt")["pixel_values"][0]
        ours = from_huggingface_config(processor.to_dict())(image)
        assert ours.shape == theirs.shape, (name, given)
        step = float((theirs.max() - theirs.min()) / 255)  # resized tensors are rounded elsewhere
        assert float((ours - theirs).abs().max()) < 3 * step, (name, given)


def test_settings_are_checked() -> None:
    for wrong in (
        {"size": (0, 32)},
        {"fit": "pad"},
        {"interpolation": "area"},
        {"mean": (0.5, 0.5)},
        {"std": (0.0, 1.0, 1.0)},
        {"interpolation": "lanczos", "antialias": False},
        {"size": (100_000, 100_000)},
        {"size": (224, 4097)},
        {"size": (224,)},
        {"size": (float("nan"), 224)},
        {"size": (float("inf"), 224)},
        {"resize_size": 10**9},
        {"bands": (1, 2)},
    ):
        with pytest.raises(PreprocessingError):
            Preprocessing(**wrong)  # type: ignore[arg-type]


def test_batches_shrink_as_images_grow() -> None:
    def batch(side: int) -> int:
        return Preprocessing(size=(side, side), resize_size=side).batch_size(256)

    assert [batch(side) for side in (1, 224, 384, 512, 1024, 4096)] == [256, 256, 256, 256, 64, 4]
