"""Predictions on files: errors, tables, COCO and YOLO files, index masks, drawn copies."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection.roi_heads import paste_masks_in_image

from nextify.evaluation.dense_predict import DenseFolder, csv_text, find, yolo_text
from nextify.evaluation.finder import Finder
from nextify.networks.dense.detection import Found
from nextify.system.files import UnusableFolder
from nextify.tasks.average_precision import mask_api
from nextify.weights import WeightsError
from tests.evaluation.dense.helpers import filled, finder_of

CLASSES = ("cat", "$dog_1$")


def photo(path: Path, width: int, height: int) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)
    return path


def detector(*answers: Found) -> Finder:
    return finder_of(answers, "detection", CLASSES, (64, 64))


def answer(masks: bool = False) -> Found:
    """On a canvas of 64×64: a sure dog at the left top, a doubtful cat, and one that is hardly worth a word."""
    boxes = torch.tensor([[8.0, 8, 16, 24], [0, 0, 32, 32], [4, 4, 9, 9]])
    return Found(boxes, torch.tensor([0.5, 0.75, 0.1]), torch.tensor([1, 0, 0]), filled(3) if masks else None)


def test_objects_of_files(tmp_path: Path) -> None:
    """An image of 128×64 lies on the canvas at half its size, so its boxes are twice as large."""
    first, second = photo(tmp_path / "a" / "x.jpg", 128, 64), photo(tmp_path / "b" / "x.png", 64, 64)
    (tmp_path / "b" / "y.jpg").write_bytes(b"no image")
    told = detector(answer(masks=True), answer(masks=True))
    predictions = list(find(told, [str(tmp_path / "a"), str(tmp_path / "b"), "nowhere.jpg"]))
    assert [p.path for p in predictions] == [str(first), str(second), str(tmp_path / "b" / "y.jpg"), "nowhere.jpg"]
    assert [bool(p.error) for p in predictions] == [False, False, True, True]
    cat, dog = predictions[0].objects
    assert (cat.name, cat.index, cat.score, cat.box) == ("cat", 0, 0.75, (0, 0, 64, 64))
    assert (dog.name, dog.box) == ("$dog_1$", (16, 16, 32, 48))
    assert dog.mask is not None
    assert mask_api().decode(dog.mask).sum() == 16 * 32
    rows = list(csv.DictReader(csv_text(predictions, "detection").splitlines()))
    assert [(row["class"], float(row["x2"])) for row in rows] == [
        ("cat", 64),
        ("$dog_1$", 32),
        ("cat", 32),
        ("$dog_1$", 16),
    ]
    assert yolo_text(predictions[0]).splitlines()[1] == "1 0.187500 0.500000 0.125000 0.500000 0.500000"
    json.dumps([p.to_dict() for p in predictions], allow_nan=False)

    folder = DenseFolder(tmp_path / "out", told)
    for prediction in predictions[:2]:
        folder.add(prediction)
    folder.finish()
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert written == [
        *("coco/images.json", "coco/results.json", "drawn/x-2.png", "drawn/x.png", "yolo/x-2.txt", "yolo/x.txt")
    ]
    with Image.open(tmp_path / "out" / "drawn" / "x.png") as picture:
        assert picture.size == (640, 320)  # enlarged five times
        assert len(picture.convert("RGB").getcolors(10**6)) > 10


def test_a_segmenter_whose_outputs_are_no_numbers_finds_no_class_in_them(tmp_path: Path) -> None:
    logits = torch.zeros(2, 64, 64)
    logits[1, 3, 5] = float("nan")
    told = finder_of([logits], "segmentation", CLASSES, (64, 64))
    with pytest.raises(WeightsError, match="its outputs are NaN or infinite: the weights overflow; give others"):
        list(find(told, [str(photo(tmp_path / "x.jpg", 64, 64))]))


@pytest.mark.parametrize("masks", [False, True])
def test_objects_beside_the_image_are_dropped(masks: bool) -> None:
    """An image of 128×64 fills the upper half of the canvas."""
    found = answer(masks)
    found.boxes[1] = torch.tensor([0, 40, 32, 60])
    (prediction,) = find(detector(found), Image.new("RGB", (128, 64)))
    (dog,) = prediction.objects
    assert (dog.name, dog.box) == ("$dog_1$", (16, 16, 32, 48))
    assert (dog.mask is not None) == masks
    assert dog.mask is None or mask_api().decode(dog.mask).sum() == 16 * 32


@pytest.mark.parametrize("masks", [False, True])
def test_coco_files_are_read_by_coco(masks: bool, tmp_path: Path) -> None:
    from faster_coco_eval import COCO

    found = answer(masks)
    told = detector(found)
    folder = DenseFolder(tmp_path / "out", told)
    folder.add(next(iter(find(told, photo(tmp_path / "x.jpg", 128, 64), least_score=0.6))))
    folder.finish()
    truth = COCO(str(tmp_path / "out" / "coco" / "images.json"))
    results = truth.loadRes(str(tmp_path / "out" / "coco" / "results.json"))
    (annotation,) = results.anns.values()
    assert truth.cats[annotation["category_id"]]["name"] == "cat"
    assert annotation["bbox"] == [0, 0, 64, 64]
    if found.masks is not None:
        expected = paste_masks_in_image(found.masks[1:2, None], 2 * found.boxes[1:2], (64, 128))[0, 0] > 0.5
        assert 60**2 < expected.sum() <= 64**2
        assert np.array_equal(results.annToMask(annotation), expected.numpy())


def test_coco_files_have_the_category_ids_of_the_training(tmp_path: Path) -> None:
    told = detector(answer())
    told = replace(told, about=replace(told.about, category_ids=(3, 90)))
    folder = DenseFolder(tmp_path, told)
    folder.add(next(iter(find(told, photo(tmp_path / "x.jpg", 128, 64)))))
    folder.finish()
    images, results = (json.loads((tmp_path / "coco" / f"{name}.json").read_text()) for name in ("images", "results"))
    assert images["categories"] == [{"id": 3, "name": "cat"}, {"id": 90, "name": "$dog_1$"}]
    assert [(row["category_id"], row["score"]) for row in results] == [(3, 0.75), (90, 0.5)]


@pytest.mark.parametrize("size", [(57, 1), (1, 40), (1, 1)])
def test_masks_of_images_that_are_a_pixel_wide_are_drawn(size: tuple[int, int], tmp_path: Path) -> None:
    told = detector(answer(masks=True))
    folder = DenseFolder(tmp_path, told)
    folder.add(next(iter(find(told, Image.new("RGB", size)))))
    assert (tmp_path / "drawn" / "image 0.png").exists()


def test_regions(tmp_path: Path) -> None:
    logits = torch.zeros(2, 64, 64)
    logits[1, :16] = 5
    told = finder_of([logits] * 2, "segmentation", CLASSES, (64, 64))
    (found,) = find(told, Image.new("RGB", (64, 64)))
    assert [(region.name, region.share) for region in found.regions] == [("cat", 0.75), ("$dog_1$", 0.25)]
    assert csv_text([found], "segmentation").splitlines()[2] == "image 0,$dog_1$,1,0.25"
    folder = DenseFolder(tmp_path, told)
    folder.add(found)
    folder.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn", "masks"]
    with Image.open(tmp_path / "masks" / "image 0.png") as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), found.labels)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="least_score must be from 0 to 1, got 30"):
        next(find(detector(), "x.jpg", least_score=30))
    with pytest.raises(TypeError, match="an image must be a path"):
        next(find(detector(), [7]))  # type: ignore[list-item]


def test_an_earlier_run_is_no_image_and_other_files_stay(tmp_path: Path) -> None:
    """``masks/`` beside ``images/`` is also where a data set has its masks, which were overwritten."""
    told = finder_of([torch.zeros(2, 64, 64)] * 2, "segmentation", CLASSES, (64, 64))
    image = photo(tmp_path / "x.jpg", 64, 64)
    for _ in range(2):  # in the folder of the images themselves
        folder = DenseFolder(tmp_path, told)
        assert folder.without_own([str(tmp_path)]) == [str(image)]
        folder.add(next(iter(find(told, str(image)))))
    drawn = tmp_path / "drawn" / "x.png"
    for named in (drawn, drawn.parent):
        assert folder.without_own([str(named)]) == [str(drawn)]
    assert folder.without_own(["nowhere.jpg"]) == ["nowhere.jpg"]
    (tmp_path / "data" / "masks").mkdir(parents=True)
    with pytest.raises(UnusableFolder, match=r"masks was not written by nextify predict: choose another --out"):
        DenseFolder(tmp_path / "data", told)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["masks"]


def test_an_image_does_not_get_the_name_of_another(tmp_path: Path) -> None:
    """``b/x`` was called ``x-2``, as is ``c/x-2``, so that the two were taken for each other."""
    told = finder_of([torch.zeros(2, 64, 64)] * 4, "segmentation", CLASSES, (64, 64))
    for path in ("a/x.png", "b/x.png", "c/x-2.png", "d/x.png"):
        photo(tmp_path / path, 64, 64)
    folder = DenseFolder(tmp_path / "out", told)
    names = []
    for found in find(told, folder.without_own([str(tmp_path)])):
        before = set((tmp_path / "out" / "masks").iterdir())
        folder.add(found)
        names += [path.stem for path in (tmp_path / "out" / "masks").iterdir() if path not in before]
    assert names == ["x", "x-3", "x-2", "x-4"]
