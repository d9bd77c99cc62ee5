"""Operators of our own that torch's dispatcher calls at once.

`torch.library.custom_op` wraps an operator in checks for autograd and aliases, which cost more than its call. What is
registered here is called where gradients are not recorded, and returns new tensors; with a batch of one that is a
percent of a network's time.
"""

from collections.abc import Callable
from typing import Any

import torch

_library = torch.library.Library("nextify", "FRAGMENT")  # type: ignore[no-untyped-call]


def operator(name: str, function: Callable[..., Any]) -> Any:
    """`torch.ops.nextify.<name>`, which calls `function` on any device. Its argument types are the schema; what it
    gives for tensors without memory is registered with `torch.library.register_fake`."""
    _library.define(name + torch.library.infer_schema(function, mutates_args=()))  # type: ignore[no-untyped-call]
    _library.impl(name, function, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    return getattr(torch.ops.nextify, name)
