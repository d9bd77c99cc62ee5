"""Muon: momentum, orthogonalized before it is applied (Jordan et al. 2024; arXiv 2502.16982).

Unlike ``torch.optim.Muon``, which orthogonalizes in bfloat16 and takes matrices only, this one can compute in float32
(faster on CPUs without bfloat16 instructions), takes convolution kernels as matrices ``(out, in * height * width)``,
and updates sharded parameters (FSDP2) as whole matrices.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton–Schulz iteration, which brings all singular values to 0.7 … 1.2 in five steps."""


def orthogonalized(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Bring the singular values of an ``(M, N)`` matrix close to 1; computed and returned in ``dtype``.

    Of an oblong matrix in float32, only the first step multiplies the matrix itself; the others take the product with
    its own transpose through. That is 30 products of squares in place of 45 where one side is four times the other.
    Without the first step it would be 25, but small singular values would lose three digits; so they would in bfloat16.
    """
    a, b, c = COEFFICIENTS
    x = matrix.to(dtype)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / x.norm().clamp_min(1e-7)
    exact = dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    through = exact and 2 * x.shape[1] > 3 * x.shape[0]
    for _ in range(1 if through else STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    if through:
        gram = x @ x.T
        rest = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor = rest + a * torch.eye(len(rest), dtype=dtype, device=x.device)
        for _ in range(STEPS - 2):
            moved = torch.addmm(gram, rest, gram, beta=a)
            gram = torch.addmm(moved, moved, rest, beta=a)
            rest = torch.addmm(gram, gram, gram, beta=b, alpha=c)
            factor = torch.addmm(factor, rest, factor, beta=a)
        x = factor @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized, with decoupled weight decay.

    The update of an ``(M, N)`` matrix is scaled by ``0.2 sqrt(max(M, N))``, so that its elements move as far as with
    AdamW and both optimizers can share learning rate and weight decay (arXiv 2502.16982, section 2.2).

    Args:
        params: tensors of two or more axes, or groups of them; all axes but the first are flattened into one.
        lr: learning rate.
        momentum: between 0 and 1.
        weight_decay: for groups that do not set their own.
        dtype: of the orthogonalization.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim < 2:
                    raise ValueError(f"Muon takes matrices and kernels, not a tensor of shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step from the present gradients; returns the closure's value."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group["lr"], group["momentum"], group["weight_decay"])
        return value

    def _move(
        self, parameter: Tensor, gradient: Tensor, lr: float | Tensor, momentum: float, weight_decay: float
    ) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient, memory_format=torch.preserve_format)
        average = state["momentum_buffer"]
        average.lerp_(gradient, 1 - momentum)
        ahead = gradient.lerp(average, momentum)
        whole = ahead.full_tensor() if isinstance(ahead, DTensor) else ahead
        update = orthogonalized(whole.flatten(1), self.dtype).to(parameter.dtype).reshape(whole.shape)
        if isinstance(parameter, DTensor):
            update = distribute_tensor(update.contiguous(), parameter.device_mesh, parameter.placements)
        parameter.mul_(1 - lr * weight_decay)
        scale = 0.2 * max(whole.shape[0], whole[0].numel()) ** 0.5
        if isinstance(lr, Tensor):  # of a captured step
            parameter.sub_(update * (lr * scale))
        else:
            parameter.add_(update, alpha=-lr * scale)
