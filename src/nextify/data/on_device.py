"""Augmentation of a batch on the device: normalization, light, random erasing, mixing and label smoothing.

As in the ConvNeXt training (timm), erasing precedes mixing; a change of the light precedes both. All draws are
functions of (seed, step), and those of the whole batch where several processes share it. Rectangles, mixing and light
are the same on every device; the noise in erased pixels is not.

Targets are soft ``(B, K)`` with label smoothing or mixing, and class indices ``(B,)`` with neither; cross entropy must
not smooth again. Several labels per image, ``(B, K)`` of 0 and 1, are mixed in the images' shares, and smoothing by s
makes 1 - s/2 of a 1 and s/2 of a 0 (Szegedy et al. 2016, K = 2). timm's Mixup pairs image i with image B-1-i and needs
an even batch; the last image of an odd one is not mixed, but its label is smoothed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nextify.data.decode import Pixels
from nextify.data.preprocessing import normalized
from nextify.data.randomness import DEVICE, LIGHT, seeded, words
from nextify.data.share import Rows, Share
from nextify.paper.recipe import Mixing, Recipe

PerChannel = tuple[float, ...]
Write = Callable[[int, tuple[slice, ...], Tensor], None]

NOISE_ROWS = 64
"""Number of rows whose noise is drawn in one launch on an accelerator."""


def finish(
    pixels: Tensor | Pixels,
    labels: Tensor | np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    recipe: Recipe,
    num_classes: int,
    step: int,
    seed: int,
    device: torch.device | str,
    mean: PerChannel,
    std: PerChannel,
    train: bool = True,
    share: Share | None = None,
) -> tuple[Tensor, Tensor]:
    """Prepare a batch for the network and the loss.

    Args:
        pixels: uint8 ``(B, S, S, 3)``, or float32 ``(B, S, S, N)`` of N channels.
        labels: int64 ``(B,)``, or ``(B, K)`` of 0 and 1.
        mean, std: per channel; of uint8, for pixels from 0 to 1.
        train: False normalizes the images only and returns the labels unchanged.
        share: the rows of the whole batch that these images are; None for a whole batch.

    Returns:
        float32 images ``(B, 3, S, S)`` in channels-last memory, and targets as the top of the file describes.
    """
    device = torch.device(device)
    x = normalized(torch.as_tensor(pixels), device, mean, std)
    y = torch.as_tensor(labels).to(device, non_blocking=True)
    if not train:
        return x, y
    if y.ndim == 2:
        y = y.float() * (1 - recipe.label_smoothing) + recipe.label_smoothing / 2
    mixing = recipe.mixing if recipe.mixing != "off" and recipe.mixing.probability > 0 else None
    if recipe.light != "off" and recipe.rand_augment == "off":
        change_light(x, recipe.light, step, seed, std, share)
    if recipe.random_erasing or mixing:
        with seeded(seed, step, DEVICE) as further:
            if recipe.random_erasing:
                erase(x, recipe.random_erasing, further, share)
            if mixing:
                return mixed(x, y, mixing, recipe.label_smoothing, num_classes)
    if recipe.label_smoothing and y.ndim == 1:
        from timm.data.mixup import mixup_target

        y = mixup_target(y, num_classes, smoothing=recipe.label_smoothing)
    return x, y


def change_light(x: Tensor, strength: float, step: int, seed: int, std: PerChannel, share: Share | None = None) -> None:
    """Multiply each normalized image, whose zero is the mean colour, by a number and add another, in place.

    These are draws of their own: erasing and mixing are the same with and without them. The multiplier is within 1 ±
    ``strength``, the shift within ± half of this of the pixels' range."""
    batch, rows = (len(x), slice(None)) if share is None else (share.batch, share.rows)
    # RandomState, since NumPy guarantees its numbers across versions, unlike Generator's.
    drawn = np.random.RandomState(words(seed, step, LIGHT)).uniform(-strength, strength, (2, batch))[:, rows]
    factor, shift = torch.from_numpy(drawn.astype(np.float32)).to(x.device)[:, :, None, None, None]
    x.mul_(1 + factor).add_(shift / (2 * float(np.mean(std))))  # (B, 1, 1, 1) each


def erase(x: Tensor, probability: float, seed: int, share: Share | None = None) -> None:
    """timm's random erasing with noise per pixel (mode ``pixel``), in place.

    timm draws the rectangles of the whole batch; those of other processes' rows are discarded. On a CPU timm also draws
    the noise. On an accelerator, all images are erased in a few launches instead of three per image.
    """
    from timm.data.random_erasing import RandomErasing

    batch = len(x) if share is None else share.batch
    rows = np.arange(batch) if share is None else share.rows
    place = {row: i for i, row in enumerate(rows.tolist())}
    on_cpu = x.device.type == "cpu"
    kept = torch.ones((0 if on_cpu else len(x), *x.shape[1:]), dtype=torch.bool)

    def write(row: int, rectangle: tuple[slice, ...], pixels: Tensor) -> None:
        if row in place:
            (x if on_cpu else kept)[place[row]][rectangle] = pixels

    erasing = RandomErasing(probability, mode="pixel" if on_cpu else "const", device="cpu")
    erasing(_WholeBatch((batch, *x.shape[1:]), x.dtype, write))
    if not on_cpu:
        x.copy_(torch.where(kept[:, :1].to(x.device, non_blocking=True), x, _noise(x, seed, rows)))


class _WholeBatch:
    """Stands in for a batch, or one of its rows, while timm erases, and passes each write on."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, write: Write, row: int = -1) -> None:
        self.shape, self.dtype, self.write, self.row = shape, dtype, write, row

    def size(self) -> tuple[int, ...]:
        return self.shape

    def __getitem__(self, row: int) -> _WholeBatch:
        return _WholeBatch(self.shape, self.dtype, self.write, row)

    def __setitem__(self, rectangle: tuple[slice, ...], pixels: Tensor) -> None:
        self.write(self.row, rectangle, pixels)


def _noise(x: Tensor, seed: int, rows: Rows) -> Tensor:
    """Normal noise of the shape of ``x (N, C, H, W)``, a function of the seed and each row's place in the batch."""
    out = torch.empty_like(x)
    generator = torch.Generator(x.device)
    ends = np.flatnonzero((np.diff(rows) != 1) | (rows[1:] % NOISE_ROWS == 0)) + 1
    for at, run in zip([0, *ends.tolist()], np.split(rows, ends), strict=True):
        block, first = divmod(int(run[0]), NOISE_ROWS)
        drawn = torch.empty((NOISE_ROWS, *x.shape[1:]), device=x.device)
        drawn.normal_(generator=generator.manual_seed(seed + block))
        out[at : at + len(run)] = drawn[first : first + len(run)]
    return out


def mixed(x: Tensor, labels: Tensor, mixing: Mixing, smoothing: float, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mix ``x`` in place by timm's Mixup and CutMix, except the last image of an odd batch; with soft targets.

    Labels ``(B, K)`` are smoothed already. timm knows class indices only, so each image is a class of its own, whose
    soft targets are the images' shares.
    """
    if labels.ndim == 2:
        x, shares = mixed(x, torch.arange(len(x), device=x.device), mixing, 0.0, len(x))
        return x, shares @ labels
    from timm.data.mixup import Mixup, mixup_target

    mixup = Mixup(
        mixup_alpha=0.0 if mixing.mixup == "off" else mixing.mixup,
        cutmix_alpha=0.0 if mixing.cutmix == "off" else mixing.cutmix,
        prob=mixing.probability,
        switch_prob=0.5,
        mode="batch",
        label_smoothing=smoothing,
        num_classes=num_classes,
    )
    even = len(x) - len(x) % 2
    targets = mixup_target(labels, num_classes, smoothing=smoothing)
    if even:
        targets[:even] = mixup(x[:even], labels[:even])[1]
    return x, targets
