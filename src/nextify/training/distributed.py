"""One training on several processes, equal to training on the whole batch in one.

- ``ddp`` (``DistributedDataParallel``): every process holds the network; gradients are averaged in each step.
- ``fsdp`` (``fully_shard``, FSDP2): weights, gradients, optimizer state and average are sharded over the processes and
  gathered one block at a time, for networks that do not fit one device.

Each process scales its loss by its share of the batch, so the averaged gradients are those of the whole batch's mean.
Batch norm takes its statistics over all processes, and so are the cells, regions or pixels counted that the losses of
dense networks are means over. Every process draws the dropped paths and channels and the regions of the whole batch.
"""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from nextify.networks.dense.shares import DropChannels, Head
from nextify.networks.layers import BatchNorm, DropPath, to_nchw, to_nhwc
from nextify.networks.network import Block
from nextify.system import processes

Forward = Callable[[Tensor], Tensor]


class OptimizerState(TypedDict):
    """What ``torch.optim.Optimizer.state_dict`` returns."""

    state: dict[int, dict[str, Any]]
    """Buffers and counters of each parameter, by its number."""
    param_groups: list[dict[str, Any]]
    """Hyperparameters of each group, and the numbers of its parameters."""


# -- the network ---------------------------------------------------------------------------------------------------


def cut_in_parts(model: nn.Module, device: torch.device) -> None:
    """Shard the network by FSDP2, in place: one unit per block and one for the rest, on ``device``."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # FSDP2 rejects channels-last weights
    mesh = init_device_mesh(device.type, (processes.count(),))
    for module in list(model.modules()):
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh)
    # Resharded after every forward pass, since averaging and saving after an evaluation expect shards.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def gradients_wait(forward: Forward, last: bool) -> AbstractContextManager[None]:
    """Context for one part of an accumulated batch: with ``ddp``, only the ``last`` part exchanges gradients."""
    if isinstance(forward, nn.parallel.DistributedDataParallel) and not last:
        return forward.no_sync()
    return nullcontext()


def drops_for(model: nn.Module, rows: Tensor | None, batch: int) -> None:
    """Make the network drop the paths that a whole batch would while it computes only ``rows (M,)`` of it; likewise for
    the channels and regions that dense heads draw.

    ``None`` restores the computation of whole batches.
    """
    for module in model.modules():
        if isinstance(module, DropPath | DropChannels | Head):
            module.part = None if rows is None else (rows, batch)


# -- batch norm ----------------------------------------------------------------------------------------------------


def synchronized(model: nn.Module, device: torch.device) -> None:
    """Replace each batch norm, in place, by one that normalizes with the statistics of all processes, and have dense
    heads count over all of them."""
    kind = SynchronizedOnCpu if device.type == "cpu" else SynchronizedOnAccelerator
    for parent in list(model.modules()):
        if isinstance(parent, Head):
            parent.over_processes = processes.summed
        for name, child in parent.named_children():
            if isinstance(child, BatchNorm):
                made = kind(child.num_features, child.eps, child.momentum)
                made.weight, made.bias = child.weight, child.bias
                made.load_state_dict(child.state_dict())
                setattr(parent, name, made)


class SynchronizedOnAccelerator(nn.SyncBatchNorm):
    """torch's ``SyncBatchNorm`` over the last axis of ``(N, H, W, C)`` or ``(N, C)``."""

    undecayed = BatchNorm.undecayed

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.ndim == 2 else to_nhwc(super().forward(to_nchw(x)))


class SynchronizedOnCpu(BatchNorm):
    """Synchronized batch norm for CPUs, where torch has none: mean, then variance around it, over all processes."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        images = x[:, :, None, None] if x.ndim == 2 else to_nchw(x)
        result, mean, variance, count = _Normalized.apply(images, self.weight, self.bias, self.eps)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        with torch.no_grad():
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        return result.flatten(1) if x.ndim == 2 else to_nhwc(result)


class _Normalized(torch.autograd.Function):
    """Batch norm of ``(N, C, H, W)`` by the mean and variance over all processes, which it returns with the number of
    values of a channel. The loops over pixels are torch's own, which take bfloat16 as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        own = torch.tensor(float(x.numel() // x.shape[1]))
        own_mean, own_variance = torch.batch_norm_update_stats(x.float(), None, None, 0.0)
        sums = processes.summed(torch.cat([own * own_mean, own[None]]))
        count, mean = sums[-1], sums[:-1] / sums[-1]
        variance = processes.summed(own * (own_variance + (own_mean - mean).square())) / count
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        fixed = (weight, mean, variance, None, None, False, ctx.eps, [True] * 3)  # as if mean and variance were given
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(gradient.to(x.dtype), x, *fixed)
        sums = processes.summed(torch.stack([of_weight, of_bias])) / count
        scale = (variance + ctx.eps).rsqrt()
        slope = -weight * scale.square() * sums[0]
        level = -weight * scale * sums[1] - slope * mean
        further = torch.addcmul(level[:, None, None], x.float(), slope[:, None, None])
        return (of_x.float() + further).to(x.dtype), of_weight, of_bias, None


# -- state ---------------------------------------------------------------------------------------------------------


def whole(state: Any) -> Any:
    """Gather the sharded tensors of a nested state, as one process would hold it; every process must call this."""
    if isinstance(state, DTensor):
        return state.full_tensor()
    if isinstance(state, Mapping):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, list):
        return [whole(value) for value in state]
    return state


def load_into(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load unsharded weights into a network that may be sharded."""
    own = model.state_dict()
    model.load_state_dict({name: _as(value, own.get(name)) for name, value in state.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: OptimizerState) -> None:
    """Load a copy of an unsharded state into an optimizer whose parameters may be sharded."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    values = {
        number: {key: _laid_out_as(_as(value, parameters[number]), parameters[number]) for key, value in of_one.items()}
        for number, of_one in state["state"].items()
    }
    # A deep copy, since torch keeps counters such as AdamW's step and would advance the caller's.
    optimizer.load_state_dict(copy.deepcopy({**state, "state": values}))


def _laid_out_as(value: Any, parameter: Tensor) -> Any:
    """Match the parameter's strides, as fused optimizers require."""
    if isinstance(value, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _as(value: Any, other: Tensor | None) -> Any:
    if isinstance(other, DTensor) and isinstance(value, Tensor) and value.shape == other.shape:
        return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)
    return value
