"""What happens to a batch on the device: normalization, random erasing, mixing, smoothing.

Order as in the ConvNeXt training (timm): erase, then mix. All draws are a function of (seed, step); the rectangles and
the mixing are the same on every device, the erased pixels' noise is each device's own.

Targets: soft ``(B, K)`` where labels are smoothed or batches mixed, with the smoothing in them, and class indices
``(B,)`` where neither is on. Either goes into a plain cross entropy, which must not smooth again.

timm's Mixup pairs image i with image B-1-i and needs an even batch. Of an odd batch the last image is left as it is;
its target is smoothed like the others.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from timm.data.mixup import Mixup, mixup_target
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from nextify.data.decode import Pixels
from nextify.data.randomness import DEVICE, seeded
from nextify.recipe import Recipe

Triple = tuple[float, float, float]


def finish(
    pixels: Tensor | Pixels,
    labels: Tensor | np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    recipe: Recipe,
    num_classes: int,
    step: int,
    seed: int,
    device: torch.device | str,
    mean: Triple,
    std: Triple,
    train: bool = True,
) -> tuple[Tensor, Tensor]:
    """A batch as the network and the loss take it.

    Args:
        pixels: uint8 ``(B, S, S, 3)``.
        labels: int64 ``(B,)``.
        mean, std: of the channels, where pixels run from 0 to 1.
        train: False normalizes only, and gives the labels as they are.

    Returns:
        float32 ``(B, 3, S, S)`` in channels-last memory, and targets: see the top of the file.
    """
    device = torch.device(device)
    x = normalized(torch.as_tensor(pixels), device, mean, std)
    y = torch.as_tensor(labels).to(device, non_blocking=True)
    if not train:
        return x, y
    mixing = (recipe.mixup != "off" or recipe.cutmix != "off") and recipe.mixing_probability > 0
    if recipe.random_erasing or mixing:
        with seeded(seed, step, DEVICE) as further:
            if recipe.random_erasing:
                erase(x, recipe.random_erasing, further)
            if mixing:
                return mixed(x, y, recipe, num_classes)
    if recipe.label_smoothing:
        y = mixup_target(y, num_classes, smoothing=recipe.label_smoothing)
    return x, y


def normalized(pixels: Tensor, device: torch.device, mean: Triple, std: Triple) -> Tensor:
    """float32 ``(B, 3, S, S)`` in channels-last memory of uint8 ``(B, S, S, 3)``."""
    batch, height, width, channels = pixels.shape
    scale, shift = _scale_and_shift(mean, std, width, device)
    x = pixels.to(device, non_blocking=True).to(torch.float32)
    # By rows of the image, since arithmetic on a last axis of three is slow.
    x.view(batch, height, width * channels).mul_(scale).add_(shift)
    return x.permute(0, 3, 1, 2)


@lru_cache(maxsize=16)
def _scale_and_shift(mean: Triple, std: Triple, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    m, s = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    return tuple(v.float().repeat(width).to(device) for v in (1 / (255 * s), -m / s))  # type: ignore[return-value]


def erase(x: Tensor, probability: float, seed: int) -> None:
    """timm's random erasing with noise for each pixel (mode ``pixel``), in place."""
    if x.device.type == "cpu":
        RandomErasing(probability, mode="pixel", device="cpu")(x)
        return
    # On an accelerator a few launches for the whole batch, instead of three for each erased image: timm draws
    # the rectangles on a mask, by the same draws.
    kept = torch.ones((len(x), 1, *x.shape[2:]))
    RandomErasing(probability, mode="const", device="cpu")(kept)
    generator = torch.Generator(x.device).manual_seed(seed)
    noise = torch.empty_like(x).normal_(generator=generator)
    x.copy_(torch.where(kept.to(x.device, torch.bool, non_blocking=True), x, noise))


def mixed(x: Tensor, labels: Tensor, recipe: Recipe, num_classes: int) -> tuple[Tensor, Tensor]:
    """timm's Mixup and CutMix, in place, and the soft targets; of an odd batch all but the last image."""
    mixup = Mixup(
        mixup_alpha=0.0 if recipe.mixup == "off" else recipe.mixup,
        cutmix_alpha=0.0 if recipe.cutmix == "off" else recipe.cutmix,
        prob=recipe.mixing_probability,
        switch_prob=0.5,
        mode="batch",
        label_smoothing=recipe.label_smoothing,
        num_classes=num_classes,
    )
    even = len(x) - len(x) % 2
    targets = mixup_target(labels, num_classes, smoothing=recipe.label_smoothing)
    if even:
        targets[:even] = mixup(x[:even], labels[:even])[1]
    return x, targets
