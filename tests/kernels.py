"""What the tests of compiled kernels share."""

from collections.abc import Callable

import pytest
import torch

from nextify import compiled

needs_kernels = pytest.mark.skipif(compiled._compiler() is None, reason="no C++ compiler here")
DTYPES = [torch.float32, torch.bfloat16]


def recorder(nodes: list[torch.fx.Node]) -> Callable[[torch.fx.GraphModule, list[torch.Tensor]], object]:
    """A backend of `torch.compile` that notes a graph's nodes and runs them as they are."""

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        nodes.extend(graph.graph.nodes)
        return graph.forward

    return backend
