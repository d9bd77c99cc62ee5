"""Fitting corrects what cannot work on small data, says why, and leaves the rest alone."""

from dataclasses import dataclass

import pytest

from nextify.fitting.fit import FitError, calibration_share, fit, fit_recipe, fitted_batch_size
from nextify.fitting.scale import SCALES, ScaleError, scale
from nextify.paper.design import CONVNEXT_TINY, RESNET50, stem_stride
from nextify.paper.recipe import CONVNEXT, RECIPES, RESNET, RandAugment
from nextify.paper.roadmap import roadmap


@dataclass
class Facts:
    train_images: int
    num_classes: int = 10
    mirror_keeps_class: bool = True


IMAGENET = Facts(1_281_167, 1000)


def test_the_papers_settings_on_the_papers_data_stay_untouched():
    for design, recipe in ((CONVNEXT_TINY, RECIPES["convnext_in1k"]), (RESNET50, RESNET)):
        fitted = fit(design, recipe, IMAGENET, image_size=224)
        assert fitted.changes == ()
        assert (fitted.design, fitted.recipe) == (design, recipe)


def test_every_change_is_recorded_with_its_reason():
    fitted = fit(
        CONVNEXT_TINY, RECIPES["convnext_in1k"], Facts(600, mirror_keeps_class=False), image_size=16, epochs=26
    )
    before = {**CONVNEXT_TINY.to_dict(), **RECIPES["convnext_in1k"].to_dict()}
    after = {**fitted.design.to_dict(), **fitted.recipe.to_dict()}
    assert {c.field.partition(".")[0] for c in fitted.changes} == {k for k in before if before[k] != after[k]}
    assert all(c.reason and "→" in str(c) for c in fitted.changes)


def test_few_epochs_see_more_of_each_image():
    def smallest_crop(epochs, image_size=96, **more):
        recipe, _ = fit_recipe(RECIPES["scratch_small"], Facts(1_668), image_size=image_size, epochs=epochs, **more)
        return recipe.crop.scale[0]

    assert [smallest_crop(epochs) for epochs in (1, 17, 50)] == pytest.approx([0.78, 0.35, 0.17])
    assert smallest_crop(100) == smallest_crop(17, restores=True) == 0.08


@pytest.mark.parametrize("images", [16, 50, 600, 5_000, 50_000])
@pytest.mark.parametrize("epochs", [1, 5, 100])
def test_no_data_set_gets_zero_steps(images, epochs):
    recipe, _ = fit_recipe(CONVNEXT, Facts(images), image_size=32, epochs=epochs)
    assert recipe.batch_size <= images
    assert images // recipe.batch_size >= 1
    assert recipe.batch_size % 2 == 0  # mixing pairs the images of a batch


def test_batches_leave_steps():
    assert fitted_batch_size(4096, 1_281_167, 300) == 4096
    assert fitted_batch_size(4096, 50_000, 5) == 256
    assert fitted_batch_size(4096, 600, 30) == 64
    assert fitted_batch_size(256, 600, 9) == 16
    assert 50_000 * 5 // fitted_batch_size(4096, 50_000, 5) >= 500


def test_too_few_images_are_refused():
    with pytest.raises(FitError, match="at least 16"):
        fit_recipe(CONVNEXT, Facts(15), image_size=32)


def test_layer_scale_is_raised_in_short_trainings_only():
    short = fit(CONVNEXT_TINY, CONVNEXT, Facts(50_000), image_size=224, epochs=5)
    assert short.design.layer_scale == 0.1
    assert fit(CONVNEXT_TINY, CONVNEXT, IMAGENET, image_size=224).design.layer_scale == 1e-6
    off = fit(CONVNEXT_TINY.with_(layer_scale="off"), CONVNEXT, Facts(600), image_size=224, epochs=5)
    assert off.design.layer_scale == "off"


@pytest.mark.parametrize("design", [RESNET50, CONVNEXT_TINY])
@pytest.mark.parametrize("image_size", [16, 28, 32, 48, 64, 224])
def test_at_least_two_by_two_pixels_reach_the_last_stage(design, image_size):
    fitted = fit(design, CONVNEXT, Facts(50_000), image_size=image_size, epochs=5).design
    total = stem_stride(fitted.stem)
    for stride in fitted.stage_strides:
        total *= stride
    assert image_size // total >= 2


def test_an_average_over_more_steps_than_there_are_is_shortened():
    recipe, changes = fit_recipe(CONVNEXT.with_(ema=0.9999), Facts(600), image_size=32, epochs=26)
    steps = recipe.epochs * (600 // recipe.batch_size)
    assert recipe.ema != "off"
    assert 1 / (1 - recipe.ema) <= steps / 9
    assert any(c.field == "ema" for c in changes)


def test_digits_are_not_mirrored():
    assert fit_recipe(CONVNEXT, Facts(600, mirror_keeps_class=False), image_size=16)[0].horizontal_flip == 0
    mirrored = CONVNEXT.with_(test_mirror="on")
    assert fit_recipe(mirrored, Facts(600, mirror_keeps_class=False), image_size=16)[0].test_mirror == "off"
    assert fit_recipe(mirrored, Facts(600), image_size=16)[0].test_mirror == "on"
    assert fit_recipe(CONVNEXT, Facts(600), image_size=16)[0].horizontal_flip == 0.5


def test_one_recipe_serves_all_designs():
    recipes = {
        fit(row.design, CONVNEXT, Facts(600), image_size=16, epochs=26).recipe for row in roadmap("resnet50").rows
    }
    assert len(recipes) == 1


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("regime", ["resnet50", "resnet200"])
def test_a_scale_keeps_every_step_a_change(name, regime):
    rows = {row.name: row for row in roadmap(regime)}
    for row in rows.values():
        if row.compared_with in (None, "baseline"):
            continue  # the training technique changes the recipe only
        ours, theirs = scale(name).shrink(row.design), scale(name).shrink(rows[row.compared_with].design)
        changed = set(row.design.differences(rows[row.compared_with].design))
        assert set(ours.differences(theirs)) == changed, row.name
        assert stem_stride(ours.stem) == stem_stride(theirs.stem)


def test_full_scale_is_the_paper():
    assert all(scale("full").shrink(row.design) == row.design for row in roadmap("resnet50"))


def test_an_unknown_scale_lists_the_known_ones():
    with pytest.raises(ScaleError, match="tiny, small, half, full"):
        scale("huge")


@pytest.mark.parametrize(
    ("images", "classes", "batch", "share"),
    [
        (999, 10, 16, None),
        (1000, 10, 16, 0.1),
        (2000, 10, 16, 0.05),
        (50_000, 10, 256, 0.02),
        (1_281_167, 1000, 4096, 0.000781),
        (1000, 101, 16, None),  # one image of each class would be more than a tenth
        (1000, 10, 901, None),
    ],
)
def test_no_more_images_are_held_out_than_confidences_need(images, classes, batch, share):
    assert calibration_share(Facts(images, classes), batch) == share


@pytest.mark.parametrize("name", ["convnext", "scratch_small"])
def test_a_recipe_that_is_fitted_for_many_networks_holds_nothing_out(name):
    assert fit_recipe(RECIPES[name], Facts(50_000), image_size=32, epochs=10)[0].calibration == "off"


@pytest.mark.parametrize(("epochs", "rand_augment"), [(10, "off"), (100, RandAugment(5))])
def test_a_short_training_of_fresh_weights_has_a_change_of_light(epochs: int, rand_augment: object) -> None:
    recipe = fit_recipe(RECIPES["scratch_small"], Facts(50_000), image_size=32, epochs=epochs)[0]
    assert recipe.light == 0.2
    assert recipe.rand_augment == rand_augment
    assert RECIPES["convnext"].light == RECIPES["finetune_small"].light == "off"
