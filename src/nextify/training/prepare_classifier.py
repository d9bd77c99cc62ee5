"""What a request for a classifier needs: recipe, weights to start from, image size, settings that suit the images."""

import re
from collections.abc import Mapping
from pathlib import Path
from unicodedata import normalize

import numpy as np
from torch import Tensor

from nextify.data import Images
from nextify.data.dense.annotations import DenseImages
from nextify.evaluation.seen import known_to_start
from nextify.fitting.scale import scale
from nextify.paper.recipe import Recipe
from nextify.training.prepare_masked import MANY_IMAGES, learned_without_labels
from nextify.training.request import Request, RequestError, named_recipe
from nextify.weights import About, WeightsError, find, is_bundle
from nextify.weights.class_names import in_order, is_word
from nextify.weights.loading import adapt
from nextify.weights.sources import IN_TIMM

FEW_IMAGES = 10_000
"""Training images below which trained weights are recommended, and those pre-trained without labels have a recipe of
their own."""
SMALLEST_IMAGE, LARGEST_IMAGE = 16, 224
"""Limits of the images' side in pixels, where the request names none."""
SIZE_STEP = 32
"""Images of mixed sizes are resized to the multiple of this many pixels nearest to their median short side."""
OF_COLOURS = ("rand_augment", "color_jitter", "light")
"""Augmentations of a recipe that know the colours of pixels from 0 to 1 only."""


def classifier_recipe(request: Request, images: Images, about: About | None, notes: list[str]) -> tuple[str, Recipe]:
    """The request's recipe and its name, or the one for so many images and such weights."""
    small = len(images.train) < MANY_IMAGES
    if about is not None and learned_without_labels(about) and len(images.train) < FEW_IMAGES:
        usual = "few_labels"
    elif request.weights is not None:
        usual = "finetune_small" if small else "convnext_finetune_in22k"
    else:
        usual = "scratch_small" if small else "convnext_in1k"
    return named_recipe(request, usual, len(images.train), notes)


def classifier_start(
    request: Request, images: Images, notes: list[str]
) -> tuple[About | None, Mapping[str, Tensor] | None]:
    """What the weights to start from say, and their tensors: with their classifier where it is for the same classes."""
    if request.weights is None:
        return None, None
    own = Path(request.weights).exists() and is_bundle(request.weights)
    order = is_word(request.class_order)
    found = find(request.weights, None if own else request.model, None if order else request.class_order)
    about = found.bundle.about
    about.check_single("a training")
    if own and about.name and about.name != request.model:
        raise WeightsError(f"{request.weights} holds {about.name}, not {request.model}: name {about.name}")
    notes.append(f"starts from {request.weights}, licence {about.licence}")
    notes += found.notes
    if not learned_without_labels(about):
        notes += known_to_start(request.weights, [images.test])
    state = dict(found.bundle.state)
    if isinstance(images.bands, int):
        state = adapt(state, None, images.channels, notes)
    elif about.in_channels != 3:
        raise WeightsError(f"{request.weights} takes {about.in_channels} channels, but training uses 3")
    classes = about.classes
    if order is not None:
        if classes or about.num_classes != images.num_classes:
            have = "names its classes" if classes else f"has {about.num_classes} classes, not {images.num_classes}"
            raise RequestError(f"{request.weights} {have}: leave --class-order {order} out")
        classes = in_order(images.classes, order)
    theirs, ours = ([normalize("NFC", name) for name in names] for names in (classes, images.classes))
    alike = bool(about.thresholds) is images.multilabel  # an output of softmax says nothing by itself
    if alike and sorted(theirs) == sorted(ours) and len(set(theirs)) == len(theirs):
        rows = [theirs.index(name) for name in ours]
        for name in ("head.classifier.weight", "head.classifier.bias"):
            state[name] = state[name][rows]
        moved = "" if theirs == ours else ", with its outputs reordered to match the data"
        notes.append(f"the classes match those of the weights, so their classifier is kept{moved}")
    else:
        if not classes and about.num_classes == images.num_classes:
            notes.append("the weights do not name their classes; --class-order would keep their classifier")
        state = {name: tensor for name, tensor in state.items() if not name.startswith("head.classifier.")}
        theirs_have = (
            str(about.num_classes) if alike else "one class per image" if images.multilabel else "several labels"
        )
        notes.append(f"the classifier is new: {images.num_classes} classes, while the weights have {theirs_have}")
    return about, state


def advise_weights(request: Request, images: Images | DenseImages, notes: list[str]) -> None:
    """Note that trained weights usually do better, where few images would train a network that timm has weights of."""
    fresh, in_timm = request.weights is None and request.scale == "full", re.fullmatch(IN_TIMM, request.model)
    if fresh and in_timm and len(images.train) < FEW_IMAGES:
        notes.append(
            f"{len(images.train):,} images are few to train from scratch: trained weights usually do better, by "
            f"adding --weights timm:{request.model}"
        )


def image_size_for(request: Request, images: Images, about: About | None, notes: list[str]) -> int:
    """Side of square images in pixels: the weights', the scale's, or one near the images' own."""
    if about is not None:
        return min(about.preprocessing.size)
    native, sides = images.native_side, images.train.short_sides
    if native is None and sides is not None:
        middle = int(np.median(sides))
        native = max(1, round(middle / SIZE_STEP)) * SIZE_STEP
        if native < LARGEST_IMAGE:
            notes.append(f"images of {native} pixels, as the median short side is {middle}")
    if request.scale != "full":
        return scale(request.scale).image_size(native)
    return default_side(native)


def default_side(native: int | None) -> int:
    """Side of square images in pixels for images whose shorter side is ``native``, None for any."""
    return LARGEST_IMAGE if native is None else min(max(native, SMALLEST_IMAGE), LARGEST_IMAGE)


def check_for(images: Images, asked: Mapping[str, object]) -> None:
    """Raises ``RequestError`` for a setting that does not go with these images."""
    if images.multilabel and asked.get("class_balance") == "sampling":
        raise RequestError(
            "class_balance=sampling needs one class per image, but these have several labels: choose "
            "class_balance=loss, or leave it out"
        )
    if isinstance(images.bands, int):
        for name in OF_COLOURS:
            if any(field.partition(".")[0] == name and value != "off" for field, value in asked.items()):
                raise RequestError(f"{name} is for colours, but the images have {images.bands} channels: leave it out")
