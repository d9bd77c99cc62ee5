"""The size of the images over a training."""

import pytest

from nextify.paper.design import CONVNEXT_TINY, RESNET50, total_stride
from nextify.paper.recipe import CONVNEXT, RecipeError
from nextify.training.schedule import image_side, relative_cost

HALF = CONVNEXT.with_(progressive_resizing=0.5)


def sides(size: int, stride: int, steps: int = 100) -> list[int]:
    return [image_side(HALF, step, steps, size, stride) for step in range(steps)]


def test_grows_through_the_strides_multiples() -> None:
    assert sides(32, 8) == [16] * 30 + [24] * 30 + [32] * 40
    assert sorted(set(sides(224, 32))) == [128, 160, 192, 224] == sorted(set(sides(224, 32)), key=sides(224, 32).index)
    assert sides(32, 32) == [32] * 100, "nothing smaller leaves the last stage two pixels"
    assert sorted(set(sides(50, 8))) == [24, 32, 40, 48, 50], "the whole need not be a multiple"
    assert all(image_side(CONVNEXT, step, 100, 32, 8) == 32 for step in range(100))


def test_what_it_saves() -> None:
    assert relative_cost(HALF, 32, 8) == pytest.approx(0.4 + 0.3 * 0.25 + 0.3 * 0.5625)
    assert relative_cost(CONVNEXT, 32, 8) == 1
    of_steps = sum(side**2 for side in sides(224, 32, 1000)) / 224**2 / 1000
    assert relative_cost(HALF, 224, 32) == pytest.approx(of_steps, abs=1e-3)


def test_strides_and_bad_shares() -> None:
    assert total_stride(CONVNEXT_TINY) == total_stride(RESNET50) == 32
    with pytest.raises(RecipeError, match=r"progressive_resizing must be a number above 0 and below 1.*got 1\.5"):
        CONVNEXT.with_(progressive_resizing=1.5)
