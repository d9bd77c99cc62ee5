"""What runs a trained network: a bundle in torch here, an exported file in ``nextify.deploy.runners``."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from nextify.data.preprocessing import Preprocessing
from nextify.evaluation.identity import digest
from nextify.kernels import install
from nextify.system.native import Mode
from nextify.tasks.classification import Inference
from nextify.weights import About, Loaded, load
from nextify.weights.class_names import ClassOrder

Floats = npt.NDArray[np.float32]
NOT_FINITE = "its outputs are NaN or infinite"
OVERFLOW = "the weights overflow; give others"


def why_not_finite(settings: Preprocessing) -> str:
    """What makes outputs NaN or infinite, and the remedy, in a few words."""
    if isinstance(settings.bands, int):
        return "values far outside those of the training, such as a no-data value; replace them"
    return OVERFLOW


class Runner(Protocol):
    """A classifier that is opened once and called many times, from one thread at a time."""

    name: str
    """Format, precision and runtime, such as ``onnx fp32, onnxruntime 1.32.0``."""
    about: About
    preprocessing: Preprocessing

    def __call__(self, inputs: Floats) -> Floats:
        """``(N, K)`` logits of normalized images ``(N, C, H, W)``, as ``preprocessing`` makes them."""

    def checksum(self) -> str:
        """Of the weights or, of an export, of its files."""


def probabilities(logits: Floats, about: About) -> Floats:
    """``(N, K)`` probabilities of a runner's logits ``(N, K)``, with the bundle's temperature where it has one: of one
    class per image, or of each label by itself."""
    scaled = torch.from_numpy(logits) / about.temperature
    return (scaled.sigmoid() if about.thresholds else scaled.softmax(-1)).numpy()


def load_classifier(weights: str | Path, class_order: ClassOrder | None = None) -> Loaded:
    """``nextify.weights.load`` for what is to classify images. Raises ``WeightsError`` or ``FileNotFoundError`` where
    the weights cannot be loaded, or have no classifier."""
    loaded = load(weights, class_order=class_order)
    loaded.about.check_classifier(weights)
    return loaded


class Network:
    """A bundle, or other weights, in torch with our kernels; computed as its recipe says (bf16, mirrored images)."""

    def __init__(
        self,
        weights: str | Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        kernels: Mode = "auto",
        class_order: ClassOrder | None = None,
    ) -> None:
        """
        Args:
            weights: a bundle, or anything else that ``nextify.weights.load`` reads.
            class_order: the class names in the order of the logits, or a file of them, for weights without names.

        Raises:
            WeightsError, FileNotFoundError: the weights cannot be loaded, or have no classifier.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        loaded = load_classifier(weights, class_order)
        self.about, self.preprocessing, self.device = loaded.about, loaded.preprocessing, device
        # An explanation needs the gradient of maps only; those of weights take longer, the first imports the compiler.
        self.model: Any = loaded.model.to(device).requires_grad_(False)
        install(self.model, kernels)
        self.inference = Inference.of(self.about.recipe)
        self.name = f"bundle {'bf16' if self.inference.bf16 else 'fp32'}, torch {torch.__version__}"

    def __call__(self, inputs: Floats) -> Floats:
        with torch.inference_mode():
            images = torch.from_numpy(np.require(inputs, np.float32, "W")).to(self.device)
            logits = self.inference.logits(self.model, images)
        return logits.cpu().numpy()

    def checksum(self) -> str:
        return digest(self.model)
