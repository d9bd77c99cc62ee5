"""A network for boxes or masks that is opened once: images to what is found in them, in their own pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nextify.data.decode import Pixels
from nextify.data.dense.annotations import IndexMask
from nextify.data.dense.placement import Placement, placed
from nextify.data.preprocessing import normalized
from nextify.evaluation.identity import digest
from nextify.evaluation.multi_scale import MultiScale
from nextify.evaluation.runner import NOT_FINITE, OVERFLOW
from nextify.kernels import install
from nextify.system.device import usable_device
from nextify.system.native import Mode
from nextify.tasks.restoring import FoundObjects, objects_back, regions_back
from nextify.weights import WeightsError
from nextify.weights.bundle import DenseAbout, load_dense

if TYPE_CHECKING:
    from nextify.networks.dense.detection import Found

BATCH = 8


@dataclass(frozen=True)
class Finder:
    """A dense network with what its inputs and outputs mean."""

    model: Callable[[Tensor], Any]
    """In evaluation mode, on ``device``: a ``Found`` for each normalized image, or logits ``(N, K, H, W)``."""
    about: DenseAbout
    """Of the bundle or export that it was opened from."""
    name: str = ""
    device: str = "cpu"
    bf16: bool = False
    runtime: str = ""
    """Format, precision and runtime, as of a ``Runner``."""
    files: str = ""
    """Of an export, the checksum of its files."""

    def __call__(self, images: Iterable[Pixels], least_score: float = 0.0) -> Iterator[FoundObjects | IndexMask]:
        """Yield the objects of each image uint8 ``(H, W, 3)``, or the class of each of its pixels, uint8 ``(H, W)``.
        ``least_score``: of the objects; masks of others are not computed. Raises ``WeightsError`` where a segmenter's
        outputs are NaN or infinite."""
        rest = iter(images)
        while batch := [placed(image, self.about.canvas) for image in islice(rest, BATCH)]:
            outputs = self.outputs(np.stack([canvas for canvas, _ in batch]))
            if isinstance(outputs, Tensor) and not outputs.isfinite().all():
                raise WeightsError(f"{self.name}: {NOT_FINITE}: {OVERFLOW}")
            for output, (_, placement) in zip(outputs, batch, strict=True):
                yield self.back(output, placement, least_score)

    def checksum(self) -> str:
        """Of the weights or, of an export, of its files."""
        return digest(self.model) if isinstance(self.model, nn.Module) else self.files

    def outputs(self, canvases: npt.NDArray[Any]) -> Sequence[Found] | Tensor:
        """What the network finds on canvases: uint8 ``(N, H, W, 3)``, or normalized float32 ``(N, 3, H, W)``."""
        images, place = torch.from_numpy(canvases), torch.device(self.device)
        with torch.inference_mode(), torch.autocast(place.type, torch.bfloat16, enabled=self.bf16):
            pixels = images.dtype == torch.uint8
            outputs: Sequence[Found] | Tensor = self.model(
                normalized(images, place, self.about.mean, self.about.std) if pixels else images.to(place)
            )
        return outputs

    def back(self, output: Any, placement: Placement, least_score: float = 0.0) -> FoundObjects | IndexMask:
        """One of the ``outputs`` in pixels of its image."""
        if self.about.task == "segmentation":
            return regions_back(output, placement).cpu().numpy()
        sure = output.scores >= least_score
        return objects_back(output._make(None if part is None else part[sure] for part in output), placement)


def title(about: DenseAbout) -> str:
    """Such as ``convnext_atto with fcos``."""
    return f"{about.name} with {about.design.head}" if about.name else about.design.head


def open_finder(
    weights: str | Path,
    *,
    device: str = "cpu",
    threads: int | None = None,
    kernels: Mode = "auto",
    multi_scale: bool = False,
) -> Finder:
    """Open the bundle of a detector or segmenter; ``multi_scale`` averages a segmenter's answers, see ``MultiScale``.
    Raises ``WeightsError`` or ``FileNotFoundError`` where there is no such bundle, or a damaged one, and ``ValueError``
    as ``MultiScale``."""
    device = usable_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    bundle = load_dense(weights)
    about = bundle.about
    network = bundle.network().to(device)
    install(network, kernels)
    model: nn.Module = network
    name = title(about)
    if multi_scale:
        model, name = MultiScale(network).eval(), f"{name}, multi-scale"
    bf16 = about.recipe is not None and about.recipe.precision == "bf16"
    runtime = f"bundle {'bf16' if bf16 else 'fp32'}, torch {torch.__version__}"
    return Finder(model, about, name=name, device=device, bf16=bf16, runtime=runtime)
