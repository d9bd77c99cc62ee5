"""One training on several processes: gradients and statistics of the whole batch, weights in every process or in parts.

- ``ddp`` (``DistributedDataParallel``): every process holds the network, and gradients are averaged in each step.
- ``fsdp`` (``fully_shard``, FSDP2): weights, gradients, optimizer state and average are cut in parts, one a process,
  and put together a block at a time; for what does not fit one device.

Averaged gradients are those of the mean over the whole batch because each process scales its loss by its share.
Batch norm takes its statistics over all processes. Dropped paths are drawn for the whole batch by each of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from nextify.networks.layers import BatchNorm, DropPath, to_nchw, to_nhwc
from nextify.networks.network import Block
from nextify.system import processes

Kind = Literal["ddp", "fsdp"]
Forward = Callable[[Tensor], Tensor]


# -- the network ---------------------------------------------------------------------------------------------------


def data_parallel(model: nn.Module) -> nn.Module:
    """The network, with gradients averaged over the processes as they arise."""
    return nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)


def cut_in_parts(model: nn.Module, device: torch.device) -> None:
    """FSDP2, in place: a unit for each block and one for the rest. The parts go to ``device``."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # FSDP2 takes no channels-last weights
    mesh = init_device_mesh(device.type, (processes.count(),))
    for module in list(model.modules()):
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh)
    # Not kept whole after a forward pass, which an evaluation ends with: averaging and saving want parts.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def gradients_wait(forward: Forward, last: bool) -> AbstractContextManager[None]:
    """Around the parts of an accumulated batch: gradients are exchanged with the ``last`` one only (``ddp``)."""
    if isinstance(forward, nn.parallel.DistributedDataParallel) and not last:
        return forward.no_sync()
    return nullcontext()


def drops_for(model: nn.Module, rows: Tensor | None, batch: int) -> None:
    """Tell the network that it computes ``rows`` of a batch, so that it drops the paths that the whole batch would.

    ``None`` tells it that it computes the whole batch again.
    """
    for module in model.modules():
        if isinstance(module, DropPath):
            module.part = None if rows is None else (rows, batch)


# -- batch norm ----------------------------------------------------------------------------------------------------


def synchronized(model: nn.Module, device: torch.device) -> None:
    """Replace each batch norm, in place, by one with the statistics of all processes."""
    kind = SynchronizedOnCpu if device.type == "cpu" else SynchronizedOnAccelerator
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, BatchNorm):
                made = kind(child.num_features, child.eps, child.momentum)
                made.weight, made.bias = child.weight, child.bias
                made.load_state_dict(child.state_dict())
                setattr(parent, name, made)


class SynchronizedOnAccelerator(nn.SyncBatchNorm):
    """torch's, over the last axis of ``(N, H, W, C)`` or ``(N, C)``."""

    undecayed = BatchNorm.undecayed

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.ndim == 2 else to_nhwc(super().forward(to_nchw(x)))


class SynchronizedOnCpu(BatchNorm):
    """Where torch has none: the mean, then the mean square around it, over all processes."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.float().flatten(0, -2)  # (M, C)
        count = float(processes.summed(torch.tensor(float(len(values)))))
        mean = _Summed.apply(values.sum(0)) / count
        centred = values - mean
        variance = _Summed.apply(centred.square().sum(0)) / count
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        with torch.no_grad():
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scaled = centred * (variance + self.eps).rsqrt() * self.weight + self.bias
        result: Tensor = scaled.to(x.dtype).view_as(x)
        return result


class _Summed(torch.autograd.Function):
    """The sum over all processes; so is its gradient, as each of them depends on it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


# -- state ---------------------------------------------------------------------------------------------------------


def whole(state: Any) -> Any:
    """Nested state with every tensor that is cut in parts put together, as a single process would have it; every
    process must call this."""
    if isinstance(state, DTensor):
        return state.full_tensor()
    if isinstance(state, Mapping):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, list):
        return [whole(value) for value in state]
    return state


def load_into(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Whole weights into a network that may be cut in parts."""
    own = model.state_dict()
    model.load_state_dict({name: _as(value, own.get(name)) for name, value in state.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """A copy of a whole state into an optimizer whose parameters may be cut in parts."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    values = {
        number: {key: _laid_out_as(_as(value, parameters[number]), parameters[number]) for key, value in of_one.items()}
        for number, of_one in state["state"].items()
    }
    # torch would keep counters such as AdamW's step, and count on in the caller's.
    optimizer.load_state_dict(copy.deepcopy({**state, "state": values}))


def _laid_out_as(value: Any, parameter: Tensor) -> Any:
    """In the parameter's order in memory, by which fused optimizers pair the two; parts came out of theirs."""
    if isinstance(value, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _as(value: Any, other: Tensor | None) -> Any:
    if isinstance(other, DTensor) and isinstance(value, Tensor) and value.shape == other.shape:
        return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)
    return value
