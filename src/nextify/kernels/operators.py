"""How a kernel of ours comes to be called: compiled and checked libraries, and operators for torch's dispatcher."""

import ctypes
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from nextify.system import native

Function = TypeVar("Function", bound=Callable[..., bool])

_operators = torch.library.Library("nextify", "FRAGMENT")  # type: ignore[no-untyped-call]


def asked_once(function: Function) -> Function:
    """Let a compiled graph call the function once, when it is traced: ``torch.compiler.assume_constant_result`` without
    its import of the compiler, which takes longer than that of torch."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def compiled(
    name: str, source: Path, check: Callable[[ctypes.CDLL], None], flags: tuple[str, ...] = ()
) -> tuple[Callable[[], Any], Callable[[], bool]]:
    """Two functions for a C++ library, as `native.Library` has it: one returns it, one says whether it can be used.

    Whichever is called first builds it. A compiled graph asks the second once, when it is traced.
    """

    build = native.Library(name, source, check, flags).build

    def library() -> Any:
        return build().library

    def ready() -> bool:
        return build().usable

    return library, asked_once(ready)


def check_numbers(pairs: Sequence[tuple[Any, Any]], rtol: float, atol: float, code: int = 0) -> None:
    """Raise RuntimeError unless a kernel returned 0 and each of its arrays is close to NumPy's."""
    if code or not all(np.allclose(got, expected, rtol=rtol, atol=atol) for got, expected in pairs):
        raise RuntimeError("the compiled kernel does not agree with NumPy")


def pointers(*tensors: Tensor | None) -> list[int | None]:
    """The addresses of tensors, None for those that are absent."""
    return [None if t is None else t.data_ptr() for t in tensors]


def failed(kernel: str, code: int) -> RuntimeError:
    return RuntimeError(f"the {kernel} kernel failed with code {code}; --kernels off goes without it")


def operator(name: str, function: Callable[..., Any], schema: str | None = None) -> Any:
    """Register `function` as `torch.ops.nextify.<name>` for every device; its argument types are the default schema.

    `torch.library.custom_op` would wrap it in checks for autograd and aliases that cost more than the call itself. An
    operator registered here must be called where no gradients are recorded, and must return new tensors; for a batch of
    one that saves a percent of a network's time. What it returns for tensors without memory must be registered with
    `torch.library.register_fake`.
    """
    schema = schema or torch.library.infer_schema(function, mutates_args=())
    _operators.define(name + schema)  # type: ignore[no-untyped-call]
    _operators.impl(name, function, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    return getattr(torch.ops.nextify, name)


class _Counter:
    """Registers formulas with ``torch.utils.flop_counter`` once somebody imports it. Importing it here would import
    Triton, which a prediction on a CPU does not need."""

    name = "torch.utils.flop_counter"

    def __init__(self) -> None:
        self.formulas: list[tuple[Any, Callable[..., int]]] = []

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for packet, formula in self.formulas:
                module.register_flop_formula(packet)(formula)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_counter = _Counter()
if _Counter.name not in sys.modules:
    sys.meta_path.insert(0, _counter)


def flop_formula(packet: Any) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """``register_flop_formula`` of ``torch.utils.flop_counter``, at the latest when that is imported."""

    def register(formula: Callable[..., int]) -> Callable[..., int]:
        if (module := sys.modules.get(_Counter.name)) is not None:
            module.register_flop_formula(packet)(formula)
        _counter.formulas.append((packet, formula))
        return formula

    return register


def seen_as_operators() -> bool:
    """Whether operators must be called as such: a compiler, or a mode such as a counter of operations, looks."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
