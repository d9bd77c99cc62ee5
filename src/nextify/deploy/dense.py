"""Detectors and segmenters to a file, proven on real images, and such a file as a ``Finder``.

A file takes images fitted to the bundle's canvas and normalized, ``(N, 3, H, W)`` float32, and has one output: a
segmenter's ``logits (N, K, H, W)``, or a one-stage detector's ``places (N, A, 4 + K)``: for each cell or anchor a box,
as shares of the canvas's sides, and a score for each class (docs/dense.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from nextify.data import Images
from nextify.data.decode import Pixels
from nextify.data.dense import open_dense
from nextify.data.dense.annotations import DenseImages
from nextify.data.dense.placement import placed
from nextify.data.preprocessing import normalized
from nextify.deploy import formats
from nextify.deploy.runners import (
    Exported,
    Format,
    Run,
    check_device,
    files_checksum,
    is_export,
    quiet,
    read_export,
    start,
)
from nextify.deploy.verify import LIMITS, ExportFailed, Verification, in_turns, some_images
from nextify.evaluation import finder
from nextify.evaluation.finder import Finder
from nextify.evaluation.runner import Floats
from nextify.networks.dense.design import MOST_BOXES, ONE_STAGE, SEGMENTATION_HEADS
from nextify.networks.dense.network import DenseNetwork
from nextify.system.native import Mode
from nextify.system.text import printable
from nextify.weights.bundle import JSON_FILE, DenseAbout, dense_from_json, load_dense
from nextify.weights.reading import ExportError

if TYPE_CHECKING:
    from nextify.networks.dense.detection import Found

FORMATS: tuple[Format, ...] = ("onnx", "openvino", "torch")
BATCHES = (1, 2, 7)
CANDIDATES = 1000
"""Of a level, before overlapping boxes are suppressed: torchvision's ``topk_candidates``."""


class Outputs(nn.Module):
    """What a file computes of a dense network."""

    def __init__(self, network: DenseNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        head: Any = self.network.head
        whole = head.places if self.network.design.head in ONE_STAGE else head
        found: Tensor = whole(self.network.backbone(images), (images.shape[-2], images.shape[-1]))
        return found


@dataclass(frozen=True)
class DenseSource:
    """A network to export, in plain torch, and what is known of it."""

    outputs: Outputs
    about: DenseAbout
    name: str

    @classmethod
    def of(cls, bundle: str | Path) -> Self:
        """Load a bundle. Raises ``FormatError`` for heads that no file is written of."""
        loaded = load_dense(bundle)
        if loaded.about.design.head not in (*ONE_STAGE, *SEGMENTATION_HEADS):
            raise formats.FormatError(
                f"{loaded.about.design.head} chooses regions between its two stages, which exported files do not "
                f"support: train with --head fcos or retinanet to export a detector"
            )
        return cls(Outputs(loaded.network()).eval(), loaded.about, str(bundle))

    def run(self, inputs: Floats) -> Floats:
        """The output in plain torch and fp32."""
        with torch.inference_mode():
            found: Floats = self.outputs(torch.from_numpy(inputs)).numpy()
        return found

    def input(self, image: Pixels) -> Floats:
        """``(3, H, W)`` of an image: fitted to the canvas and normalized."""
        canvas = torch.from_numpy(placed(image, self.about.canvas)[0])[None]
        found: Floats = normalized(canvas, torch.device("cpu"), self.about.mean, self.about.std)[0].numpy()
        return np.ascontiguousarray(found)

    def described(self) -> dict[str, object]:
        """What the JSON says of the output."""
        if self.about.task == "segmentation":
            return {"output": "logits"}
        net: Any = self.outputs.network.head.net
        return {"output": "places", "least_score": net.score_thresh, "suppression_iou": net.nms_thresh}


def export_dense(
    source: DenseSource, to: Format, out: Path, images: Images | DenseImages | None = None, threads: int | None = None
) -> tuple[Exported, Verification, dict[str, object]]:
    """Write the model file of a detector or segmenter into ``out``, a fresh folder, after proving it on ``images``, by
    default those of ``scenes``. Raises ``FormatError`` where no such file is written of it, and otherwise as
    ``export``."""
    if to not in FORMATS:
        raise formats.FormatError(f"--to {to} supports only classifiers: choose {', '.join(FORMATS)}")
    exported = Exported(to, "fp32", source.about.canvas)
    formats.check(exported)
    if threads is not None:
        torch.set_num_threads(threads)
    example = torch.zeros(2, 3, *source.about.canvas)
    outputs = Outputs(formats.folded(source.outputs.network)).eval()
    with torch.no_grad(), quiet():
        outputs(example)  # makes the anchors, which the file holds
        program = torch.export.export(outputs, (example,), dynamic_shapes=({0: Dim("batch", min=1)},), strict=False)
        formats.save(program, exported, out / exported.file, str(source.described()["output"]))
    shown = open_dense("scenes") if images is None else images
    found = _verified(exported, start(out / exported.file, exported, threads), source, shown)
    return exported, found, {"verification": asdict(found), **source.described()}


def _verified(exported: Exported, run: Run, source: DenseSource, images: Images | DenseImages) -> Verification:
    names, pixels = zip(*some_images(images.test, max(BATCHES)), strict=True)
    inputs, limit = np.stack([source.input(image) for image in pixels]), LIMITS["fp32"]
    worst, timings = 0.0, []
    for batch in BATCHES:
        found, expected, timing = in_turns(exported, run, source.run, inputs[:batch], inputs[:batch])
        largest = np.abs(expected).reshape(batch, -1).max(1) if source.about.task == "segmentation" else np.ones(batch)
        differences = np.abs(found - expected).reshape(batch, -1).max(1) / largest
        if not (differences <= limit).all():
            i = int(np.nan_to_num(differences, nan=np.inf).argmax())
            raise ExportFailed(
                f"{exported.name} does not compute what the bundle does: {printable(names[i])} of {images.name} at "
                f"batch {batch} differs by {differences[i]:.2g} (limit {limit:g}); nothing was written"
            )
        worst = max(worst, float(differences.max()))
        timings.append(timing)
    return Verification(images.name, min(max(BATCHES), len(images.test)), BATCHES, worst, limit, tuple(timings))


def open_finder(
    path: str | Path,
    *,
    device: str = "cpu",
    threads: int | None = None,
    kernels: Mode = "auto",
    multi_scale: bool = False,
) -> Finder:
    """Open the bundle of a detector or segmenter, or a folder that ``nextify export`` wrote of one, which runs on the
    CPU. For the bundle ``device``, ``kernels`` and ``multi_scale`` are those of
    ``nextify.evaluation.finder.open_finder``.

    Raises as that function, and ``ExportError`` and ``MissingExtra`` as ``open_runner``."""
    if not is_export(path):
        return finder.open_finder(path, device=device, threads=threads, kernels=kernels, multi_scale=multi_scale)
    check_device(device)
    if multi_scale:
        raise ExportError("exported files take images of one size: leave --multi-scale out, or give the bundle")
    folder = Path(path).expanduser()
    content, exported = read_export(folder)
    about, run = dense_from_json(content, folder / JSON_FILE), start(folder / exported.file, exported, threads)
    names = ("least_score", "suppression_iou") if about.task == "detection" else ()
    try:
        limits = [float(content["export"][name]) for name in names]
    except (KeyError, TypeError, ValueError):
        raise ExportError(f"{folder / JSON_FILE} has no {' and '.join(names)}: export again") from None

    levels = _levels(about) if limits else []

    def model(images: Tensor) -> Tensor | list[Found]:
        outputs = torch.from_numpy(run(np.ascontiguousarray(images.numpy())))
        return [_found(one, about.canvas, levels, *limits) for one in outputs] if limits else outputs

    files = files_checksum(content)
    return Finder(model, about, name=finder.title(about), runtime=exported.name, files=files)


def _levels(about: DenseAbout) -> list[int]:
    """How many places each level of a detector's pyramid has."""
    with torch.device("meta"):
        head: Any = DenseNetwork(about.design, about.num_classes, about.canvas).head
    cells = [math.prod(-(-side // stride) for side in about.canvas) for stride in head.neck.strides]
    return [a * b for a, b in zip(cells, head.net.anchor_generator.num_anchors_per_location(), strict=True)]


def _found(
    places: Tensor, canvas: tuple[int, int], levels: Sequence[int], least_score: float, suppression_iou: float
) -> Found:
    """What a detector finds, of one image's ``places (A, 4 + K)``, the places of all ``levels``: as torchvision finds
    it, of each level's most confident candidates."""
    from torchvision.ops import batched_nms

    from nextify.networks.dense.detection import Found

    parts = []
    for level in torch.split(places, [*levels]):
        scores = level[:, 4:]
        place, label = (scores > least_score).nonzero(as_tuple=True)
        score, best = scores[place, label].topk(min(CANDIDATES, len(place)))
        parts.append((level[place[best], :4], score, label[best]))
    boxes, scores, label = map(torch.cat, zip(*parts, strict=True))
    boxes = boxes * places.new_tensor([canvas[1], canvas[0]] * 2)
    kept = batched_nms(boxes, scores, label, suppression_iou)[:MOST_BOXES]
    return Found(boxes[kept], scores[kept], label[kept])
