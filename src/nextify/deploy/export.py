"""A bundle to a folder that another runtime loads: a model file, and the JSON that says what it is and what it was held
to.

The folder is made beside its place and moved there only after the file has given the bundle's results on real images.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy.typing as npt
import torch

from nextify.data import Images, open_images
from nextify.data.bands import as_channels
from nextify.data.dense.annotations import DenseImages
from nextify.data.images import check_images
from nextify.deploy import formats
from nextify.deploy.dense import DenseSource, export_dense
from nextify.deploy.runners import Exported, Format, Precision, start
from nextify.deploy.verify import Verification, at_size, some_images, verify
from nextify.evaluation.runner import Floats, load_classifier
from nextify.networks.layout import too_small
from nextify.system.device import torch_defaults
from nextify.system.environment import describe, version
from nextify.system.files import fresh_folder, write_json_atomic
from nextify.tasks.classification import Inference
from nextify.weights import About
from nextify.weights.bundle import JSON_FILE, DenseAbout, check_replaceable, sha256, signed_json, stated

_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "executorch")


@dataclass(frozen=True)
class Export:
    """A folder that was written."""

    path: Path
    about: About | DenseAbout
    exported: Exported
    verification: Verification
    """Of a classifier a ``ClassifierVerification``."""
    bytes: int
    """Of all its files."""


@dataclass(frozen=True)
class Source:
    """A network to export, in plain torch, and what is known of it."""

    model: Any
    about: About
    """With the preprocessing of the size that is exported."""
    mirror: bool
    name: str

    @classmethod
    def of(cls, bundle: str | Path, image_size: int | None = None) -> Self:
        """Load a bundle; ``image_size`` replaces its input's sides, at the same crop ratio. At another size than the
        bundle's, at which they were measured, metrics are left out.

        Raises:
            WeightsError, FileNotFoundError: it cannot be loaded, or has no classifier.
            ImageSizeError: the network takes no images as small as this.
        """
        loaded = load_classifier(bundle)
        settings = loaded.preprocessing
        if image_size is not None:
            settings = at_size(settings, (image_size, image_size))
        if min(settings.size) < loaded.model.smallest_image:
            raise too_small(settings.size, loaded.model.smallest_image, " for this network")
        about = loaded.about
        if settings.size != about.preprocessing.size:
            about = replace(about, metrics=())
        mirror = Inference.of(about.recipe).mirror
        return cls(loaded.model, replace(about, preprocessing=settings), mirror, str(bundle))

    def run(self, inputs: Floats) -> Floats:
        """``(N, K)`` logits in plain torch and fp32."""
        with torch.inference_mode():
            found: Floats = Inference(mirror=self.mirror).logits(self.model, torch.from_numpy(inputs)).numpy()
        return found


@torch_defaults()
def export(
    bundle: str | Path,
    to: Format,
    out: str | Path,
    *,
    precision: Precision = "fp32",
    image_size: int | str | None = None,
    with_preprocessing: bool = False,
    images: Images | DenseImages | None = None,
    threads: int | None = None,
) -> Export:
    """Write a bundle for another runtime, after proving that it gives the bundle's results there.

    Args:
        bundle: a bundle, or anything else that ``nextify.weights.load`` reads. Segmenters
            and one-stage detectors are written in fp32, for the bundle's canvas (``deploy/dense.py``).
        to: ``onnx`` (ONNX Runtime), ``openvino``, ``torch`` (``torch.export``), ``aotinductor`` or ``executorch``.
        out: the folder to write; one that holds a bundle or an export is replaced.
        precision: ``fp32`` computes the bundle's function; ``bf16`` and ``fp16`` differ by their rounding. For int8,
            use ``nextify.quantize``.
        image_size: pixels of the input's side, or ``dynamic`` for any height and width. None keeps the bundle's size.
        with_preprocessing: take uint8 ``(N, H, W, 3)`` of any size and prepare it inside the file.
        images: real images to compare on; by default the built-in digits or scenes.
        threads: CPU threads of the comparison.

    Raises:
        ExportFailed: the file does not reproduce the bundle's results.
        FormatError: the format has no such precision or shape.
        MissingExtra: its packages are not installed.
        WeightsError, FileNotFoundError: the bundle cannot be loaded, or ``out`` holds it or something else.
    """
    out = Path(out)
    check_replaceable(out, bundle)
    if isinstance(stated(bundle), DenseAbout):
        if precision != "fp32" or image_size is not None or with_preprocessing:
            raise formats.FormatError(
                "a detector or segmenter is exported in fp32 and for its canvas: leave precision, image size and "
                "preprocessing out; int8 is for classifiers"
            )
        dense = DenseSource.of(bundle)
        with fresh_folder(out) as fresh:
            exported, proof, described = export_dense(dense, to, fresh, images, threads)
            describe_export(fresh, dense, exported, described)
        return Export(out, dense.about, exported, proof, folder_bytes(out))
    if images is not None:
        if isinstance(images, DenseImages):
            raise formats.FormatError("a classifier is compared on labelled images: leave the annotated data out")
        check_images(images, several=True)
    dynamic = image_size == "dynamic"
    if isinstance(image_size, str) and not dynamic:
        raise formats.FormatError(f"image_size must be a whole number of pixels, or dynamic; got {image_size!r}")
    source = Source.of(bundle, image_size if isinstance(image_size, int) else None)
    size = None if dynamic or with_preprocessing else source.about.preprocessing.size
    exported = Exported(to, precision, size, with_preprocessing, bf16=precision == "bf16")
    formats.check(exported)
    if precision == "int8":
        raise formats.FormatError("int8 has to be calibrated and tested: call nextify.quantize")
    if dynamic and not with_preprocessing:
        formats.check_dynamic(source.model, source.about.preprocessing)
    if threads is not None:
        torch.set_num_threads(threads)
    shown = open_images("digits") if images is None else images
    settings = source.about.preprocessing
    real: list[tuple[str, npt.NDArray[Any]]] = [*some_images(shown.test)]
    if isinstance(settings.bands, int):
        if with_preprocessing:
            raise formats.FormatError("with_preprocessing is for pictures, but the bundle takes channels: leave it out")
        if images is None:
            real = [(name, as_channels(pixels, settings.bands)) for name, pixels in real]
    with fresh_folder(out) as fresh:
        formats.write(exported, source.model, source.mirror, settings, fresh)
        run = start(fresh / exported.file, exported, threads)
        found = verify(exported, run, source.run, real, settings, shown.name, source.about.thresholds)
        found = replace(found, images=min(found.images, len(shown.test)))  # of few, some went through more than once
        describe_export(fresh, source, exported, {"verification": asdict(found)})
    return Export(out, source.about, exported, found, folder_bytes(out))


def describe_export(
    folder: Path, source: Source | DenseSource, exported: Exported, proof: Mapping[str, object]
) -> None:
    """Write the JSON of an exported folder: a bundle's, and under ``export`` what the file is, the checksums of
    all files in the folder, and the proof."""
    versions = {package: version(package) for package in _PACKAGES if version(package)}
    environment = {k: v for k, v in describe().items() if v is not None}
    files = {file.relative_to(folder).as_posix(): sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()}
    described = {**asdict(exported), "files": files, "from": source.name, "versions": versions}
    described |= {"environment": environment, **proof}
    write_json_atomic(folder / JSON_FILE, signed_json(source.about) | {"export": described})


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
