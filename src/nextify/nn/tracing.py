"""Whether a graph is being made, and for what."""

import torch


def for_elsewhere() -> bool:
    """True while torch exports (``torch.export``) or traces (ONNX's older way): such graphs hold torch's operators."""
    return torch._C._get_tracing_state() is not None or torch.compiler.is_exporting()


def for_inference() -> bool:
    """True while `torch.compile` traces for inference: what is elementwise is fused then, and written in place."""
    return torch.compiler.is_compiling() and not torch.is_grad_enabled() and not for_elsewhere()
