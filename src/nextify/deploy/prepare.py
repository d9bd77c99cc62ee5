"""Preprocessing as a torch module that every exporter can take along: uint8 pixels of any size to a network's input.

Pillow's antialiased resize is two products with matrices of weights, one per axis, each rounded to 8 bits; so it is
here, with operators that every format has. Positions are whole numbers until the filter is evaluated, because runtimes
that compute in float32 would misplace them. Pillow rounds its weights to 22 bits, so where a pixel lies halfway between
two levels it may become the other one.

Source: Pillow's ``src/libImaging/Resample.c``; which axis comes first was found by trying Pillow 13.0.0.
"""

import math

import torch
from torch import Tensor, nn

from nextify.data.preprocessing import Interpolation, Preprocessing, PreprocessingError


class Prepare(nn.Module):
    """``(N, H, W, 3)`` uint8 RGB to normalized float32 ``(N, C, height, width)``, as ``Preprocessing`` prepares it.
    Raises ``PreprocessingError`` where the settings do not antialias, or take the nearest pixel."""

    def __init__(self, settings: Preprocessing) -> None:
        super().__init__()
        if not settings.antialias or settings.interpolation == "nearest":
            raise PreprocessingError("images resized without antialiasing cannot be prepared in the exported file")
        self.settings = settings
        m, s = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (settings.mean, settings.std))
        self.scale, self.shift = nn.Buffer((1 / (255 * s)).float()), nn.Buffer((-m / s).float())

    def forward(self, pixels: Tensor) -> Tensor:
        height, width = (torch.full((1,), side, dtype=torch.int64) for side in pixels.shape[1:3])
        short = torch.minimum(height, width)
        x = pixels.permute(0, 3, 1, 2)
        if self.settings.channels == 1:
            red, green, blue = x.to(torch.int32).unbind(1)
            gray = red * 19595 + green * 38470 + blue * 7471 + 0x8000
            x = torch.div(gray, 0x10000, rounding_mode="floor")[:, None]  # OpenVINO knows no shift
        x = x.float()
        across, narrower = self._weights(x.shape[3], width, short, self.settings.size[1])
        down, lower = self._weights(x.shape[2], height, short, self.settings.size[0])
        # (N, C, height, width), by rows or by columns first
        rows, columns = _eight_bit(down @ _eight_bit(x @ across.T)), _eight_bit(_eight_bit(down @ x) @ across.T)
        x = torch.where((lower > 0) & (lower > 2 * narrower), columns, rows)
        return x * self.scale + self.shift

    def _weights(self, count: int, length: Tensor, short: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """How much each pixel of one axis contributes to each of the input's, ``(size, length)``; and by how many
        pixels the axis shrinks. Its pixels are given as a number, ``count``, and as a tensor of one element,
        ``length``; ``short`` are those of the image's shorter side."""
        settings = self.settings
        at = torch.arange(size)[:, None]
        if settings.fit == "squash":
            resized = torch.full((1,), size, dtype=torch.int64)
        else:
            resized = torch.div(settings.resize_size * length, short, rounding_mode="floor")
            extra = resized - size
            half = torch.div(extra.abs(), 2, rounding_mode="floor")
            even = half + (extra.abs() % 2) * (half % 2)  # Python rounds half a pixel to even
            at = at + torch.where(extra >= 0, even, -half)
        coarser = torch.maximum(length, resized)
        distance = (2 * torch.arange(count) + 1) * resized - (2 * at + 1) * length
        inside = (at >= 0) & (at < resized)  # elsewhere a crop that is larger than the image is black
        weights = _filter(distance.float() / (2 * coarser).float(), settings.interpolation)
        weights = weights / torch.where(inside, weights.sum(1, keepdim=True), 1.0)
        return torch.where(inside, weights, 0.0), length - resized


def _eight_bit(x: Tensor) -> Tensor:
    return (x + 0.5).floor().clamp(0, 255)


def _filter(x: Tensor, kind: Interpolation) -> Tensor:
    """Pillow's filter at distances in pixels of the coarser image."""
    x = x.abs()
    if kind == "bilinear":
        return (1 - x).clamp(min=0)
    if kind == "lanczos":
        near = x.clamp(min=1e-6) * math.pi
        return torch.where(x < 3, torch.sin(near) / near * torch.sin(near / 3) / (near / 3), 0.0)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, inner, torch.where(x < 2, outer, 0.0))
