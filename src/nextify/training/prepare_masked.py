"""What a request for pre-training needs beyond a classifier's: recipe, weights, and what the recipe must leave off."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from nextify.data import Images
from nextify.data.images import check_pictures
from nextify.paper.recipe import RECIPES, Recipe
from nextify.tasks.metric_specs import MASKED_ERROR
from nextify.training.request import Request, RequestError, named_recipe
from nextify.weights import About, WeightsError, is_bundle
from nextify.weights.autoencoder import find_autoencoder

MANY_IMAGES = 200_000
"""Training images from which on the paper's recipe is chosen rather than the one for small sets."""
OF_LABELS = ("light", "mixing", "random_erasing", "label_smoothing", "class_balance", "calibration", "layer_decay",
             "progressive_resizing", "test_mirror", "head_init_scale")  # fmt: skip
"""Settings of a recipe that have no meaning without labels, or with masks."""


def masked_recipe(request: Request, images: Images, notes: list[str]) -> tuple[str, Recipe]:
    """The recipe's name and the recipe. Raises ``DataError`` for images of N channels."""
    check_pictures(images, "pre-training")
    usual = "fcmae_small" if len(images.train) < MANY_IMAGES else "fcmae"
    return named_recipe(request, usual, len(images.train), notes)


def check_masked_recipe(recipe: Recipe) -> None:
    """Raises ``RequestError`` where a recipe asks for what pre-training does not have."""
    plain = RECIPES["fcmae"]
    if asked := [name for name in OF_LABELS if getattr(recipe, name) != getattr(plain, name)]:
        raise RequestError(f"pre-training has no {asked[0]}: leave it out")


def learned_without_labels(about: About) -> bool:
    """Whether weights are those of a pre-training of ours."""
    return any(metric.name == MASKED_ERROR.key for metric in about.metrics)


def masked_start(request: Request, notes: list[str]) -> tuple[About | None, Mapping[str, Tensor] | None]:
    """What the weights to go on from say, and their tensors as an autoencoder names them."""
    if request.weights is None:
        return None, None
    own = Path(request.weights).exists() and is_bundle(request.weights)
    found = find_autoencoder(request.weights, None if own else request.model)
    about, state = found.bundle.about, found.bundle.state
    if own and about.name and about.name != request.model:
        raise WeightsError(f"{request.weights} holds {about.name}, not {request.model}: name {about.name}")
    if about.in_channels != 3:
        raise WeightsError(f"{request.weights} takes {about.in_channels} channels, but training uses 3")
    notes += [f"starts from {request.weights}, licence {about.licence}", *found.notes]
    notes.append("the decoder starts from them too" if "mask_token" in state else "the decoder is new")
    return about, state
