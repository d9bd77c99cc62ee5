"""What a trial learns from: its task, and its batches. The one file that knows which tasks there are."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nextify.data import DataError, Images, ImageSet, TestBatches, TrainBatches
from nextify.data.dense.annotations import DenseImages, DenseSet
from nextify.data.dense.batches import DenseTestBatches, DenseTrainBatches
from nextify.data.share import Share
from nextify.networks.dense.design import DenseDesign
from nextify.networks.dense.network import DenseNetwork
from nextify.networks.dense.segmentation import SegmentationHead
from nextify.networks.foreign import Foreign
from nextify.networks.masked.design import MaskedDesign
from nextify.tasks.classification import Classification, class_weights
from nextify.tasks.detection import Detection
from nextify.tasks.masked import MaskedImages
from nextify.tasks.metric_specs import BOXES, MASKS, MetricSpec
from nextify.tasks.multilabel import MultiLabel, positive_weights
from nextify.tasks.segmentation import Segmentation, pixel_weights
from nextify.tasks.task import Task
from nextify.training.trial import Runtime, Trial

AnyImages = Images | DenseImages
AnySet = ImageSet | DenseSet
TEST_BATCH, DENSE_TEST_BATCH = 256, 8


class TrainingBatches(Protocol):
    """Batches as a function of the step."""

    steps_per_epoch: int
    held_out: npt.NDArray[np.int64]

    def indices(self, step: int) -> npt.NDArray[np.int64]: ...
    def batch(self, step: int) -> tuple[Tensor, Any]: ...
    def iterate(self, start_step: int, end_step: int) -> Iterator[tuple[Tensor, Any]]: ...


class TestingBatches(Protocol):
    """The test images, each once."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[tuple[Tensor, Any]]: ...


def metric_specs(trial: Trial) -> Sequence[MetricSpec]:
    """The metrics of the trial's task, the main one first."""
    if isinstance(trial.design, MaskedDesign):
        return MaskedImages.metric_specs
    if not isinstance(trial.design, DenseDesign):
        return MultiLabel.metric_specs if trial.data.task == "multilabel" else Classification.metric_specs
    if trial.design.task == "segmentation":
        return Segmentation.metric_specs
    return (*BOXES, *MASKS) if _has_masks(trial) else BOXES


def _has_masks(trial: Trial) -> bool:
    return isinstance(trial.design, DenseDesign) and trial.design.head == "mask_rcnn"


def task_of(trial: Trial, images: AnyImages, device: torch.device) -> Task[Any]:
    """The trial's task. Raises ``DataError`` for several labels per image and a network that learns one class each."""
    data, bf16 = trial.data, trial.recipe.precision == "bf16"
    if isinstance(trial.design, MaskedDesign):
        return MaskedImages(trial.design, data.image_size, data.mean, data.std, trial.seed, device, bf16)
    if isinstance(images, Images) and images.multilabel:
        if isinstance(trial.design, Foreign):
            raise DataError(
                f"{images.name} has several labels per image (multi-label), but {trial.design.name} of timm learns one "
                f"class each: train a network of nextify models, or give one class per image"
            )
        positive = None
        if trial.recipe.class_balance == "loss":
            positive = positive_weights(images.train.labels).to(device)
        return MultiLabel(trial.recipe, data.num_classes, data.mean, data.std, trial.seed, device, positive)
    if isinstance(images, Images):
        weights = None
        if trial.recipe.class_balance == "loss":
            weights = class_weights(images.train.labels, data.num_classes).to(device)
        return Classification(trial.recipe, data.num_classes, data.mean, data.std, trial.seed, device, weights)
    if images.task == "segmentation":
        return Segmentation(data.num_classes, data.mean, data.std, device, bf16)
    return Detection(images.classes, data.mean, data.std, device, images.test, _has_masks(trial), bf16)


def balance(model: nn.Module, trial: Trial, images: AnyImages) -> None:
    """Have a segmenter weight the pixels of its classes, where the recipe asks for it."""
    head = model.head if isinstance(model, DenseNetwork) else None
    if isinstance(head, SegmentationHead) and isinstance(images, DenseImages) and trial.recipe.class_balance == "loss":
        head.pixel_weights = pixel_weights(images.train.pixels[: trial.data.num_classes])


def train_batches(trial: Trial, images: AnyImages, runtime: Runtime, share: Share | None) -> TrainingBatches:
    """The trial's training batches; of several processes, each has its ``share`` of every one."""
    common: dict[str, Any] = {"workers": runtime.workers, "share": share}
    if isinstance(images, Images):
        return TrainBatches(images.train, trial.recipe, trial.data.image_size, trial.seed, **common)
    canvas = cast("tuple[int, int]", trial.data.canvas)
    return DenseTrainBatches(images.train, trial.recipe, canvas, trial.seed, masks=_has_masks(trial), **common)


def batches_to_test(trial: Trial, images: AnySet, rank: int = 0, count: int = 1) -> TestingBatches:
    """Batches of images to measure on; of ``count`` processes, each takes every ``count``-th."""
    if isinstance(images, ImageSet):
        return TestBatches(images, trial.recipe, trial.data.image_size, TEST_BATCH, rank, count)
    canvas = cast("tuple[int, int]", trial.data.canvas)
    return DenseTestBatches(images, canvas, DENSE_TEST_BATCH, rank, count)
