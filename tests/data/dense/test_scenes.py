"""The embedded set is the same everywhere, and its boxes and masks are of its pixels."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from nextify.data.dense import IGNORED, DenseImages, open_dense
from nextify.data.dense.annotations import encoded_mask
from nextify.data.dense.scenes import LARGEST, Part, scene

PICKED: tuple[tuple[Part, int], ...] = (("train", 0), ("train", 399), ("test", 0), ("test", 99))


@pytest.fixture(scope="module")
def images() -> DenseImages:
    return open_dense("scenes")


def test_they_are_as_they_are_described(images: DenseImages) -> None:
    assert (images.train_images, images.test_images, images.middle_size) == (1500, 150, (96, 128))
    assert images.classes == tuple("0123456789")
    assert images.has_masks
    assert not images.mirror_keeps_class
    boxes = np.concatenate([images.train.objects(i).boxes for i in range(0, 400, 10)])
    sides = boxes[:, 2:] - boxes[:, :2]
    assert 3 <= len(boxes) / 40 <= 5
    assert sides.min() >= 3
    assert sides[:, 1].max() <= LARGEST * 1.15  # turned
    assert (sides[:, 1] < 26).mean() > 0.1


def test_the_fingerprint_is_known(images: DenseImages) -> None:
    digest = hashlib.sha256()
    for part, index in PICKED:
        pixels, objects, mask = scene(part, index)
        digest.update(pixels.tobytes() + objects.boxes.tobytes() + objects.labels.tobytes() + mask.tobytes())
    assert digest.hexdigest()[:16] == "0a49a950e9761e06"
    assert images.fingerprint[:16] == "0829fb83a274266d"


def test_boxes_and_masks_are_those_of_the_index_masks(images: DenseImages) -> None:
    painted = open_dense("scenes", task="segmentation")
    assert painted.classes == ("background", *"0123456789")
    assert painted.fingerprint != images.fingerprint
    for i in range(5):
        objects, expected = images.test.objects(i), np.zeros((96, 128), np.uint8)
        for k, (box, label) in enumerate(zip(objects.boxes.tolist(), objects.labels.tolist(), strict=True)):
            mask = objects.mask(k, 96, 128)
            expected[mask] = 1 + label
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert box == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert objects.areas[k] == mask.sum()
        np.testing.assert_array_equal(painted.test.mask(i), expected)
        assert IGNORED not in expected


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of pycocotools
@pytest.mark.parametrize("corner", [True, False])
def test_run_lengths_are_cocos(corner: bool) -> None:
    api = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(0).random((7, 5)) > 0.5
    mask[0, 0] = corner
    rle = encoded_mask(mask)
    np.testing.assert_array_equal(api.decode(api.frPyObjects(rle, 7, 5)), mask)
