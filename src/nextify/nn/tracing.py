"""Whether a graph is being made that has to run without nextify."""

import torch


def for_elsewhere() -> bool:
    """True while torch exports (``torch.export``) or traces (ONNX's older way): such graphs hold torch's operators."""
    return torch._C._get_tracing_state() is not None or torch.compiler.is_exporting()
