"""What a user asks for, read and checked before an image or a tensor is looked at."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from nextify.fitting.scale import scale
from nextify.networks.zoo import find_design
from nextify.paper.design import Design
from nextify.paper.recipe import RECIPES, RandAugment, Recipe
from nextify.system.several import several

DESIGN_FIELDS = frozenset(f.name for f in fields(Design))
RECIPE_FIELDS = frozenset(f.name for f in fields(Recipe))


class RequestError(ValueError):
    """A training that cannot be; the message names the remedy."""


@dataclass(frozen=True)
class Request:
    """What decides a training's result, as the user gives it. ``None`` is "choose for me" throughout."""

    model: str
    """A name that ``nextify models`` lists."""
    recipe: str | None = None
    """A name of ``RECIPES``; by default one for small sets, or the paper's for large ones."""
    settings: tuple[str, ...] = ()
    """``field=value`` of the recipe or the design; they stand above the fit."""
    epochs: int | None = None
    minutes: float | None = None
    """Wall time to fill with epochs, by a measurement on this machine."""
    scale: str = "full"
    weights: str | None = None
    """Where to start from: whatever ``nextify.weights`` reads."""
    class_order: str | None = None
    """Of weights that do not name their classes: ``imagefolder``, ``natural``, ``data``, or a file of their names."""
    frozen_stages: int = 0
    image_size: int | None = None
    precision: str | None = None
    seed: int = 0


def setting(text: str) -> tuple[str, Any]:
    """``field=value`` as name and value: numbers and tuples as Python writes them, ``rand_augment=9,0.5``, words."""
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals or not value:
        raise RequestError(f"--set needs FIELD=VALUE, got {text!r}; for example --set learning_rate=1e-3")
    if name not in DESIGN_FIELDS | RECIPE_FIELDS:
        from difflib import get_close_matches

        near = get_close_matches(name, DESIGN_FIELDS | RECIPE_FIELDS, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(sorted(RECIPE_FIELDS))}"
        raise RequestError(f"--set {name}: neither the recipe nor the design has it; {hint}")
    try:
        parsed: Any = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        parsed = value
    if name == "rand_augment" and parsed != "off":
        numbers = parsed if isinstance(parsed, tuple) else (parsed,)
        if not 1 <= len(numbers) <= 2 or not all(isinstance(n, int | float) for n in numbers):
            raise RequestError(f"--set rand_augment needs off, MAGNITUDE or MAGNITUDE,STD, got {value!r}")
        parsed = RandAugment(*map(float, numbers))
    elif name in RECIPE_FIELDS:
        known = getattr(RECIPES["convnext_in1k"], name)
        numeric = isinstance(known, int | float) or name in ("gradient_clip", "layer_decay", "color_jitter")
        if numeric and parsed != "off" and not (isinstance(parsed, int | float) and not isinstance(parsed, bool)):
            raise RequestError(f"--set {name} needs a number, got {value!r}")
        if isinstance(known, tuple) and not (
            isinstance(parsed, tuple) and len(parsed) == 2 and all(isinstance(n, int | float) for n in parsed)
        ):
            raise RequestError(f"--set {name} needs two numbers with a comma, got {value!r}")
    return name, parsed


def settings(texts: str | Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of one or several ``field=value``: those of the recipe, and those of the design."""
    given = dict(map(setting, several(texts)))
    return (
        {name: value for name, value in given.items() if name in RECIPE_FIELDS},
        {name: value for name, value in given.items() if name in DESIGN_FIELDS},
    )


def check(request: Request) -> None:
    """What can be told of a request without looking at an image or a tensor. Raises ``RequestError`` and kin."""
    recipe_settings, _ = settings(request.settings)
    find_design(request.model)
    scale(request.scale)
    if request.recipe is not None and request.recipe not in RECIPES:
        raise RequestError(f"no recipe {request.recipe!r}; there are {', '.join(RECIPES)}")
    named = [request.epochs is not None, request.minutes is not None, "epochs" in recipe_settings]
    if sum(named) > 1:
        raise RequestError("--epochs, --minutes and --set epochs=… decide the same thing: give one")
    if request.precision is not None and "precision" in recipe_settings:
        raise RequestError("--precision and --set precision=… decide the same thing: give one")
    for name, value in (("--epochs", request.epochs), ("--image-size", request.image_size)):
        if value is not None and value < 1:
            raise RequestError(f"{name} must be 1 or more, got {value}")
    if request.class_order is not None and request.weights is None:
        raise RequestError("--class-order says how the classes of --weights are numbered: give --weights too")
    if request.minutes is not None and not request.minutes > 0:
        raise RequestError(f"--minutes must be above 0, got {request.minutes:g}")
