"""``open_dense``: images for detection or segmentation, in whatever they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nextify.data.dense.annotations import DenseImages, DenseSet, DenseTask
from nextify.data.dense.scenes import scenes
from nextify.data.errors import DataError
from nextify.data.images import UniformStore
from nextify.data.kept import Kept


def recognize(source: str | Path) -> DenseTask | None:
    """What a source is annotated for, by its names alone; None for one of classification."""
    if source == "scenes":
        return "detection"
    return None


def open_dense(
    source: str | Path,
    *,
    task: DenseTask | None = None,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    cache: Path | None = None,
    to_train: bool = True,
    skip_unreadable: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> DenseImages:
    """The images of a source with their annotations, checked."""
    if source == "scenes":
        return _scenes(task or "detection")
    raise DataError(f"no such source yet: {source}")


def _scenes(task: DenseTask) -> DenseImages:
    train, test = scenes()
    digits = tuple(str(digit) for digit in range(10))
    classes = digits if task == "detection" else ("background", *digits)
    digest = hashlib.sha256(json.dumps([1, "scenes", task, classes]).encode())
    sets = []
    for part, made in (("train", train), ("test", test)):
        pixels = np.stack([image for image, _, _ in made])
        for image, objects, mask in made:
            digest.update(image.tobytes() + objects.boxes.tobytes() + objects.labels.tobytes() + mask.tobytes())
        sets.append(
            DenseSet(
                task,
                UniformStore(Kept(pixels)),
                np.tile(np.array(pixels.shape[1:3], np.int64), (len(pixels), 1)),
                [f"{part}/{i:03}" for i in range(len(pixels))],
                [objects for _, objects, _ in made] if task == "detection" else None,
                [mask for _, _, mask in made] if task == "segmentation" else None,
            )
        )
    return DenseImages(
        name="scenes",
        task=task,
        classes=classes,
        train=sets[0],
        test=sets[1],
        mirror_keeps_class=False,
        fingerprint=digest.hexdigest(),
        notes=(f"{len(train)} scenes to train and {len(test)} to test on, of other handwritten digits.",),
        test_images_also_in_training=0,
    )
