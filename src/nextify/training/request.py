"""What a user asks for, checked before any image or tensor is read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from nextify.fitting.scale import scale
from nextify.networks.zoo import find_design
from nextify.paper.design import Design
from nextify.paper.recipe import MASKED_RECIPES, RECIPES, Recipe
from nextify.paper.settings import Range, check_ranges, hints, owner, plain, short

DESIGN_FIELDS = frozenset(hints(Design))
Values = dict[str, Any]
"""Checked values of fields by their (possibly dotted) names; each has the type of its field's annotation."""


class RequestError(ValueError):
    """An impossible request; the message names the remedy."""


@dataclass(frozen=True)
class Request:
    """What decides a training's result, as the user states it. ``None`` means "choose for me" throughout."""

    model: str
    """A name that ``nextify models`` lists."""
    recipe: str | None = None
    """A name of ``RECIPES``; by default one for small sets, or the paper's for large ones."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Values of the recipe's and the design's fields, by name, dotted where a field has parts; they
    override the fit."""
    epochs: Annotated[int, Range(least=1, most=10**6)] | None = None
    minutes: Annotated[float, Range(above=0, most=10**7)] | None = None
    """Wall time to fill with epochs, by a measurement on this machine."""
    scale: str = "full"
    weights: str | None = None
    """Where to start from: whatever ``nextify.weights`` reads. A ``Path`` becomes text."""
    class_order: str | None = None
    """Of weights that do not name their classes: ``imagefolder``, ``natural``, ``data``, or a file of their names."""
    head: str | None = None
    """Of a detector or segmenter, such as ``fcos``."""
    mask_ratio: Annotated[float, Range(above=0, below=1)] | None = None
    """Share of each image that is masked and restored: pre-training, without labels. None learns the labels."""
    frozen_stages: int = 0
    image_size: Annotated[int, Range(least=1, most=10**4)] | None = None
    precision: str | None = None
    accumulation: Annotated[int, Range(least=1, most=10**9)] | None = None
    """Parts into which each batch is cut; decides the result where the network has batch norm."""
    seed: Annotated[int, Range(least=0, most=2**31 - 1)] = 0
    """Shifted by 32 bits, it is part of torch's 64-bit seeds."""

    def __post_init__(self) -> None:
        for name in ("weights", "class_order"):
            if isinstance(value := getattr(self, name), Path):
                object.__setattr__(self, name, str(value))

    @property
    def above(self) -> dict[str, object]:
        """``settings``, and the precision where one is named."""
        return {**self.settings} | ({} if self.precision is None else {"precision": self.precision})

    def to_dict(self) -> dict[str, object]:
        stated = {f.name: plain(getattr(self, f.name)) for f in fields(self)}
        for name in ("head", "mask_ratio"):  # as files had it before there were these
            if stated[name] is None:
                del stated[name]
        return stated


def split(settings: Mapping[str, object]) -> tuple[Values, Values]:
    """The settings of the recipe and those of the design. Raises ``SettingError`` for an unknown name or a value that
    its field does not accept, and ``RequestError`` for what is no mapping."""
    if not isinstance(settings, Mapping):
        raise RequestError(f'settings must map names to values, such as {{"batch_size": 64}}, got {settings!r}')
    owners = {name: owner(name, (Recipe, Design)) for name in settings}
    values = {name: kind.accept(name, settings[name]) for name, kind in owners.items()}
    values |= {name: value for name, value in settings.items() if isinstance(value, str)}  # kinds stay names
    return (
        {name: value for name, value in values.items() if owners[name] is Recipe},
        {name: value for name, value in values.items() if owners[name] is Design},
    )


def named_recipe(request: Request, usual: str, images: int, notes: list[str]) -> tuple[str, Recipe]:
    """The request's recipe and its name, or the ``usual`` one for so many training images, with a note."""
    if request.recipe is None:
        notes.append(f"recipe {usual}, for {images:,} training images; --recipe chooses another")
    return request.recipe or usual, RECIPES[request.recipe or usual]


def check_licence(licence: str | None) -> None:
    """Raises ``RequestError`` for what is no SPDX identifier."""
    if licence is not None and not re.fullmatch(r"[A-Za-z0-9.+:-]+", licence):
        raise RequestError(
            f"--licence must be an SPDX identifier, letters, digits, dots and hyphens such as cc-by-4.0, got "
            f"{short(licence)}"
        )


def check_opened(**given: object) -> None:
    """Refuse arguments that say how to open images, where they are open already: they would be ignored. Those that were
    left out are None, or 0. Raises ``RequestError``."""
    if named := [name for name, value in given.items() if value not in (None, 0)]:
        raise RequestError(f"the images are open already: give {' and '.join(named)} to open_images, and not here")


def check(request: Request) -> None:
    """Refuse what can be refused without an image or a tensor, by a ``RequestError`` or another ``ValueError``."""
    check_ranges(request, RequestError)
    if not isinstance(request.model, str):
        raise RequestError(
            f"a model is given by a name of list_models(), got {short(request.model)}: settings change its design"
        )
    recipe_settings, _ = split(request.settings)
    find_design(request.model)
    scale(request.scale)
    if request.recipe is not None and request.recipe not in RECIPES:
        raise RequestError(f"no recipe {request.recipe!r}; there are {', '.join(RECIPES)}")
    if request.recipe is not None and (request.recipe in MASKED_RECIPES) != (request.mask_ratio is not None):
        if request.mask_ratio is None:
            raise RequestError(f"{request.recipe} is a recipe for nextify pretrain: choose another for train")
        raise RequestError(f"{request.recipe} is a recipe for nextify train: choose {' or '.join(MASKED_RECIPES)}")
    named = [request.epochs is not None, request.minutes is not None, "epochs" in recipe_settings]
    if sum(named) > 1:
        raise RequestError("--epochs, --minutes and --set epochs=… set the same thing: give only one")
    if request.precision is not None and "precision" in recipe_settings:
        raise RequestError("--precision and --set precision=… set the same thing: give only one")
    if request.mask_ratio is not None and (request.frozen_stages or request.class_order or request.head):
        raise RequestError("pre-training has no frozen stages, classes or heads: leave these options out")
    if request.class_order is not None and request.weights is None:
        raise RequestError("--class-order says how the classes of --weights are numbered: give --weights too")
