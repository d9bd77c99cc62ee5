"""From a request to a training that is ready to run: design and recipe are fitted to the images, the user's settings
applied on top, and every decision made for the user explained in a sentence."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from safetensors.torch import save
from torch import Tensor

from nextify.data import Images
from nextify.data.batches import divided
from nextify.data.dense.annotations import DenseImages
from nextify.data.dense.placement import canvas_of
from nextify.data.images import measured
from nextify.data.preflight import Preflight, preflight
from nextify.fitting.fit import Change, Fitted, fit
from nextify.fitting.scale import scale
from nextify.networks.dense.design import DenseDesign
from nextify.networks.layout import cost
from nextify.networks.masked.design import MaskedDesign, fitted_masks
from nextify.networks.masked.network import MaskedAutoencoder
from nextify.networks.zoo import find_design
from nextify.paper.design import Design
from nextify.paper.recipe import Recipe
from nextify.system.text import plural
from nextify.training.learned import AnyImages
from nextify.training.prepare_classifier import (
    advise_weights,
    check_for,
    classifier_recipe,
    classifier_start,
    image_size_for,
)
from nextify.training.prepare_dense import (
    DensePreflight,
    check_dense_settings,
    checked_canvas,
    dense_design,
    dense_preflight,
    dense_recipe,
    dense_start,
)
from nextify.training.prepare_masked import check_masked_recipe, masked_recipe, masked_start
from nextify.training.request import DESIGN_FIELDS, Request, RequestError, Values, check, split
from nextify.training.trained_recipe import (
    THRESHOLDS_OF_HALF,
    HeldOut,
    for_chosen_optimizer,
    held_out,
    with_settings,
    without_colours,
)
from nextify.training.trial import FROM_SCRATCH, Data, Trial
from nextify.weights import About
from nextify.weights.autoencoder import check_fits


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
            about, start = classifier_start(request, images, notes)
            recipe_name, recipe = classifier_recipe(request, images, about, notes)
        if request.mask_ratio is None:
            advise_weights(request, images, notes)
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
            size = request.image_size or image_size_for(request, images, about, notes)
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
        request, images = self.request, self.images
        recipe_settings, design_settings = split(request.settings)
        notes = list(self.notes)
        held = HeldOut()
        if isinstance(images, DenseImages):
            check_dense_settings(recipe_settings)
        else:
            check_for(images, recipe_settings)
            if request.mask_ratio is None:
                held = held_out(images, self.recipe, recipe_settings, notes)
        fitted = self._fitted(recipe_settings, epochs, held.count)
        design = fitted.design if self.about is None else self.about.design
        changes = [change for change in fitted.changes if change.before != change.after]
        if self.about is not None:  # trained weights have the design they have
            changes = [change for change in changes if change.field not in DESIGN_FIELDS]
        elif design_settings:
            design = design.with_(**design_settings)
        settings = recipe_settings | ({} if request.precision is None else {"precision": request.precision})
        usual, of_optimizer = for_chosen_optimizer(fitted.recipe, settings)
        recipe, changes = with_settings(usual, settings, design, [*changes, *of_optimizer])
        if held.change is not None:
            recipe, changes = recipe.with_(calibration=held.change.after), [*changes, held.change]
        if isinstance(images, Images):
            if request.mask_ratio is None and images.multilabel and recipe.calibration == "off":
                notes.append(THRESHOLDS_OF_HALF)
            if isinstance(images.bands, int):
                recipe, changes = without_colours(recipe, changes, images.bands)
        channels = 3 if isinstance(images, DenseImages) else images.channels
        cost(design, self._side, images.num_classes, channels)  # raises where images are too small for the strides
        trained = self._trained(design, recipe, notes)
        batch_norm = design.norm == "batch"
        parts_matter = batch_norm or isinstance(trained, DenseDesign)
        trial = Trial(
            *(trained, recipe, self._data(), request.seed, self.start_digest, request.frozen_stages),
            (request.accumulation or 1) if parts_matter else 1,
        )
        report: Preflight | DensePreflight
        if isinstance(images, DenseImages):
            report = dense_preflight(images, recipe)
        else:
            report = preflight(
                *(images, recipe),
                fitted=usual,
                held_out=held.count,
                uses_batch_norm=batch_norm,
                image_size=self.image_size,
                labelled=request.mask_ratio is None,
            )
        own = {**vars(self), "notes": tuple(notes)}
        return Prepared(**own, trial=trial, preflight=report, changes=tuple(changes))

    @property
    def _side(self) -> int:
        """The shorter side of the network's input in pixels."""
        return self.image_size if self.canvas is None else min(self.canvas)

    def _fitted(self, recipe_settings: Values, epochs: int | None, held_out: int) -> Fitted:
        """Design and recipe as fitted to the images without those ``held_out``, before the user's settings."""
        request, chosen_scale = self.request, scale(self.request.scale)
        design = chosen_scale.shrink(find_design(request.model)) if self.about is None else self.about.design
        if not 0 <= request.frozen_stages <= len(design.depths):
            raise RequestError(f"--freeze must be between 0 and {len(design.depths)}, the stages of this design")
        granted = recipe_settings.get("epochs", request.epochs if request.epochs is not None else epochs)
        if granted is None and request.scale != "full":
            granted = chosen_scale.epochs
        return fit(
            *(design, self.recipe, self.images),
            image_size=self._side,
            held_out=held_out,
            epochs=granted,
            batch_size=recipe_settings.get("batch_size"),
            restores=request.mask_ratio is not None,
        )

    def _trained(self, design: Design, recipe: Recipe, notes: list[str]) -> Design | DenseDesign | MaskedDesign:
        """What is trained around the ``design``: a classifier, a detector or segmenter, or a masked autoencoder."""
        request = self.request
        if isinstance(self.images, DenseImages):
            assert self.canvas is not None
            dense = dense_design(request, self.images, design, self.canvas)
            shape = f"{self.canvas[1]}×{self.canvas[0]} pixels"
            notes.append(f"head {dense.head}, on a canvas of {shape}; --head and --image-size change these")
            return dense
        if request.mask_ratio is None:
            return design
        check_masked_recipe(recipe)
        masked, of_masks = fitted_masks(design, self.image_size, request.mask_ratio)
        notes += of_masks
        if self.start is not None and request.weights is not None and "mask_token" in self.start:
            with torch.device("meta"):
                check_fits(self.start, MaskedAutoencoder(masked), request.weights)
        return masked

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


def digest(state: Mapping[str, Tensor]) -> str:
    """What a trial calls weights that it starts from."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(state.items())}
    return hashlib.sha256(save(tensors)).hexdigest()[:16]
