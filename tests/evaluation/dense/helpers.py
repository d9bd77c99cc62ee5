"""Networks that answer what they are told, and a few images with objects or regions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nextify.data.dense.annotations import DenseImages, DenseSet, DenseTask, Objects, encoded_mask
from nextify.data.dense.placement import canvas_of, placed
from nextify.data.images import UniformStore
from nextify.data.kept import Kept
from nextify.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from nextify.evaluation.finder import Finder
from nextify.networks.dense.design import chosen_head, fitted_head
from nextify.networks.dense.detection import Found
from nextify.networks.zoo import find_design
from nextify.tasks.average_precision import Observation
from nextify.weights.bundle import DenseAbout

NAMES = ("cat", "dog", "owl")


class Told(nn.Module):
    """Gives the answers in order, as many as there are images."""

    def __init__(self, answers: Sequence[Any]) -> None:
        super().__init__()
        self.answers: Iterator[Any] = iter(answers)

    def forward(self, images: Tensor) -> Any:
        found = [next(self.answers) for _ in images]
        return torch.stack(found) if isinstance(found[0], Tensor) else found


def made(task: DenseTask, number: int = 3) -> DenseImages:
    """``number`` images of 32×64, which their canvas is too, each with a bright square per class and one more."""
    rng, pictures, objects, masks = np.random.default_rng(0), [], [], []
    for _ in range(number):
        mask, corners = np.zeros((32, 64), np.uint8), []
        for k, label in enumerate((0, 1, 2, 0)):
            y, x = int(rng.integers(2, 18)), 16 * k + int(rng.integers(0, 4))
            corners.append((x, y, x + 10, y + 12))
            mask[y : y + 12, x : x + 10] = label + 1 if task == "segmentation" else 1 + k
        pictures.append(np.where(mask[..., None] > 0, np.uint8(200), np.uint8(60)).repeat(3, -1))
        shapes = tuple(encoded_mask(mask == 1 + k) for k in range(4))
        boxes = np.array(corners, np.float32)
        areas = np.full(4, 120.0)
        objects.append(Objects(boxes, np.array([0, 1, 2, 0]), np.zeros(4, bool), areas, shapes))
        masks.append(mask)
    store, sizes = UniformStore(Kept(np.stack(pictures))), np.tile(np.array([32, 64]), (number, 1))
    names = [f"{i}.png" for i in range(number)]
    found = objects if task == "detection" else None
    some = DenseSet(task, store, sizes, names, found, masks if task == "segmentation" else None)
    classes = NAMES if task == "detection" else ("ground", *NAMES)
    return DenseImages("made", classes, some, some, True, "0" * 64, (), task)


def perfect(images: DenseImages, masks: bool = False) -> list[Any]:
    """The truth of the test images as a network would find it on its canvas; with ``masks`` it fills its boxes."""
    canvas, answers = canvas_of(images), []
    for i in range(len(images.test)):
        _, placement = placed(images.test.load(i), canvas)
        if images.task == "segmentation":
            mask = torch.from_numpy(placement.mask(images.test.mask(i), canvas, fill=0)).long()
            answers.append(nn.functional.one_hot(mask, images.num_classes).permute(2, 0, 1).float())
            continue
        objects = images.test.objects(i)
        boxes = torch.from_numpy(placement.boxes(objects.boxes))
        scores, shapes = torch.linspace(0.9, 0.5, len(objects)), filled(len(objects)) if masks else None
        answers.append(Found(boxes, scores, torch.from_numpy(objects.labels), shapes))
    return answers


def filled(number: int) -> Tensor:
    """Masks that fill boxes of about ten pixels: torchvision would paste masks of ones a pixel too large."""
    return nn.functional.pad(torch.ones(number, 26, 26), (1, 1, 1, 1), value=0.5)


def finder_of(answers: Sequence[Any], task: DenseTask, classes: tuple[str, ...], canvas: tuple[int, int]) -> Finder:
    design = fitted_head(find_design("convnext_atto"), chosen_head(task, None), canvas)
    return Finder(Told(answers), DenseAbout(design, classes, canvas, IMAGENET_MEAN, IMAGENET_STD), "told")


def finder(images: DenseImages, answers: Sequence[Any], classes: Sequence[str] = ()) -> Finder:
    names = tuple(classes) or images.classes
    return finder_of(answers, images.task, names, canvas_of(images))


def objects(boxes: Any, labels: Any = None, crowd: Any = None) -> Objects:
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    number = len(corners)
    areas = (corners[:, 2:] - corners[:, :2]).prod(1).astype(float)
    names = np.zeros(number, np.int64) if labels is None else np.array(labels, np.int64)
    return Objects(corners, names, np.array([False] * number if crowd is None else crowd, bool), areas, None)


def seen(boxes: Any, scores: Any, labels: Any, truth: Objects, image: int = 0) -> Observation:
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    return Observation(image, 64, 64, corners, np.array(scores, np.float32), np.array(labels, int), None, truth)
