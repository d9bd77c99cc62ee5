"""What a request for a detector or segmenter needs beyond a classifier's: recipe, head, canvas, weights, preflight."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from torch import Tensor

from nextify.data.dense.annotations import DenseImages
from nextify.data.dense.placement import MULTIPLE, canvas_of
from nextify.data.errors import DataError
from nextify.data.preflight import check_numbers
from nextify.evaluation.seen import known_to_start
from nextify.networks.dense.design import DenseDesign, Head, chosen_head, fitted_head
from nextify.paper.design import Design, DesignError
from nextify.paper.recipe import DENSE_RECIPES, Recipe
from nextify.system.text import plural
from nextify.training.prepare_masked import learned_without_labels
from nextify.training.request import Request, RequestError, named_recipe
from nextify.weights import About, Preprocessing, WeightsError, find
from nextify.weights.bundle import DenseAbout, load_dense, stated

MANY_IMAGES = 20_000
"""Training images from which on the paper's recipe is chosen rather than the one for small sets."""
FEW_TEST = 50
"""Test images below which a metric is a rough guess."""
OF_CLASSIFIERS = {"label_smoothing": 0.0, "test_mirror": "off", "test_crop_ratio": 1.0, "head_init_scale": 1.0}
"""Settings of a recipe that have no meaning for boxes and masks, at what they have none anywhere."""
PAPERS_HEADS: dict[str, Head] = {"detection": "mask_rcnn", "segmentation": "upernet"}


@dataclass(frozen=True)
class DensePreflight:
    """Facts about the images, and what a training on them would meet; notes and warnings are one sentence each."""

    data: str
    fingerprint: str
    task: str
    train_images: int
    test_images: int
    classes: int
    middle_size: tuple[int, int]
    """Medians of height and width, pixels."""
    objects: int | None
    """Of the training images; None for segmentation."""
    middle_object: float | None
    """Median root of the area of an object's box, pixels."""
    left_out: Mapping[str, list[str]]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        height, width = self.middle_size
        lines = [
            f"{self.task}: {plural(self.train_images, 'image')} to train on and {self.test_images:,} to test on, "
            f"median size {width}×{height} pixels",
            plural(self.classes, "class", "classes"),
        ]
        if self.objects:
            lines[1] += f", {plural(self.objects, 'object')} to train on, median size {self.middle_object:.0f} pixels"
        return lines

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def dense_preflight(images: DenseImages, recipe: Recipe) -> DensePreflight:
    """Check images against the recipe they will be trained with. Raises ``DataError`` where an epoch would have no
    step, or there are no test images."""
    check_numbers(images, recipe)
    warnings = list(images.warnings)
    if len(images.test) < FEW_TEST:
        warnings.append(
            f"{plural(len(images.test), 'test image')} can only measure roughly: differences of a few points are noise"
        )
    objects = middle = None
    if images.task == "detection":
        every = map(images.train.objects, range(len(images.train)))
        boxes = np.concatenate([one.boxes[~one.crowd] for one in every])
        objects = len(boxes)
        if not objects:
            raise DataError("the training images have no objects: nothing can be learned from them")
        middle = float(np.median(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))))
    return DensePreflight(
        *(images.name, images.fingerprint, images.task, len(images.train), len(images.test), images.num_classes),
        *(images.middle_size, objects, middle),
        left_out={reason: list(names) for reason, names in images.left_out.items()},
        notes=images.notes,
        warnings=tuple(warnings),
    )


def check_dense_settings(asked: Mapping[str, object]) -> None:
    """Raises ``RequestError`` for a setting of classifiers that a detector or segmenter would ignore."""
    for name, without in OF_CLASSIFIERS.items():
        if asked.get(name, without) != without:
            raise RequestError(f"{name} is for classification, not for boxes and masks: leave it out")


def dense_recipe(request: Request, images: DenseImages, notes: list[str]) -> tuple[str, Recipe]:
    """The request's recipe, or the one for so many images."""
    fresh, trained, papers = DENSE_RECIPES[images.task]
    usual = papers if len(images.train) >= MANY_IMAGES else fresh if request.weights is None else trained
    return named_recipe(request, usual, len(images.train), notes)


def dense_start(
    request: Request, images: DenseImages, notes: list[str]
) -> tuple[About | None, Mapping[str, Tensor] | None]:
    """The weights to start from, by the names of a dense network, and what they are.

    Of a classifier, and of mmdetection's and mmsegmentation's checkpoints, that is the backbone; of a detector or
    segmenter of ours the head too, where it is for the same classes.
    """
    if request.weights is None:
        return None, None
    if request.class_order is not None:
        raise RequestError("--class-order is for classifiers: leave it out")
    known = stated(request.weights)
    if not (isinstance(known, About) and learned_without_labels(known)):
        notes += known_to_start(request.weights, [images.test])
    if isinstance(known, DenseAbout):
        bundle = load_dense(request.weights)
        backbone = known.design.backbone
        if not isinstance(backbone, Design) or (known.name and known.name != request.model):
            raise WeightsError(f"{request.weights} holds {known.name or 'another network'}, not {request.model}")
        head = dense_design(request, images, backbone, canvas_of(images, request.image_size))
        if known.classes != images.classes:
            kept = "new, for other classes"
        elif known.design != head:
            kept = f"new; --head {known.design.head} --image-size {max(known.canvas)} would keep it"
        else:
            kept = "kept"
        state = {n: t for n, t in bundle.state.items() if kept == "kept" or n.startswith("backbone.")}
        notes.append(f"starts from {request.weights}, licence {known.licence}; the head is {kept}")
        preprocessing = Preprocessing(mean=known.mean, std=known.std)
        about = About(backbone, 0, name=known.name, preprocessing=preprocessing, licence=known.licence)
        return about, state
    found = find(request.weights, request.model if known is None else None)
    about = found.bundle.about
    about.check_single("a training")
    if about.name and about.name != request.model:
        raise WeightsError(f"{request.weights} holds {about.name}, not {request.model}: name {about.name}")
    if about.in_channels != 3:
        raise WeightsError(f"{request.weights} takes {about.in_channels} channels, but training uses 3")
    state = {f"backbone.{n}": t for n, t in found.bundle.state.items() if not n.startswith("head.")}
    state |= {f"backbone.{n}": t for n, t in found.output_norms.items()}
    notes.append(f"the backbone starts from {request.weights}, licence {about.licence}; the head is new")
    notes += found.notes
    return about, state


def _head(request: Request, images: DenseImages) -> Head:
    """The request's head, the paper's for its recipes, or a light one."""
    if request.head is None and request.recipe == DENSE_RECIPES[images.task][-1]:
        head = PAPERS_HEADS[images.task]
        return "faster_rcnn" if head == "mask_rcnn" and not images.has_masks else head
    return checked_head(request.head, images)


def checked_head(named: str | None, images: DenseImages) -> Head:
    """The head of this name, or the light one of the task. Raises ``RequestError`` for an unknown name, and for a head
    for another task or for masks that there are not."""
    try:
        head = chosen_head(images.task, named)
    except DesignError as error:
        raise RequestError(str(error)) from None
    if head == "mask_rcnn" and not images.has_masks:
        raise RequestError(f"--head mask_rcnn learns instance masks, but {images.name} has none: choose faster_rcnn")
    return head


def checked_canvas(images: DenseImages, image_size: int | None) -> tuple[int, int]:
    """Height and width of the network's input. Raises ``RequestError`` for a size that is no multiple of 32."""
    if image_size is not None and image_size % MULTIPLE:
        raise RequestError(f"--image-size must be a multiple of {MULTIPLE} for {images.task}, got {image_size}")
    return canvas_of(images, image_size)


def dense_design(request: Request, images: DenseImages, backbone: Design, canvas: tuple[int, int]) -> DenseDesign:
    """The detector or segmenter with a head that suits the canvas."""
    return fitted_head(backbone, _head(request, images), canvas)
