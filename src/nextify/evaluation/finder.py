"""A network for boxes or masks that is opened once: images to what is found in them, in their own pixels."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nextify.data.decode import Pixels
from nextify.data.dense.annotations import DenseTask, Id, IndexMask
from nextify.data.dense.placement import placed
from nextify.data.preprocessing import normalized
from nextify.evaluation.multi_scale import MultiScale
from nextify.kernels import install
from nextify.system.native import Mode
from nextify.tasks.restoring import FoundObjects, objects_back, regions_back
from nextify.weights.bundle import load_dense

BATCH = 8


@dataclass(frozen=True)
class Finder:
    """A dense network with what its inputs and outputs mean."""

    model: nn.Module
    """In evaluation mode, on ``device``."""
    task: DenseTask
    classes: tuple[str, ...]
    canvas: tuple[int, int]
    """Height and width that images are fitted to."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str = ""
    device: str = "cpu"
    bf16: bool = False
    category_ids: tuple[Id, ...] = ()
    """Of a detector trained on COCO's annotations: the id of each class there."""
    ignore_index: int | None = None
    """Of a segmenter trained on index masks: the index that was ignored."""

    def __call__(self, images: Iterable[Pixels], least_score: float = 0.0) -> Iterator[FoundObjects | IndexMask]:
        """Yield the objects of each image uint8 ``(H, W, 3)``, or the class of each of its pixels, uint8 ``(H, W)``.
        ``least_score``: of the objects; masks of others are not computed."""
        rest = iter(images)
        while batch := [placed(image, self.canvas) for image in islice(rest, BATCH)]:
            pixels = torch.from_numpy(np.stack([canvas for canvas, _ in batch]))
            place = torch.device(self.device)
            with torch.inference_mode(), torch.autocast(place.type, torch.bfloat16, enabled=self.bf16):
                outputs = self.model(normalized(pixels, place, self.mean, self.std))
            for output, (_, placement) in zip(outputs, batch, strict=True):
                if self.task == "detection":
                    sure = output.scores >= least_score
                    masks = None if output.masks is None else output.masks[sure]
                    boxes, scores, labels = output.boxes[sure], output.scores[sure], output.labels[sure]
                    yield objects_back(
                        output._replace(boxes=boxes, scores=scores, labels=labels, masks=masks), placement
                    )
                else:
                    yield regions_back(output, placement).cpu().numpy()


def open_finder(
    weights: str | Path,
    *,
    device: str = "cpu",
    threads: int | None = None,
    kernels: Mode = "auto",
    multi_scale: bool = False,
) -> Finder:
    """Open the bundle of a detector or segmenter.

    Args:
        multi_scale: average a segmenter's answers over several sizes and mirror images, see ``MultiScale``.

    Raises:
        WeightsError, FileNotFoundError: there is no such bundle, or a damaged one.
        ValueError: ``multi_scale`` with a network that cannot.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    bundle = load_dense(weights)
    about = bundle.about
    network = bundle.network().to(device)
    install(network, kernels)
    model: nn.Module = network
    name = f"{about.name} with {about.design.head}" if about.name else about.design.head
    if multi_scale:
        model, name = MultiScale(network).eval(), f"{name}, multi-scale"
    bf16 = about.recipe is not None and about.recipe.precision == "bf16"
    return Finder(
        *(model, about.design.task, about.classes, about.canvas, about.mean, about.std, name, device, bf16),
        category_ids=about.category_ids,
        ignore_index=about.ignore_index,
    )
