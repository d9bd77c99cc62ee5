"""Whether a graph is being made, and for what."""

import torch


def for_elsewhere() -> bool:
    """True while torch exports (``torch.export``) or traces (ONNX's older way), and inside of ``torch.func``'s
    transforms: such graphs hold torch's operators, and so do functions that are taken apart."""
    if torch._C._get_tracing_state() is not None or torch.compiler.is_exporting():
        return True
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def for_inference() -> bool:
    """True while `torch.compile` traces for inference: what is elementwise is fused then, and written in place."""
    return torch.compiler.is_compiling() and not torch.is_grad_enabled() and not for_elsewhere()


def seen_as_operators() -> bool:
    """Whether an operator must be called as one: a compiler, or a mode such as a counter of operations, looks at it."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
