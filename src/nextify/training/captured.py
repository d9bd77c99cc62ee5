"""A step's forward pass, backward pass and update as one CUDA graph.

The step of a small network is hundreds of short kernels, which a processor launches more slowly than the device runs
them; a graph is launched as a whole. Its inputs and learning rates are static tensors that are filled before each
launch. A graph takes the seed of its draws from the device's generator when it is launched, so that the dropped paths
stay a function of (seed, step).

Source: torch's documentation, CUDA semantics, CUDA graphs.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

EAGER_STEPS = 3
"""Steps before the capture, in which optimizers allocate their state and kernels are chosen."""

Update = Callable[[Tensor, Tensor], Tensor]
"""Inputs and targets of a batch to its loss, the network being updated."""
Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""A function to one that does the same on the same tensors again, and the tensor that each call fills."""


def cuda_graph(function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Capture ``function``, which is not executed. Raises RuntimeError where it waits for the device."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        filled = function()
    return graph.replay, filled


class CapturedUpdate:
    """``update``, captured at the fourth call and launched from then on; eager for good where that fails."""

    def __init__(self, update: Update, optimizers: Sequence[Optimizer], record: Record = cuda_graph) -> None:
        """``optimizers``: whose learning rates are set before each call."""
        self.update, self.record = update, record
        self.groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self.eager_steps = EAGER_STEPS
        self.launch: Callable[[], None] | None = None
        self.failure = ""
        """Why the step could not be captured."""

    def __call__(self, x: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, whose shape and type are always the same."""
        if self.launch is None and self.eager_steps:
            self.eager_steps -= 1
            with _aside(x.device):
                return self.update(x, targets)
        if self.launch is None and not self.failure:
            self._capture(x, targets)
        if self.launch is None:
            return self.update(x, targets)
        self.x.copy_(x)
        self.targets.copy_(targets)
        self.rates.copy_(torch.tensor([group["lr"] for group in self.groups]))
        self.launch()
        return self.loss.clone()  # which the next launch fills anew

    def _capture(self, x: Tensor, targets: Tensor) -> None:
        self.x, self.targets = x.clone(), targets.clone()
        self.rates = torch.zeros(len(self.groups), device=x.device)
        try:
            with self.static():
                self.launch, self.loss = self.record(lambda: self.update(self.x, self.targets))
        except RuntimeError as error:
            self.failure = str(error).partition("\n")[0]
            warnings.warn(
                f"the training step could not be captured as a CUDA graph and runs kernel by kernel: {self.failure}",
                stacklevel=3,
            )

    @contextmanager
    def static(self) -> Iterator[None]:
        """The optimizers read their rates from tensors."""
        named: tuple[str, ...] = ("lr", "capturable")
        before = [{name: group[name] for name in named if name in group} for group in self.groups]
        for group, rate in zip(self.groups, self.rates, strict=True):
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = True
        try:
            yield
        finally:
            for group, values in zip(self.groups, before, strict=True):
                group |= values


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """A stream of its own, as steps before a capture need."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)
