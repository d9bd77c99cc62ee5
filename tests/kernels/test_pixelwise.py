"""The pixelwise part of a block with matrix products of our own, against float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nextify.kernels import choice
from nextify.kernels.pixelwise import products
from nextify.kernels.pixelwise.products import Weights
from tests.kernels.helpers import DTYPES, draw, layer_by_layer, needs_kernels

pytestmark = needs_kernels


def ours_and_exact(
    rows: int,
    columns: int,
    wide: int,
    outputs: int,
    strip: int,
    dtypes: tuple[torch.dtype, ...] = (torch.float32,) * 5,
    without: tuple[str, ...] = (),
) -> tuple[Tensor, Tensor]:
    inner, x_type, shortcut_type, weight_type, out_type = dtypes
    x, shortcut = draw(rows, columns).to(x_type), draw(rows, outputs, seed=1).to(shortcut_type)
    weight1 = (draw(wide, columns) / columns**0.5).to(weight_type)
    weight2 = (draw(outputs, wide, seed=2) / wide**0.5).to(weight_type)
    vectors = {"weight": columns, "norm bias": columns, "bias1": wide, "bias2": outputs, "scale": outputs}
    weight, norm_bias, bias1, bias2, scale = (
        None if name in without else draw(n, seed=seed) for seed, (name, n) in enumerate(vectors.items())
    )
    out = torch.full((rows, outputs), torch.nan, dtype=out_type)
    norm_bias = None if weight is None else norm_bias
    weights = Weights(weight, norm_bias, weight1, bias1, weight2, bias2, scale, 1e-6)
    products.run(x, shortcut, weights, out, strip=strip, dtype=inner)
    return out.double(), shortcut.double() + layer_by_layer(x.double(), weights)


def error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    "sizes", [(1, 2, 6, 2), (5, 96, 384, 96), (49, 130, 70, 34), (100, 64, 256, 128), (7, 2, 300, 18)]
)
@pytest.mark.parametrize("strip", [1, 8, 1000])
def test_any_size_in_float32(sizes: tuple[int, int, int, int], strip: int) -> None:
    got, expected = ours_and_exact(*sizes, strip)
    assert error(got, expected) < 1e-6


@pytest.mark.parametrize("odd", [(11, 7, 29, 5), (64, 33, 132, 33)])
def test_odd_sizes_in_float32(odd: tuple[int, int, int, int]) -> None:
    got, expected = ours_and_exact(*odd, 16)
    assert error(got, expected) < 1e-6


@pytest.mark.parametrize("inner", DTYPES)
@pytest.mark.parametrize("x_type", DTYPES)
@pytest.mark.parametrize("weight_type", DTYPES)
@pytest.mark.parametrize(("shortcut_type", "out_type"), [(a, b) for a in DTYPES for b in DTYPES])
def test_any_mixture_of_types(
    inner: torch.dtype,
    x_type: torch.dtype,
    weight_type: torch.dtype,
    shortcut_type: torch.dtype,
    out_type: torch.dtype,
) -> None:
    got, expected = ours_and_exact(37, 70, 138, 66, 20, (inner, x_type, shortcut_type, weight_type, out_type))
    assert error(got, expected) < (1e-6 if inner == out_type == torch.float32 else 4e-3)


@pytest.mark.parametrize("without", ["weight", "norm bias", "bias1", "bias2", "scale"])
@pytest.mark.parametrize("inner", DTYPES)
def test_what_is_absent(without: str, inner: torch.dtype) -> None:
    got, expected = ours_and_exact(20, 32, 64, 32, 20, (inner, *[torch.float32] * 4), (without,))
    assert error(got, expected) < (1e-6 if inner == torch.float32 else 4e-3)


@pytest.mark.parametrize("inner", DTYPES)
def test_the_same_to_the_bit_with_any_number_of_threads(inner: torch.dtype) -> None:
    results = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        results.append(ours_and_exact(301, 96, 200, 96, 128, (inner, *[torch.float32] * 4))[0])
    assert all(torch.equal(result, results[0]) for result in results)


def test_large_and_missing_numbers_go_through() -> None:
    columns = 32
    x = draw(4, columns)
    x[1, 3], x[2] = torch.nan, 1e30
    out = torch.zeros(4, columns)
    eye = torch.eye(columns)
    weights = Weights(None, None, eye, None, eye, None, None, 0.0)
    products.run(x, torch.zeros(4, columns), weights, out, strip=4, dtype=torch.float32)
    assert torch.allclose(out[[0, 2, 3]], F.gelu(x[[0, 2, 3]]), rtol=1e-5, atol=1e-6)
    assert out[1].isnan().all()


def test_by_themselves_only_where_they_were_measured_to_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    for instructions, units, expected in ((True, False, True), (True, True, False), (False, False, False)):
        monkeypatch.setattr(choice, "BFLOAT16_INSTRUCTIONS", instructions)
        monkeypatch.setattr(choice, "MATRIX_UNITS", units)
        assert choice.own_products("auto") is expected
        assert choice.own_products("on")
