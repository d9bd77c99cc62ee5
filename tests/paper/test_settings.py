"""Every setting takes what its annotation says, in Python and on the command line, and refuses the rest in one line."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import nextify
from nextify.cli.settings import setting, settings
from nextify.paper.design import DESIGNS, RESNET50, Design, DesignError
from nextify.paper.recipe import CONVNEXT, RECIPES, RESNET, Mixing, RecipeError
from nextify.paper.settings import SettingError, Settings, names

# fmt: off
VALUES: list[Any] = [
    True, False, None, "", "off", "on", "nan", "muon", "lots", "1", b"1", 0, 1, 2, 3, -1, -5, 20, 64, 10**21, 10**400,
    0.0, 0.5, 1.0, -0.5, 1.5, 1e-300, 1e308, math.nan, math.inf, -math.inf, 2 + 3j, Fraction(1, 2), np.float32(0.5),
    (), (1,), (0.5, 1.0), (1.0, 0.5), (-1, 2), (1, 1), [3, 3, 9, 3], (1, 1, 1, 1), ("3", "3"), (10**21,) * 4,
    {}, {"kind": "sgd"}, {"kind": "sgd", "momentum": 5}, {"kind": "adam"}, {"magnitude": -5}, {1: 2}, object(), int,
    nextify.SGD(), nextify.RandAugment(), nextify.Shift(), np.zeros(3), slice(None),
]
TEXTS = [
    *map(str, VALUES), "9,0.5", "0.8,1", "3,3,9,3", "(1,2)", "1e-3", "1e999", "9" * 5000, ",", "=", "1\n2",
]
# fmt: on
FIELDS = [(start, name) for start in (CONVNEXT, RESNET, RESNET50) for name in names(type(start))]


@pytest.mark.parametrize(("start", "name"), FIELDS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_field_takes_a_value_or_says_in_one_line_why_not(start: Settings, name: str) -> None:
    refusals, error = [], RecipeError if isinstance(start, nextify.Recipe) else DesignError
    for value in VALUES:
        try:
            changed = start.with_(**{name: value})
        except error as refused:
            refusals.append(str(refused))
        else:
            assert type(changed).from_dict(json.loads(json.dumps(changed.to_dict()))) == changed
    assert refusals
    assert all(len(line) < 800 and "\n" not in line for line in refusals)


@pytest.mark.parametrize("name", [*names(nextify.Recipe), *names(Design)])
def test_every_field_takes_a_text_or_says_in_one_line_why_not(name: str) -> None:
    refusals = []
    for text in TEXTS:
        try:
            found, value = setting(f"{name}={text}")
        except SettingError as refused:
            refusals.append(str(refused))
        else:
            assert found == name
            assert (nextify.Recipe if name in names(nextify.Recipe) else Design).accept(name, value) is not None
    assert refusals
    assert all(line.startswith("--set ") and len(line) < 800 and "\n" not in line for line in refusals)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crop.scale", (-1, 2)),
        ("optimizer.momentum", 5),
        ("optimizer.momentum", -1),
        ("optimizer.betas", (1, 1)),
        ("learning_rate", math.inf),
        ("learning_rate", 1e308),
        ("learning_rate", "off"),
        ("color_jitter", -1),
        ("weight_decay", -1e-9),
        ("head_init_scale", -1),
        ("progressive_resizing", 7),
        ("epochs", 10**21),
        ("epochs", True),
        ("rand_augment.magnitude", -5),
        ("rand_augment.magnitude", 20),
        ("mixing", True),
    ],
)
def test_recipes_that_cannot_be(name: str, value: object) -> None:
    kind = {"optimizer": nextify.SGD() if name.endswith("momentum") else nextify.AdamW()}
    with pytest.raises(RecipeError, match=f"^{name} must be "):
        CONVNEXT.with_(**kind, **{name: value})


@pytest.mark.parametrize("value", [True, 4, 10**21, 7.0, "7"])
def test_kernels_that_cannot_be(value: object) -> None:
    with pytest.raises(DesignError, match=r"^kernel_size must be an odd whole number at least 1 and at most 255, got "):
        RESNET50.with_(kernel_size=value)


FLAT: dict[str, tuple[str, object]] = {
    "momentum": ("optimizer.momentum", 0.9),
    "betas": ("optimizer.betas", (0.9, 0.999)),
    "rest_learning_rate_share": ("optimizer.rest_learning_rate_share", 1.0),
    "crop_shift": ("crop.share", 0.125),
    "crop_scale": ("crop.scale", (0.08, 1.0)),
    "resampling": ("crop.resampling", "pillow"),
    "mixup": ("mixing.mixup", "off"),
    "cutmix": ("mixing.cutmix", "off"),
    "mixing_probability": ("mixing.probability", 1.0),
}


def flat_form(recipe: nextify.Recipe) -> dict[str, object]:
    """A recipe as bundles held it before settings were grouped, with a default for what its kinds do not have."""
    grouped = {"optimizer": recipe.optimizer.kind, "crop": "pad" if recipe.crop.kind == "shift" else recipe.crop.kind}
    flat = {name: default if recipe.get(new) is None else recipe.get(new) for name, (new, default) in FLAT.items()}
    return {**{name: value for name, value in recipe.to_dict().items() if name != "mixing"}, **grouped, **flat}


UNUSUAL = {
    "mixing": CONVNEXT.with_(mixing=Mixing(mixup=0.3, cutmix=0.5, probability=0.7)),
    "mixup alone": CONVNEXT.with_(mixing=Mixing(mixup=0.3)),
    "shift": RESNET.with_(crop=nextify.Shift(0.25), optimizer=nextify.SGD(momentum=0.8)),
    "muon": CONVNEXT.with_(optimizer=nextify.Muon(momentum=0.7, betas=(0.8, 0.9), rest_learning_rate_share=0.4)),
    "crop": CONVNEXT.with_(crop=nextify.RandomResized(scale=(0.3, 0.9), resampling="fast")),
}


@pytest.mark.parametrize("recipe", [*RECIPES.values(), *UNUSUAL.values()], ids=[*RECIPES, *UNUSUAL])
def test_recipes_survive_json_in_todays_form_and_in_the_flat_one(recipe: nextify.Recipe) -> None:
    younger = recipe.crop.kind == "scale_jitter"  # than the flat form
    for form in (recipe.to_dict(), *([] if younger else [flat_form(recipe)])):
        assert nextify.Recipe.from_dict(json.loads(json.dumps(form))) == recipe


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_designs_survive_json(design: Design) -> None:
    assert Design.from_dict(json.loads(json.dumps(design.to_dict()))) == design


def test_parts_change_by_dotted_names() -> None:
    muon = CONVNEXT.with_(optimizer="muon", **{"optimizer.momentum": 0.9})
    assert muon.optimizer == nextify.Muon(momentum=0.9)
    assert muon.with_(optimizer="muon") == muon, "the kind it has already"
    assert CONVNEXT.with_(crop="shift", **{"crop.share": 0.0625}).crop == nextify.Shift(0.0625)
    assert RESNET.with_(**{"mixing.mixup": 0.2}).mixing == Mixing(mixup=0.2), "CutMix stays off"
    assert RESNET.with_(**{"rand_augment.magnitude": 5}).rand_augment == nextify.RandAugment(5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer.momentum": 0.9}, "optimizer=sgd and muon, but here optimizer=adamw: set optimizer=sgd as well"),
        ({"crop.share": 0.1}, "crop.share is a setting of crop=shift, but here crop=random_resized"),
        ({"optimizer.momentum": 0.9, "optimizer.betas": (0, 0), "optimizer": "sgd"}, "optimizer.betas is a setting of"),
        ({"mixing.mixup": "off", "mixing.cutmix": "off"}, "mixing=off switches both off"),
        ({"mixing.mixup": 0.8, "mixing": "off"}, "mixing=off and mixing.mixup contradict each other: give one of them"),
        ({"rand_augment": "off", "rand_augment.magnitude": 5}, "rand_augment=off and rand_augment.magnitude contra"),
        ({"epochs.first": 1}, "Recipe has no epochs.first; did you mean epochs"),
        ({"warmup_epochs": 301}, "at most epochs"),
        ({"min_learning_rate": 1}, "at most learning_rate"),
    ],
)
def test_parts_that_do_not_belong_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        CONVNEXT.with_(**changes)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("momentum=0.9", "optimizer.momentum"),
        ("betas=0.9,0.95", "optimizer.betas"),
        ("rest_learning_rate_share=0.5", "optimizer.rest_learning_rate_share"),
        ("crop_shift=0.1", "crop.share"),
        ("crop_scale=0.2,1", "crop.scale"),
        ("resampling=fast", "crop.resampling"),
        ("mixup=off", "mixing.mixup"),
        ("cutmix=off", "mixing.cutmix"),
        ("mixing_probability=0.5", "mixing.probability"),
    ],
)
def test_former_names_lead_to_todays(old: str, new: str) -> None:
    name, _, value = old.partition("=")
    with pytest.raises(SettingError, match=f"--set {name} is now {new}"):
        setting(old)
    with pytest.raises(RecipeError, match=f"{name} is now {new}"):
        CONVNEXT.with_(**{name: value})


def test_the_command_line_gives_values() -> None:
    texts = ("rand_augment=9,0.5", "mixing=0.8,1", "optimizer=muon", "optimizer.momentum=0.9", "depths=3,3,9,3")
    assert settings((*texts, "ema=off", "groups=depthwise", "learning_rate=1e-3", "batch_size=64")) == {
        "rand_augment": nextify.RandAugment(9, 0.5),
        "mixing": Mixing(0.8, 1),
        "optimizer": "muon",
        "optimizer.momentum": 0.9,
        "depths": (3, 3, 9, 3),
        "ema": "off",
        "groups": "depthwise",
        "learning_rate": 1e-3,
        "batch_size": 64,
    }


def test_nobody_needs_a_deep_import() -> None:
    words = "RECIPES SGD AdamW Muon RandomResized Shift NoCrop Mixing RandAugment Recipe Design"
    assert set(words.split()) <= set(nextify.__all__)
    assert all(hasattr(nextify, name) for name in nextify.__all__)
