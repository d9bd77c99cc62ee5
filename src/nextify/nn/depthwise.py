"""Depthwise convolution on ``(N, H, W, C)`` (the plain torch route)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """``(N, H, W, C)`` with ``weight (C, 1, K, K)`` to ``(N, H', W', C)``, padding K // 2."""
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, weight.shape[-1] // 2, 1, weight.shape[0])
    return y.permute(0, 2, 3, 1)
