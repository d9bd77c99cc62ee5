"""The network that a training leaves in its folder, and what is told of it there.

A classifier, detector or segmenter leaves a bundle. Of timm's networks, which have no Design, ``bundle/`` holds weights
and timm.json; a pre-training's bundle is the encoder, beside which ``decoder.safetensors`` lies.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from nextify.data.dense.annotations import DenseImages
from nextify.networks.dense.design import DenseDesign
from nextify.networks.masked.design import MaskedDesign
from nextify.paper.design import Design
from nextify.paper.recipe import Recipe
from nextify.system.files import FOREIGN_JSON, write_bytes_atomic, write_json_atomic
from nextify.training.learned import AnyImages
from nextify.training.trial import Trial
from nextify.weights import About, Metric, Preprocessing, save_bundle
from nextify.weights.autoencoder import save_decoder
from nextify.weights.bundle import WEIGHTS_FILE, DenseAbout


@dataclass(frozen=True)
class Told:
    """What is told of a network beside its design, its classes and how its images are prepared."""

    recipe: Recipe
    metrics: tuple[Metric, ...]
    licence: str
    source: str
    """Which training it comes from, and which weights that started from."""


@dataclass(frozen=True)
class Calibration:
    """Fitted on the training images that were held out."""

    temperature: float
    thresholds: tuple[float, ...]
    """Of several labels; empty for one class per image."""


def keep(
    bundle: Path,
    weights: Mapping[str, Tensor],
    trial: Trial,
    images: AnyImages,
    calibration: Calibration,
    name: str,
    told: Told,
) -> None:
    """Write the network of a trial. ``name``: of its design."""
    design, data = trial.design, trial.data
    if isinstance(design, DenseDesign):
        assert data.canvas is not None
        assert isinstance(images, DenseImages)
        dense = DenseAbout(
            *(design, images.classes, data.canvas, data.mean, data.std, name),
            category_ids=images.category_ids,
            ignore_index=images.ignore_index,
            **vars(told),
        )
        save_bundle(bundle, weights, dense)
        return
    assert not isinstance(images, DenseImages)
    preprocessing = Preprocessing.from_crop_ratio(
        *(data.image_size, trial.recipe.test_crop_ratio), mean=data.mean, std=data.std, bands=images.bands
    )
    if isinstance(design, MaskedDesign):
        save_decoder(bundle.parent, weights)
        encoder = {n.removeprefix("encoder."): t for n, t in weights.items() if n.startswith("encoder.")}
        save_bundle(bundle, encoder, About(design.encoder, 0, name=name, preprocessing=preprocessing, **vars(told)))
    elif isinstance(design, Design):
        about = About(
            *(design, images.num_classes, images.channels, name, images.classes, preprocessing),
            temperature=calibration.temperature,
            thresholds=calibration.thresholds,
            **vars(told),
        )
        save_bundle(bundle, weights, about)
    else:
        content = {
            "network": design.to_dict(),
            "num_classes": images.num_classes,
            "classes": images.classes,
            "preprocessing": preprocessing.to_dict(),
            "recipe": told.recipe.to_dict(),
            "temperature": calibration.temperature,
            "metrics": [asdict(metric) for metric in told.metrics],
            "source": told.source,
        }
        _keep_foreign(bundle, weights, content)


def _keep_foreign(bundle: Path, weights: Mapping[str, Tensor], content: dict[str, object]) -> None:
    data = save({key: tensor.detach().cpu().contiguous().clone() for key, tensor in weights.items()})
    bundle.mkdir(exist_ok=True)
    write_bytes_atomic(bundle / WEIGHTS_FILE, data)
    write_json_atomic(bundle / FOREIGN_JSON, {**content, "weights_sha256": hashlib.sha256(data).hexdigest()})
