"""From a request to a training that is ready to run: design and recipe are fitted to the images, the user's settings
applied on top, and every decision made for the user explained in a sentence."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from unicodedata import normalize

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from nextify.data import DataError, Images
from nextify.data.batches import divided
from nextify.data.dense.annotations import DenseImages
from nextify.data.dense.placement import canvas_of
from nextify.data.images import measured
from nextify.data.preflight import Preflight, preflight
from nextify.fitting.fit import Change, calibration_share, fit, for_optimizer, without_average
from nextify.fitting.scale import scale
from nextify.networks.dense.design import DenseDesign
from nextify.networks.layout import cost
from nextify.networks.masked.design import MaskedDesign, fitted_masks
from nextify.networks.masked.network import MaskedAutoencoder
from nextify.networks.zoo import find_design
from nextify.paper.design import Design
from nextify.paper.recipe import Recipe
from nextify.system.text import plural
from nextify.tasks.metric_specs import MASKED_ERROR
from nextify.training.learned import AnyImages
from nextify.training.prepare_dense import (
    DensePreflight,
    checked_canvas,
    dense_design,
    dense_preflight,
    dense_recipe,
    dense_start,
)
from nextify.training.prepare_masked import MANY_IMAGES, check_masked_recipe, masked_recipe, masked_start
from nextify.training.request import DESIGN_FIELDS, Request, RequestError, check, named_recipe, split
from nextify.training.trial import FROM_SCRATCH, Data, Trial
from nextify.weights import About, WeightsError, find, is_bundle
from nextify.weights.autoencoder import check_fits
from nextify.weights.class_names import in_order, is_word
from nextify.weights.loading import adapt
from nextify.weights.sources import IN_TIMM

FEW_IMAGES = 10_000
"""Training images below which trained weights are recommended, and those pre-trained without labels have a recipe of
their own."""
SMALLEST_IMAGE, LARGEST_IMAGE = 16, 224
"""Limits of the images' side in pixels, where the request names none."""
OF_COLOURS = ("rand_augment", "color_jitter", "light")
"""Augmentations of a recipe that know the colours of pixels from 0 to 1 only."""
SIZE_STEP = 32
"""Images of mixed sizes are resized to the multiple of this many pixels nearest to their median short side."""


UNCALIBRATED = (
    "confidences are not calibrated, as there are too few images to hold some out; --set calibration=0.1 holds out a "
    "tenth all the same"
)


UNCALIBRATED_GROUPS = (
    "confidences are not calibrated, as the groups are too large to hold one out; --set calibration=0.1 holds "
    "one out all the same"
)


@dataclass(frozen=True)
class Preparation:
    """A request's data and starting weights, read once; ``fitted_to`` turns them into a training."""

    request: Request
    images: AnyImages
    recipe_name: str
    recipe: Recipe
    about: About | None
    start: Mapping[str, Tensor] | None
    start_digest: str
    image_size: int
    """Side of the images, or the longer one of the canvas."""
    canvas: tuple[int, int] | None
    """Height and width of the input of a detector or segmenter."""
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None
    """Mean and standard deviation of each channel; None for ImageNet's."""
    notes: tuple[str, ...]
    """One sentence for each decision made for the user."""

    @classmethod
    def of(cls, request: Request, images: AnyImages) -> Preparation:
        """Check the request and read the weights it starts from; raises as ``prepare`` does."""
        check(request)
        notes: list[str] = []
        if isinstance(images, DenseImages):
            if request.mask_ratio is not None:
                raise RequestError(
                    f"{images.name} is annotated with boxes or masks, which pre-training does not read: give its "
                    f"folder of images"
                )
            recipe_name, recipe = dense_recipe(request, images, notes)
            about, start = dense_start(request, images, notes)
        elif request.mask_ratio is not None:
            recipe_name, recipe = masked_recipe(request, images, notes)
            about, start = masked_start(request, notes)
        else:
            if request.head is not None:
                raise RequestError(f"--head is for boxes and masks, but {images.name} has labels: leave it out")
            about, start = _start(request, images, notes)
            recipe_name, recipe = _recipe(request, images, about, notes)
        if request.mask_ratio is None:
            _advise_weights(request, images, notes)
        if about is not None:
            if request.scale != "full" or split(request.settings)[1]:
                raise RequestError("--weights brings its own design: leave out --scale and --set of design fields")
            colours = isinstance(images, DenseImages) or not isinstance(images.bands, int)
            if colours and (len(about.preprocessing.mean) != 3 or len(about.preprocessing.std) != 3):
                raise RequestError("the weights take grayscale images, but training uses RGB: choose other weights")
        elif request.frozen_stages:
            raise RequestError(
                "--freeze keeps stages as they are, which is useless with random weights: give --weights too"
            )
        canvas = None
        if isinstance(images, DenseImages):
            canvas = checked_canvas(images, request.image_size)
            size = max(canvas)
        else:
            size = request.image_size or _image_size(request, images, about, notes)
        start_digest = FROM_SCRATCH if start is None else digest(start)
        known = None if about is None else (about.preprocessing.mean, about.preprocessing.std)
        bands = None if isinstance(images, DenseImages) else images.bands
        measures = about is None or about.preprocessing.bands != bands
        if isinstance(images, Images) and isinstance(bands, int) and measures:
            known = measured(images.train)
            notes.append(f"{plural(bands, 'channel')}: mean and std are measured on the training images")
        return cls(request, images, recipe_name, recipe, about, start, start_digest, size, canvas, known, tuple(notes))

    @property
    def fixed_size(self) -> bool:
        """Whether the image size is given, if only by the weights or the scale."""
        request = self.request
        given = request.image_size is not None or self.about is not None or request.mask_ratio is not None
        return given or request.scale != "full"

    @property
    def fixed_precision(self) -> bool:
        """Whether the precision is given, if only by the recipe that was asked for."""
        return self.request.recipe is not None or "precision" in self.request.above

    def planned(self, image_size: int | None = None, precision: str | None = None) -> Preparation:
        """The same with smaller images or another precision, so that more epochs fit a given time."""
        found = self
        if image_size not in (None, self.image_size):
            note = (
                f"images of {image_size} pixels, not {self.image_size}, so that more epochs fit; --image-size "
                f"{self.image_size} keeps their size"
            )
            canvas = canvas_of(self.images, image_size) if isinstance(self.images, DenseImages) else None
            found = replace(found, image_size=image_size, canvas=canvas, notes=(*found.notes, note))
        if precision not in (None, self.recipe.precision):
            note = (
                f"{precision}, which was measured to be faster here; --precision {self.recipe.precision} does without"
            )
            recipe = self.recipe.with_(precision=precision)
            found = replace(found, recipe=recipe, notes=(*found.notes, note))
        return found

    def fitted_to(self, epochs: int | None = None) -> Prepared:
        """The training, with ``epochs`` unless the request names its own."""
        request, images, size, canvas = self.request, self.images, self.image_size, self.canvas
        side = size if canvas is None else min(canvas)
        recipe_settings, design_settings = split(request.settings)
        chosen_scale = scale(request.scale)
        if isinstance(images, Images):
            check_for(images, recipe_settings)
        design = chosen_scale.shrink(find_design(request.model)) if self.about is None else self.about.design
        if not 0 <= request.frozen_stages <= len(design.depths):
            raise RequestError(f"--freeze must be between 0 and {len(design.depths)}, the stages of this design")
        granted = recipe_settings.get("epochs", request.epochs if request.epochs is not None else epochs)
        if granted is None and request.scale != "full":
            granted = chosen_scale.epochs
        fitted = fit(
            *(design, self.recipe, images),
            image_size=side,
            epochs=granted,
            batch_size=recipe_settings.get("batch_size"),
            restores=request.mask_ratio is not None,
        )
        changes = [change for change in fitted.changes if change.before != change.after]
        if self.about is None:
            design = fitted.design.with_(**design_settings) if design_settings else fitted.design
        else:  # trained weights have the design they have
            changes = [change for change in changes if change.field not in DESIGN_FIELDS]
        above = dict(recipe_settings)
        if request.precision is not None:
            above["precision"] = request.precision
        chosen = {name: value for name, value in above.items() if name.partition(".")[0] == "optimizer"}
        usual, of_optimizer = for_optimizer(fitted.recipe, fitted.recipe.with_(**chosen).optimizer)
        changes += of_optimizer
        rate = above.get("learning_rate")
        if rate is not None and "min_learning_rate" not in above and rate < usual.min_learning_rate:
            above["min_learning_rate"] = 0.0  # the cosine must not end above where it starts
        final = usual.with_(**above)
        changes = [c for c in changes if c.after == (design if c.field in DESIGN_FIELDS else final).get(c.field)]
        if design.norm == "batch" and final.ema != "off" and "ema" not in above:
            final, change = without_average(final)
            changes = [*(c for c in changes if c.field != "ema"), change]
        notes = self.notes
        asked = final.calibration != "off" or "calibration" in above
        if isinstance(images, Images) and request.mask_ratio is None and not asked:
            share = calibration_share(images, final.batch_size)
            held_out = 0 if share is None else _held_out(images, final.with_(calibration=share))
            if share is None:
                notes += (UNCALIBRATED,)
            elif not held_out:
                notes += (UNCALIBRATED_GROUPS,)
            else:
                final = final.with_(calibration=share)
                groups = "" if images.train.groups is None else ", in whole groups"
                fitted_on = "thresholds" if images.multilabel else "confidences"
                reason = (
                    f"{held_out:,} training images are held out{groups}, and {fitted_on} fitted on them; "
                    f"--set calibration=off trains on all"
                )
                changes.append(Change("calibration", "off", share, reason))
        if (
            isinstance(images, Images)
            and images.multilabel
            and request.mask_ratio is None
            and final.calibration == "off"
        ):
            notes += ("labels with a probability of at least 0.5 are predicted; --set calibration=0.1 fits thresholds",)
        if not isinstance(images, DenseImages) and isinstance(images.bands, int):
            final, changes = _without_colours(final, changes, images.bands)
        channels = 3 if isinstance(images, DenseImages) else images.channels
        cost(design, side, images.num_classes, channels)  # raises where the images are too small for the strides
        batch_norm = design.norm == "batch"
        trained: Design | DenseDesign | MaskedDesign = design
        report: Preflight | DensePreflight
        if isinstance(images, DenseImages):
            assert canvas is not None
            report = dense_preflight(images, final)
            trained = dense_design(request, images, design, canvas)
            shape = f"{canvas[1]}×{canvas[0]} pixels"
            notes += (f"head {trained.head}, on a canvas of {shape}; --head and --image-size change these",)
        else:
            if request.mask_ratio is not None:
                check_masked_recipe(final)
                trained, of_masks = fitted_masks(design, size, request.mask_ratio)
                notes += of_masks
                if self.start is not None and request.weights is not None and "mask_token" in self.start:
                    with torch.device("meta"):
                        check_fits(self.start, MaskedAutoencoder(trained), request.weights)
            report = preflight(
                *(images, final),
                fitted=usual,
                uses_batch_norm=batch_norm,
                image_size=size,
                labelled=request.mask_ratio is None,
            )
        trial = Trial(
            trained,
            final,
            self._data(),
            request.seed,
            self.start_digest,
            request.frozen_stages,
            (request.accumulation or 1) if batch_norm or canvas is not None else 1,
        )
        own = {**vars(self), "notes": notes}
        return Prepared(**own, trial=trial, preflight=report, changes=tuple(changes))

    def _data(self) -> Data:
        images = self.images
        data = Data(images.name, images.fingerprint, images.num_classes, self.image_size)
        if isinstance(images, DenseImages):
            data = replace(data, task=images.task, canvas=self.canvas)
        if self.request.mask_ratio is not None:
            data = replace(data, task="masked")
        elif isinstance(images, Images) and images.multilabel:
            data = replace(data, task="multilabel")
        if self.normalization is None:
            return data
        mean, std = self.normalization
        return replace(data, mean=mean, std=std)


@dataclass(frozen=True)
class Prepared(Preparation):
    """A training that is ready to run; its recipe is the trial's, ``recipe`` the one that was fitted."""

    trial: Trial
    preflight: Preflight | DensePreflight
    changes: tuple[Change, ...]

    @property
    def licence(self) -> str:
        """Of the weights it starts from; ``yours`` for fresh ones."""
        return "yours" if self.about is None else self.about.licence

    @property
    def steps_per_epoch(self) -> int:
        recipe = self.trial.recipe
        if isinstance(self.images, DenseImages):
            return len(self.images.train) // recipe.batch_size
        return len(divided(self.images.train, recipe)[0]) // recipe.batch_size

    @property
    def uses_batch_norm(self) -> bool:
        design = self.trial.design.encoder if isinstance(self.trial.design, MaskedDesign) else self.trial.design
        return isinstance(design, Design) and design.norm == "batch"

    @property
    def parts_matter(self) -> bool:
        """Whether the parts of a batch change the result: they are then never chosen for the user."""
        return self.uses_batch_norm or isinstance(self.trial.design, DenseDesign)


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


def _without_colours(recipe: Recipe, changes: list[Change], channels: int) -> tuple[Recipe, list[Change]]:
    """The recipe without the augmentations that know colours only."""
    for name in OF_COLOURS:
        before = recipe.get(name)
        if before == "off":
            continue
        recipe = recipe.with_(**{name: "off"})
        reason = f"it changes colours, and the images have {plural(channels, 'channel')}"
        changes = [*(c for c in changes if c.field != name), Change(name, before, "off", reason)]
    return recipe, changes


def prepare(request: Request, images: AnyImages, epochs: int | None = None) -> Prepared:
    """The training of a request, fitted to the images.

    Args:
        epochs: for a request that names none; None takes the scale's or the recipe's.

    Raises:
        RequestError: the options contradict each other or name nothing known.
        DataError, FitError: no training can work on the images.
        WeightsError: the weights to start from cannot be read, or are of another design.
    """
    return Preparation.of(request, images).fitted_to(epochs)


def resolved(prepared: Prepared) -> dict[str, object]:
    """Design and recipe as trained, and how they were arrived at, as plain data."""
    return {
        "model": prepared.request.model,
        "recipe_name": prepared.recipe_name,
        "request": prepared.request.to_dict(),
        "changes": [change.to_dict() for change in prepared.changes],
        "notes": list(prepared.notes),
        **prepared.trial.to_dict(),
    }


def _recipe(request: Request, images: Images, about: About | None, notes: list[str]) -> tuple[str, Recipe]:
    small = len(images.train) < MANY_IMAGES
    masked = about is not None and any(metric.name == MASKED_ERROR.key for metric in about.metrics)
    if masked and len(images.train) < FEW_IMAGES:
        usual = "few_labels"
    elif request.weights is not None:
        usual = "finetune_small" if small else "convnext_finetune_in22k"
    else:
        usual = "scratch_small" if small else "convnext_in1k"
    return named_recipe(request, usual, len(images.train), notes)


def _advise_weights(request: Request, images: Images | DenseImages, notes: list[str]) -> None:
    """Note that trained weights usually do better, where few images would train a network that timm has weights of."""
    fresh, in_timm = request.weights is None and request.scale == "full", re.fullmatch(IN_TIMM, request.model)
    if fresh and in_timm and len(images.train) < FEW_IMAGES:
        notes.append(
            f"{len(images.train):,} images are few to train from scratch: trained weights usually do better, by "
            f"adding --weights timm:{request.model}"
        )


def _held_out(images: Images, recipe: Recipe) -> int:
    """Images to calibrate on; 0 where whole groups would be too many of them, or no group can be spared."""
    try:
        trained, held_out = divided(images.train, recipe)
    except DataError:
        return 0
    few = 10 * len(held_out) <= len(images.train) and len(trained) >= recipe.batch_size
    return len(held_out) if few else 0


def _start(request: Request, images: Images, notes: list[str]) -> tuple[About | None, Mapping[str, Tensor] | None]:
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


def digest(state: Mapping[str, Tensor]) -> str:
    """What a trial calls weights that it starts from."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(state.items())}
    return hashlib.sha256(save(tensors)).hexdigest()[:16]


def _image_size(request: Request, images: Images, about: About | None, notes: list[str]) -> int:
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
