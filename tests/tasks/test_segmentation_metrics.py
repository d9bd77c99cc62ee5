"""Mean IoU against a sum by hand and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score

from nextify.data.dense.annotations import IGNORED
from nextify.tasks.metric_specs import REGIONS
from nextify.tasks.segmentation_metrics import Pixels, SegmentationMetrics, pixel_confusion


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_scikit_learn(seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, 5, (3, 9, 7), generator=draws, dtype=torch.uint8)
    found = torch.where(torch.rand(3, 9, 7, generator=draws) < 0.6, truth, torch.randint(0, 4, (3, 9, 7))).long()
    truth[torch.rand(3, 9, 7, generator=draws) < 0.2] = IGNORED
    seen = [Pixels(pixel_confusion(f[None], t[None], 7), 1) for f, t in zip(found, truth, strict=True)]
    metrics = SegmentationMetrics.over(seen)
    counted = truth != IGNORED
    pairs = truth[counted].numpy(), found[counted].numpy()
    assert metrics.images == 3
    assert metrics.miou == pytest.approx(100 * jaccard_score(*pairs, average="macro"))
    assert metrics.pixel_accuracy == pytest.approx(100 * accuracy_score(*pairs))
    assert metrics.iou[:5] == pytest.approx(tuple(100 * jaccard_score(*pairs, average=None, labels=range(5))))
    assert metrics.iou[5:] == (None, None)


def test_by_hand() -> None:
    truth = torch.tensor([[0, 0, 1, 1], [IGNORED, 2, 1, 1]], dtype=torch.uint8)
    found = torch.tensor([[0, 1, 1, 1], [2, 2, 1, 0]])
    counts = pixel_confusion(found, truth, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [1, 3, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    metrics = SegmentationMetrics.of(counts, 1)
    assert metrics.iou == pytest.approx((100 / 3, 60.0, 100.0, None))
    assert metrics.values() == pytest.approx({"miou": (100 / 3 + 160) / 3, "pixel_accuracy": 500 / 7})
    assert [spec.key for spec in REGIONS] == list(metrics.values())


def test_nothing_to_measure_on() -> None:
    with pytest.raises(ValueError, match="all ignored"):
        SegmentationMetrics.of(np.zeros((2, 2), np.int64), 1)
    with pytest.raises(ValueError, match="no images"):
        SegmentationMetrics.over([])
