"""What the tests of compiled kernels share."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from nextify.system import native as compiled

needs_kernels = pytest.mark.skipif(compiled._compiler() is None, reason="no C++ compiler here")
DTYPES = [torch.float32, torch.bfloat16]


def recorder(nodes: list[torch.fx.Node]) -> Callable[[torch.fx.GraphModule, list[torch.Tensor]], object]:
    """A backend of `torch.compile` that notes a graph's nodes and runs them as they are."""

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        nodes.extend(graph.graph.nodes)
        return graph.forward

    return backend


def noting_blocks(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The channels of every block that the module's ``run`` takes from now on, in turn."""
    seen: list[int] = []
    real = module.run

    def run(x: torch.Tensor, *others: Any) -> torch.Tensor:
        seen.append(x.shape[-1])
        y: torch.Tensor = real(x, *others)
        return y

    monkeypatch.setattr(module, "run", run)
    return seen
