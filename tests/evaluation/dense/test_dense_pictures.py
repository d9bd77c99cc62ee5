"""Words do not cover each other, and keys do not cover curves."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from nextify.evaluation import dense_pictures, pictures
from nextify.evaluation.dense_pictures import Shown, precision_recall_picture, prediction_sheet
from nextify.evaluation.dense_predict import DensePrediction, FoundObject, picture
from nextify.tasks.average_precision import average_precision, encoded, encoded_part
from tests.evaluation.dense.helpers import NAMES, objects, seen


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are made, laid out."""
    made: list[Any] = []

    def kept(sheet: Figure, dots_per_inch: float = 130) -> bytes:
        sheet.draw_without_rendering()
        made.append(sheet)
        return b""

    monkeypatch.setattr(dense_pictures, "png", kept)
    monkeypatch.setattr(pictures, "png", kept)
    return made


def test_words_do_not_cover_each_other(sheets: list[Any]) -> None:
    """Three objects in one place, each found twice, at the corner and at the borders of the image."""
    boxes = np.array([(0, 0, 20, 20), (1, 1, 21, 21), (30, 40, 64, 64), (44, 0, 64, 18)], np.float32)
    truth = objects(boxes, [0, 1, 2, 0])
    found = seen(np.concatenate([boxes, boxes + 1]), [0.9] * 4 + [0.8] * 4, [0, 1, 2, 0] * 2, truth)
    title = f"made: {', '.join(f'mask AP{level} 12.34 %' for level in (50, 60, 70, 75, 80))}"
    prediction_sheet([Shown("a.png", np.zeros((64, 64, 3), np.uint8), found)], NAMES, title, 0.5)
    (sheet,) = sheets
    assert "mask AP80 12.34 %" in sheet.get_suptitle().replace("\n", " ")
    assert max(map(len, sheet.get_suptitle().splitlines())) <= 70
    for axes, words in zip(sheet.axes, (4, 8), strict=True):
        extents = [text.get_window_extent() for text in axes.texts]
        assert len(extents) == words
        shared = [one.intersection(one, other) for one, other in itertools.combinations(extents, 2)]
        assert all(box is None or box.width * box.height < 1 for box in shared)
        assert all(axes.get_window_extent().padded(1).contains(*corner) for box in extents for corner in box.corners())


def test_masks_of_many_objects_are_drawn_in_little_memory() -> None:
    """An image's worth for each object would be 40 × 0.6 MB."""
    pixels = np.full((600, 1000, 3), 90, np.uint8)
    peaks = []
    for number in (2, 40):
        boxes = [(20.0 * k, 30, 20.0 * k + 15, 100) for k in range(number)]
        things = [FoundObject("cat", 0, 0.9, box, encoded_part(np.ones((70, 15), bool), 30, 20 * k, (600, 1000)))
                  for k, box in enumerate(boxes)]  # fmt: skip
        tracemalloc.start()
        picture(DensePrediction("x", 600, 1000, tuple(things), pixels=pixels), ["cat"])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 8e6


def test_a_mask_is_drawn_where_it_is(sheets: list[Any]) -> None:
    inside = np.zeros((64, 64), bool)
    inside[8:20, 44:64] = inside[12:40, 49:54] = True
    truth = objects([(44, 8, 64, 40)])
    found = seen([(44, 8, 64, 40)], [0.9], [0], truth)._replace(masks=[encoded(inside)])
    prediction_sheet([Shown("a.png", np.zeros((64, 64, 3), np.uint8), found)], NAMES, "made", 0.5)
    (sheet,) = sheets
    panel = sheet.axes[1]
    assert np.array_equal(panel.images[0].get_array().any(-1), inside)
    (outline,) = panel.collections
    assert outline.get_paths()[0].get_extents().extents == pytest.approx([44, 8, 64, 40])
    assert (panel.get_xlim(), panel.get_ylim()) == ((0, 64), (64, 0))


@pytest.mark.parametrize("classes", [3, 11, 30])
def test_the_confusion_matrix_keeps_its_labels(classes: int, sheets: list[Any]) -> None:
    counts = np.arange(classes**2).reshape(classes, classes)
    pictures.matrix_picture(counts, [*map(str, range(classes))], "made\nmIoU 21.80 %", "found class", "share of pixels")
    (sheet,) = sheets
    assert sheet.axes[0].yaxis.label.get_window_extent().x0 >= 0
    assert sheet.axes[1].yaxis.label.get_window_extent().x1 <= sheet.bbox.x1


@pytest.mark.parametrize("classes", [3, 12, 30])
def test_keys_do_not_cover_curves(classes: int, sheets: list[Any]) -> None:
    box = (0, 0, 20, 20)
    images = [seen([box], [0.9], [k], objects([box], [k]), k) for k in range(classes)]
    names = [f"a class called {k}" for k in range(classes)]
    precision_recall_picture(average_precision(images, names).boxes, names, "made")
    (sheet,) = sheets
    keys = [axes.get_legend() for axes in sheet.axes if axes.get_legend() is not None]
    assert len(keys) == (2 if classes <= 12 else 1)
    for key in keys:
        assert all(key.get_window_extent().y1 < axes.get_window_extent().y0 for axes in sheet.axes)
        assert key.get_window_extent().y0 >= 0
