"""The rates of Muon and of AdamW beside it, and the fingerprints that must not change with them."""

import pytest

from nextify.data import Images
from nextify.networks.zoo import create_model
from nextify.paper.design import CONVNEXT_TINY
from nextify.paper.recipe import CONVNEXT, RECIPES, RecipeError
from nextify.paper.recipe import Muon as MuonSettings
from nextify.training.optimizers import build_optimizers, depth_group, set_learning_rate
from nextify.training.prepare import prepare
from nextify.training.request import Request
from nextify.training.trial import IMAGENET_MEAN, IMAGENET_STD, Data, Trial

DESIGN = CONVNEXT_TINY.with_(depths=(1, 1, 1, 1), widths=(8, 16, 16, 16))
MUON = CONVNEXT.with_(optimizer=MuonSettings(rest_learning_rate_share=0.15), learning_rate=0.02)


def trial(**changes: object) -> Trial:
    return Trial(DESIGN, CONVNEXT.with_(**changes), Data("x", "0" * 64, 10, 32, IMAGENET_MEAN, IMAGENET_STD), 0)


def test_the_rest_has_its_share_of_the_rate_of_the_matrices() -> None:
    model = create_model(DESIGN, 10)
    optimizers = build_optimizers(model, MUON)
    set_learning_rate(optimizers, 0.01)
    rates = {
        id(parameter): group["lr"]
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    found = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    assert len(found) == len(rates)
    for name, rate in found.items():
        kernels = ("pointwise1.weight", "pointwise2.weight", "downsample.conv.weight")
        assert rate == pytest.approx(0.01 if name.endswith(kernels) else 0.0015)


def test_with_layer_decay_both_count() -> None:
    model = create_model(DESIGN, 10)
    optimizers = build_optimizers(model, MUON.with_(layer_decay=0.5))
    scales = sorted({g["learning_rate_scale"] for o in optimizers for g in o.param_groups if not g["matrix"]})
    assert scales == pytest.approx([0.15 * 0.5**depth for depth in (5, 4, 3, 2, 1, 0)])


@pytest.mark.parametrize(
    ("single", "expected"),
    [
        (False, {"stem": 0, "stages.0": 1, "stages.1": 2, "head": 6}),
        (True, {"stem": 1, "stages.0": 1, "stages.1": 3, "head": 13}),
    ],
)
def test_the_depth_groups_are_the_papers_or_single_blocks(single: bool, expected: dict[str, int]) -> None:
    """Of V1's and V2's ``optim_factory.py``, for depths of 2, 2, 7 and 1."""
    depths = (2, 2, 7, 1)
    places = {"stem": "stem.conv.weight", "head": "head.norm.weight"}
    for place, group in expected.items():
        assert depth_group(places.get(place, f"{place}.downsample.conv.weight"), depths, single=single) == group
    blocks = [depth_group(f"stages.2.blocks.{b}.spatial.weight", depths, single=single) for b in range(7)]
    assert blocks == (list(range(5, 12)) if single else [3, 3, 3, 4, 4, 4, 4])
    assert depth_group("stages.3.downsample.norm.bias", depths, single=single) == (12 if single else 5)
    recipe = CONVNEXT.with_(layer_decay=0.5, layer_decay_groups="single" if single else "paper")
    scales = [
        g["learning_rate_scale"] for o in build_optimizers(create_model(DESIGN, 10), recipe) for g in o.param_groups
    ]
    assert min(scales) == pytest.approx(0.5 ** (4 if single else 5))


def test_the_share_leaves_other_fingerprints_alone() -> None:
    muon = trial(optimizer=MuonSettings())
    assert muon.fingerprint == "2bde25151813"
    assert muon.fingerprint != trial(optimizer=MuonSettings(rest_learning_rate_share=0.5)).fingerprint


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"rest_learning_rate_share must be a number above 0 .*, got 0"):
        RECIPES["scratch_small"].with_(**{"optimizer.rest_learning_rate_share": 0})


def test_another_optimizer_gets_its_own_rate_and_decay(digits: Images) -> None:
    """AdamW at Muon's rate may diverge; SGD with AdamW's decay gets four digits of ten right (docs/log.md)."""

    def trained(**settings: object) -> tuple[float, float]:
        prepared = prepare(Request("convnext_atto", scale="tiny", settings=settings), digits)
        recipe = prepared.trial.recipe
        said = {change.field for change in prepared.changes}
        assert ("weight_decay" in said) == (recipe.weight_decay == RECIPES["resnet"].weight_decay)
        assert not any("learning_rate" in warning for warning in prepared.preflight.warnings)
        return recipe.learning_rate, recipe.weight_decay

    rate, decay = trained()
    assert trained(optimizer="muon") == (rate, decay)
    assert trained(optimizer="adamw") == (pytest.approx(0.15 * rate), decay)
    assert trained(optimizer="adamw", learning_rate=0.004) == (0.004, decay)
    assert trained(optimizer="sgd", batch_size=64) == (pytest.approx(0.1 * 64 / 256), 1e-4)
    assert trained(optimizer="sgd", batch_size=64, weight_decay=1e-3, learning_rate=0.1) == (0.1, 1e-3)
