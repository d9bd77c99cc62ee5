"""Our own operators as torch's dispatcher sees them.

`torch.library.custom_op` wraps an operator in checks for autograd and aliases that cost more than the call itself. An
operator registered here must be called where no gradients are recorded, and must return new tensors; for a batch of one
that saves a percent of a network's time.
"""

from collections.abc import Callable
from typing import Any

import torch

_library = torch.library.Library("nextify", "FRAGMENT")  # type: ignore[no-untyped-call]


def operator(name: str, function: Callable[..., Any]) -> Any:
    """Register `function` as `torch.ops.nextify.<name>` for every device.

    Its argument types are the schema. What it returns for tensors without memory must be registered with
    `torch.library.register_fake`.
    """
    _library.define(name + torch.library.infer_schema(function, mutates_args=()))  # type: ignore[no-untyped-call]
    _library.impl(name, function, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    return getattr(torch.ops.nextify, name)


def seen_as_operators() -> bool:
    """Whether operators must be called as such: a compiler, or a mode such as a counter of operations, looks."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
