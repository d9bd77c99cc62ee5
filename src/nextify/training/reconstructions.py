"""A picture of what a masked autoencoder restores: each image, what is visible of it, and what it makes of that."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextify.data.images import Images
from nextify.evaluation.pictures import INK, cut, figure, png
from nextify.networks.masked.network import MaskedAutoencoder
from nextify.system.files import write_bytes_atomic
from nextify.tasks.detection import in_evaluation
from nextify.training.learned import batches_to_test
from nextify.training.records import to_stderr
from nextify.training.trainer import Trainer

IMAGES = 6
RECONSTRUCTIONS = "reconstructions"
PICTURES = 10
"""Of a training, evenly spaced; the last is of the final weights."""


def keep_reconstructions(trainer: Trainer, folder: Path, title: str) -> None:
    """Write ``reconstructions/epoch-0010.png`` into ``folder`` after every tenth of the epochs; a full disk is
    reported, and the training goes on."""
    epochs, epoch = trainer.trial.recipe.epochs, trainer.step // trainer.steps_per_epoch
    if epoch % max(1, epochs // PICTURES) and epoch < epochs:
        return
    place = folder / RECONSTRUCTIONS
    try:
        place.mkdir(exist_ok=True)
        write_bytes_atomic(place / f"epoch-{epoch:04}.png", reconstructions_picture(trainer, f"{title}, epoch {epoch}"))
    except OSError as error:
        to_stderr(f"cannot write a picture to {place} ({error.strerror}); the training goes on")


@torch.no_grad()
def reconstructions_picture(trainer: Trainer, title: str) -> bytes:
    """PNG of up to ``IMAGES`` test images, evenly spaced over the set; the training stays as it is."""
    images = trainer.images
    assert isinstance(images, Images)
    chosen = np.unique(np.linspace(0, len(images.test) - 1, IMAGES).round().astype(np.int64))
    pixels, labels = next(iter(batches_to_test(trainer.trial, images.test.selected(chosen))))
    x, (masked, _) = trainer.task.test_batch(pixels, labels)
    model = trainer.kept()
    assert isinstance(model, MaskedAutoencoder)
    with in_evaluation(model):
        found, seen = model.reconstruct(x, masked)
    data = trainer.trial.data
    mean, std = (torch.tensor(values, device=x.device)[:, None, None] for values in (data.mean, data.std))

    def shown(batch: Tensor) -> Any:
        return (batch.float() * std + mean).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()

    gray = torch.where(seen == 0, (0.5 - mean) / std, seen)
    sheet = figure(1.5 * len(chosen) + 0.7, 5.2)
    grid: Any = sheet.subplots(3, len(chosen), squeeze=False)
    smooth = "nearest" if data.image_size < 96 else "antialiased"
    for row, (name, batch) in zip(
        grid, (("image", shown(x)), ("visible", shown(gray)), ("restored", shown(found))), strict=True
    ):
        for axes, image in zip(row, batch, strict=True):
            axes.imshow(image, interpolation=smooth)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(name, color=INK)
    sheet.suptitle(cut(title, 70), fontsize=10.5, color=INK)
    return png(sheet)
