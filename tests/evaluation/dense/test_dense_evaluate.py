"""Evaluations with a network that knows the truth, or errs as told; what they write."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextify.data import DataError
from nextify.data.dense import open_dense
from nextify.evaluation.dense import DetectionEvaluation, SegmentationEvaluation, evaluate_dense
from nextify.networks.dense.detection import Found
from nextify.system.files import UnusableFolder
from tests.data.dense import layouts
from tests.evaluation.dense.helpers import finder, made, perfect
from tests.helpers import save_noise


@pytest.mark.parametrize("masks", [False, True])
def test_a_perfect_detector(masks: bool) -> None:
    images = made("detection")
    progress: list[tuple[int, int]] = []
    found = evaluate_dense(
        finder(images, perfect(images, masks)), images, on_progress=lambda *done: progress.append(done)
    )
    assert isinstance(found, DetectionEvaluation)
    assert found.metrics["ap"] == found.metrics["ap50"] == 100
    assert ("mask_ap" in found.metrics) is masks
    assert not masks or found.metrics["mask_ap"] == 100
    assert (found.f1, found.images, found.worst) == (1, 3, ())
    assert found.objects == sum(len(images.test.objects(i)) for i in range(3)) == np.trace(found.confusion)
    assert progress[-1] == (3, 3)
    assert "worst.png" not in found.files


def test_a_detector_that_errs(tmp_path: Path) -> None:
    """In the first image it finds nothing, in the second it takes every class for the next one."""
    images = made("detection")
    answers = perfect(images)
    nothing, wrong = answers[0], answers[1]
    answers[0] = Found(nothing.boxes[:0], nothing.scores[:0], nothing.labels[:0])
    answers[1] = wrong._replace(labels=(wrong.labels + 1) % 3)
    found = evaluate_dense(finder(images, answers), images, out=tmp_path)
    assert isinstance(found, DetectionEvaluation)
    missed, taken = (len(images.test.objects(i)) for i in (0, 1))
    assert found.metrics["ap50"] < 100
    assert [(row.name, row.f1) for row in found.worst] == [("0.png", 0), ("1.png", 0)]
    assert (found.worst[0].missed, found.worst[1].wrong_class) == (missed, taken)
    confusion = np.array(found.confusion)
    assert confusion[:, 3].sum() == missed
    assert confusion.sum() - np.trace(confusion) == missed + taken
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["metrics"] == found.metrics
    assert written["intervals"] == {key: list(interval) for key, interval in found.intervals.items()}
    assert found.intervals["ap"][0] < found.metrics["ap"] < found.intervals["ap"][1]
    assert written["bootstrap_draws"] == 1000
    assert {curve["iou"] for curve in written["curves"]} == {0.5, 0.75, 0.9}
    assert all(len(curve["precision"]) == 101 for curve in written["curves"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(found.files)
    for name in set(found.files) - {"evaluation.json"}:
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 200
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of pycocotools
@pytest.mark.parametrize("masks", [False, True])
def test_cocos_results_are_scored_against_the_users_own_file(masks: bool, tmp_path: Path) -> None:
    """Category ids have gaps, image ids are in no order, and the network knows a class more, in an order of its own."""
    coco, cocoeval = (pytest.importorskip(f"pycocotools.{name}") for name in ("coco", "cocoeval"))
    rng, image_ids, categories = np.random.default_rng(0), (42, 7, 1000, 5), {"owl": 90, "cat": 1, "dog": 3}
    for part in ("train", "val"):
        found = layouts.coco([f"{part}{i}.png" for i in range(4)], annotations=[])
        found["categories"] = [{"id": i, "name": name} for name, i in categories.items()]
        for image, number in zip(found["images"], image_ids, strict=True):
            save_noise(tmp_path / "images" / image["file_name"], number, layouts.SIZE)
            image["id"] = number
            for k, category in enumerate(rng.choice([1, 3, 90], 3).tolist()):
                x, y, width, height = 6 * k, int(rng.integers(0, 6)), 6, int(rng.integers(6, 11))
                outline = [x, y, x + width, y, x + width, y + height, x, y + height]
                row = {"image_id": number, "category_id": category, "bbox": [x, y, width, height], "iscrowd": 0}
                row |= {"id": len(found["annotations"]) + 1, "segmentation": [outline], "area": width * height}
                found["annotations"].append(row)
        layouts.write(tmp_path / f"{part}.json", found | {"info": {}})  # which pycocotools 2.0.10 needs
    images = open_dense(tmp_path)
    order = ("unicorn", "owl", "cat", "dog")
    answers = []
    for one in perfect(images, masks):
        moved = one.boxes + torch.from_numpy(rng.uniform(-4, 4, one.boxes.shape).astype(np.float32))
        labels = torch.tensor([order.index(images.classes[k]) for k in one.labels])
        labels[-1] = int(rng.integers(0, 4))
        answers.append(one._replace(boxes=moved, scores=torch.from_numpy(rng.random(3)).float(), labels=labels))
    evaluated = evaluate_dense(finder(images, answers, order), images, out=tmp_path / "out")
    assert "coco-results.json" in evaluated.files
    truth = coco.COCO(str(tmp_path / "val.json"))
    results = truth.loadRes(str(tmp_path / "out" / "coco-results.json"))
    for kind, key in (("bbox", "ap"), *((("segm", "mask_ap"),) if masks else ())):
        scored = cocoeval.COCOeval(truth, results, kind)
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
        assert 5 < evaluated.metrics[key] < 95
        assert 100 * scored.stats[0] == pytest.approx(evaluated.metrics[key])
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(UnusableFolder, match=r"holds another evaluation \(told on .*choose another --out$"):
        evaluate_dense(finder(images, answers, order), images, part="all", out=tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    both = evaluate_dense(finder(images, [*answers, *answers], order), images, part="all", out=tmp_path / "both")
    assert "coco-results.json" not in both.files  # both parts have images of these ids


def test_another_ignored_index_than_in_the_training_is_said() -> None:
    images = made("segmentation")
    for trained, here, said in ((9, 7, True), (9, 9, False), (None, 9, False), (9, None, False)):
        told = finder(images, perfect(images))
        told = replace(told, about=replace(told.about, ignore_index=trained))
        notes = evaluate_dense(told, replace(images, ignore_index=here)).notes
        sentence = "The network was trained with index 9 of the masks ignored, but here index 7 is."
        assert (sentence in notes) is said


def test_classes_are_matched_by_name() -> None:
    images = made("detection")
    order = (*reversed(images.classes), "unicorn")
    answers = [one._replace(labels=2 - one.labels) for one in perfect(images)]
    found = evaluate_dense(finder(images, answers, order), images)
    assert found.metrics["ap"] == 100
    assert found.classes[-1].name == "unicorn"
    assert "made has no images of unicorn: AP is over the other classes" in found.notes
    with pytest.raises(DataError, match="does not know: owl; it knows"):
        evaluate_dense(finder(images, answers, images.classes[:2]), images)
    masks = made("segmentation")
    with pytest.raises(DataError, match="rename the classes of the annotations, give the --ignore-index that"):
        evaluate_dense(finder(masks, [], masks.classes[:3]), masks)


def test_pixels_taken_for_a_class_that_the_data_lacks_are_wrong() -> None:
    images = made("segmentation")
    answers = [torch.cat([one, torch.zeros_like(one[:1])]) for one in perfect(images)]
    answers[0][4, :8] = 2
    found = evaluate_dense(finder(images, answers, (*images.classes, "unicorn")), images)
    assert isinstance(found, SegmentationEvaluation)
    assert found.classes[-1].iou == 0
    assert found.metrics["pixel_accuracy"] == pytest.approx(100 * (1 - 8 / (3 * 32)))
    assert "made has no images of unicorn: pixels taken for them count as wrong" in found.notes


def test_the_task_must_be_the_bundles() -> None:
    images = made("segmentation")
    with pytest.raises(DataError, match="the bundle is for detection, and made was opened for segmentation"):
        evaluate_dense(finder(made("detection"), []), images)


def test_segmentation(tmp_path: Path) -> None:
    """Perfect but for the first image, which is taken for background; its second look draws the sheet."""
    images = made("segmentation")
    answers = perfect(images)
    answers[0] = torch.zeros_like(answers[0])
    answers[0][0] = 1
    found = evaluate_dense(finder(images, [*answers, answers[0]]), images, out=tmp_path)
    assert isinstance(found, SegmentationEvaluation)
    objects = sum(int((images.test.mask(i) > 0).sum()) for i in range(3))
    lost = int((images.test.mask(0) > 0).sum())
    confusion = np.array(found.confusion)
    assert confusion[1:, 0].sum() == lost
    assert confusion[1:].sum() == objects
    assert found.metrics["pixel_accuracy"] == pytest.approx(100 * (1 - lost / confusion.sum()))
    assert found.metrics["miou"] == pytest.approx(np.mean([row.iou for row in found.classes if row.iou is not None]))
    assert [row.name for row in found.worst] == ["0.png"]
    assert found.intervals["miou"][0] < found.metrics["miou"] < found.intervals["miou"][1]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(found.files)
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert sum(written["confusion"]["0"].values()) == confusion[0].sum()
