"""What differs between classes, boxes and masks: how an image becomes an input, and an answer JSON or tensors.

Workers and the server each have the network's task: a worker calls ``run``, the server everything else.
"""

import base64
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from nextify.data.bands import with_bands
from nextify.data.decode import decode
from nextify.data.dense.annotations import mask_api
from nextify.data.dense.placement import fitting, placed
from nextify.data.preprocessing import normalized
from nextify.deploy.explain import heat_map
from nextify.evaluation.dense_pictures import class_color
from nextify.evaluation.dense_predict import LEAST_SCORE, DensePrediction, index_png, named
from nextify.evaluation.finder import Finder
from nextify.evaluation.runner import NOT_FINITE, Network, Runner, probabilities
from nextify.networks.dense.design import MOST_BOXES
from nextify.weights.bundle import About, DenseAbout

Array = npt.NDArray[Any]
PREDICT, ENCODED, INFER, EXPLAIN = "predict", "encoded", "infer", "explain"
"""Calls of a worker. Each image has an argument: its height, its width and what the query's parameter says; its number
in the request and what the parameter says; none; the index of the class."""


class Parameter(NamedTuple):
    """A number in the query of a request."""

    name: str
    description: str
    least: float
    most: float
    """A whole number, as all values then are, or a float."""
    default: float | None = None
    """None where it must be given."""


class Task(ABC):
    """What the server makes of a network's task."""

    name: str
    schema: str
    """What ``openapi.json`` calls the answer for an image."""
    summary: str
    """Of ``POST /predict``, for OpenAPI."""
    parameter: Parameter | None = None
    """Of ``POST /predict``."""
    input_shape: tuple[int, int, int]
    """Channels, height and width."""
    outputs: Mapping[str, tuple[str, tuple[int, ...]]]
    """Tensors of the Open Inference Protocol: datatype, and shape for one image."""
    picture = False
    """Whether ``/predict`` can answer with a PNG."""

    @abstractmethod
    def prepare(self, data: bytes) -> tuple[Array, int, int]:
        """The network's input, uint8 ``(H, W, C)``, of an encoded image, and the image's height and width. Raises
        ``UnreadableImage``."""

    @abstractmethod
    def run(self, network: Any, call: str, batch: Array, arguments: Sequence[Any]) -> Sequence[Array]:
        """A worker's answer for each image of ``batch``: uint8 ``(N, H, W, C)`` as prepared, or normalized float32
        ``(N, C, H, W)``. Raises whatever the network does."""

    @abstractmethod
    def answer(self, row: Array, height: int, width: int, asked: Any) -> dict[str, Any]:
        """The JSON for an image, of a worker's answer to ``PREDICT``."""

    @abstractmethod
    def tensors(self, rows: Array) -> dict[str, Array]:
        """The ``outputs``, of a worker's answers to ``INFER``, stacked."""

    @property
    def colors(self) -> list[str]:
        """Of the classes on the page, such as ``#0072b2``; empty where it needs none."""
        return []


class Classes(Task):
    schema, summary = "classification", "The most probable classes of one image or several"
    parameter = Parameter("top", "Classes to name", 1, 10**6, 5)

    def __init__(self, about: About) -> None:
        """Raises ``ValueError`` for a network that takes something else than pictures."""
        self.about, self.settings = about, about.preprocessing
        if isinstance(self.settings.bands, int):
            raise ValueError(
                f"the server takes pictures, but this network takes {self.settings.bands} channels: use nextify predict"
            )
        self.name = "multilabel" if about.thresholds else "classification"
        self.input_shape = (about.in_channels, *self.settings.size)
        self.outputs = dict.fromkeys(("logits", "probabilities"), ("FP32", (about.num_classes,)))

    def prepare(self, data: bytes) -> tuple[Array, int, int]:
        pixels = decode(with_bands(data, self.settings.bands))
        return self.settings.pixels(pixels).numpy(), *pixels.shape[:2]

    def run(self, network: Runner, call: str, batch: Array, arguments: Sequence[Any]) -> Sequence[Array]:
        if batch.dtype == np.uint8:
            settings = self.settings
            batch = normalized(torch.from_numpy(batch), torch.device("cpu"), settings.mean, settings.std).numpy()
        if call == EXPLAIN:
            assert isinstance(network, Network)
            images = torch.from_numpy(batch).to(network.device)
            pairs = zip(images, arguments, strict=True)
            return [heat_map(network.model, image, index, "grad-cam") for image, index in pairs]
        logits = network(batch)
        return [*(probabilities(logits, self.about) if call == PREDICT else logits)]

    def answer(self, row: Array, height: int, width: int, asked: int) -> dict[str, Any]:
        about, best = self.about, (-row).argsort(kind="stable")

        def entries(indices: Array) -> list[dict[str, Any]]:
            return [
                {"class": about.classes[i] if about.classes else None, "index": i, "probability": float(row[i])}
                for i in indices.tolist()
            ]

        said: dict[str, Any] = {"classes": entries(best[:asked])}
        if about.thresholds:
            said["labels"] = entries(best[(row >= np.array(about.thresholds))[best]])
        return said | {"width": width, "height": height, "crop": list(self.settings.box(width, height))}

    def tensors(self, rows: Array) -> dict[str, Array]:
        return {"logits": rows, "probabilities": probabilities(rows, self.about)}


class Dense(Task):
    """Boxes or masks. A worker's answer to ``PREDICT`` is JSON already, as UTF-8: it alone has the whole output."""

    def __init__(self, about: DenseAbout) -> None:
        self.about, self.name, self.schema = about, about.task, about.task
        self.input_shape = (3, *about.canvas)

    def prepare(self, data: bytes) -> tuple[Array, int, int]:
        pixels = decode(data)
        return placed(pixels, self.about.canvas)[0], *pixels.shape[:2]

    def run(self, network: Finder, call: str, batch: Array, arguments: Sequence[Any]) -> Sequence[Array]:
        outputs = network.outputs(batch)
        if isinstance(outputs, torch.Tensor) and not outputs.isfinite().all():
            raise FloatingPointError(NOT_FINITE)
        if call == INFER:
            return [self.tensor(output) for output in outputs]
        rows = []
        for output, (height, width, asked) in zip(outputs, arguments, strict=True):
            found = network.back(output, fitting((height, width), self.about.canvas), asked)
            said = self.said(named(DensePrediction("", height, width), found, self.about.classes))
            rows.append(np.frombuffer(json.dumps(said).encode(), np.uint8))
        return rows

    def answer(self, row: Array, height: int, width: int, asked: Any) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(row.tobytes())
        return said | {"width": width, "height": height}

    @property
    def colors(self) -> list[str]:
        values = (class_color(label) for label in range(self.about.num_classes))
        return ["#" + bytes(round(255 * value) for value in color).hex() for color in values]

    @abstractmethod
    def said(self, found: DensePrediction) -> dict[str, Any]:
        """The JSON for an image, without its sides."""

    @abstractmethod
    def tensor(self, output: Any) -> Array:
        """Of one of the network's outputs, the answer to ``INFER``."""


class Objects(Dense):
    """The protocol's tensors have the names and shapes of TensorRT's EfficientNMS."""

    summary = "The objects in one image or several"
    parameter = Parameter("least_score", "Lowest score of an object to name", 0.0, 1.0, LEAST_SCORE)

    def __init__(self, about: DenseAbout) -> None:
        """Raises ``DataError`` where masks cannot be encoded."""
        super().__init__(about)
        if about.design.head == "mask_rcnn":
            mask_api()
        self.outputs = {
            "num_detections": ("INT32", (1,)),
            "detection_boxes": ("FP32", (MOST_BOXES, 4)),
            "detection_scores": ("FP32", (MOST_BOXES,)),
            "detection_classes": ("INT32", (MOST_BOXES,)),
        }

    def said(self, found: DensePrediction) -> dict[str, Any]:
        boxes = []
        for one in found.objects:
            box = {"box": one.box, "class": one.name, "index": one.index, "score": one.score}
            boxes.append(box if one.mask is None else box | {"mask": one.mask})
        return {"boxes": boxes}

    def tensor(self, output: Any) -> Array:
        rows = torch.cat([output.boxes, output.scores[:, None], output.labels[:, None]], 1).float().cpu().numpy()
        return np.pad(rows, ((0, MOST_BOXES - len(rows)), (0, 0)))

    def tensors(self, rows: Array) -> dict[str, Array]:
        boxes, scores, labels = rows[..., :4], rows[..., 4], rows[..., 5].astype(np.int32)
        found = (scores > 0).sum(1, dtype=np.int32)[:, None]
        return dict(zip(self.outputs, (found, boxes, scores, labels), strict=True))


class Regions(Dense):
    summary = "The class of each pixel of one image or several"
    picture = True

    def __init__(self, about: DenseAbout) -> None:
        super().__init__(about)
        self.outputs = {"classes": ("UINT8", about.canvas)}

    def said(self, found: DensePrediction) -> dict[str, Any]:
        assert found.labels is not None
        regions = [{"class": one.name, "index": one.index, "share": one.share} for one in found.regions]
        return {"regions": regions, "mask": base64.b64encode(index_png(found.labels)).decode()}

    def tensor(self, output: Any) -> Array:
        found: Array = output.argmax(0).byte().cpu().numpy()
        return found

    def tensors(self, rows: Array) -> dict[str, Array]:
        return {"classes": rows}


def task_of(about: About | DenseAbout) -> Task:
    """The task of a bundle. Raises ``ValueError`` for a network that cannot be served."""
    if isinstance(about, About):
        return Classes(about)
    return Objects(about) if about.task == "detection" else Regions(about)
