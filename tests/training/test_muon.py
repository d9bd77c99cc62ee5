"""Muon against torch's own, on kernels, and what it makes of a matrix."""

import pytest
import torch
from torch import nn

from nextify.networks.zoo import create_model
from nextify.paper.design import CONVNEXT_TINY, RESNET50
from nextify.training.muon import Muon, orthogonalized
from nextify.training.optimizers import matrices


@pytest.mark.parametrize("shape", [(24, 24), (40, 9), (9, 40)])
def test_singular_values_are_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalized(3 * torch.randn(shape), torch.float32))
    assert values.min() > 0.3
    assert values.max() < 1.3


@pytest.mark.parametrize("decades", [0, 4, 12], ids="condition 1e{}".format)
@pytest.mark.parametrize("shape", [(24, 32), (24, 96), (200, 24)])
def test_small_singular_values_do_not_disturb_it(shape: tuple[int, int], decades: int) -> None:
    """Oblong matrices take another way in float32; the gradients of a few images have few large singular values."""
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    matrix = u * torch.logspace(0, -decades, 24, dtype=torch.float64) @ v
    expected = orthogonalized(matrix, torch.float64)
    torch.testing.assert_close(orthogonalized(matrix.float(), torch.float32).double(), expected, rtol=0, atol=2e-4)
    assert orthogonalized(torch.zeros(shape), torch.float32).abs().max() == 0


def test_is_torchs_but_for_the_precision() -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in ((16, 48), (48, 16))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    pairs = (
        (ours, Muon(ours, 0.1, momentum=0.9, weight_decay=0.05, dtype=torch.bfloat16)),
        (theirs, torch.optim.Muon(theirs, 0.1, weight_decay=0.05, momentum=0.9, adjust_lr_fn="match_rms_adamw")),
    )
    for step in range(4):
        for parameters, optimizer in pairs:
            torch.manual_seed(step)
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.02)  # bfloat16 in both; a step moves an element by about 0.14


def test_a_kernel_moves_as_its_matrix_does() -> None:
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(8, 4, 3, 3).contiguous(memory_format=torch.channels_last))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    for _ in range(2):
        gradient = torch.randn(8, 4, 3, 3)
        kernel.grad, matrix.grad = gradient, gradient.flatten(1).clone()
        for parameter in (kernel, matrix):
            Muon([parameter], 0.1).step()
    torch.testing.assert_close(kernel.flatten(1), matrix)
    with pytest.raises(ValueError, match=r"not a tensor of shape \(5,\)"):
        Muon([nn.Parameter(torch.zeros(5))], 0.1)


def test_which_parameters_it_takes() -> None:
    small = CONVNEXT_TINY.with_(depths=(1, 1, 1, 1), widths=(8, 16, 16, 16))
    model = create_model(small, 10)
    taken = {name for name, p in model.named_parameters() if id(p) in matrices(model)}
    assert any("downsampl" in name for name in taken)
    assert all(p.ndim >= 2 for name, p in model.named_parameters() if name in taken)
    assert not any(name.startswith(("stem", "head")) or "spatial" in name for name in taken)
    resnet = create_model(RESNET50.with_(depths=(1, 1, 1, 1)), 10)
    kernels = [m for m in resnet.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(matrices(resnet)) == len(kernels) - 2, "all but the stem and the classifier"
