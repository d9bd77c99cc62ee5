"""What tests of several rooms share."""

import io
import os
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nextify.cli import main
from nextify.data import Images, ImageSet
from nextify.data.images import UniformStore
from nextify.data.kept import Kept
from nextify.networks.zoo import create_model
from nextify.paper.design import CONVNEXT_TINY, Design
from nextify.system.processes import worker_context
from nextify.weights import About, Preprocessing, save_bundle

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""
Captured = pytest.CaptureFixture[str]
SMALL = CONVNEXT_TINY.with_(depths=(1, 1, 2, 1), widths=(8, 16, 24, 32), layer_scale=0.5)
TWO_STAGES = SMALL.with_(depths=(1, 1), widths=(8, 16), stage_strides=(1, 2))
TINY = CONVNEXT_TINY.with_(depths=(1, 1), widths=(8, 16), stage_strides=(1, 2), layer_scale="off")


def noise(seed: int, height: int = 16, width: int = 16) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save_noise(path: Path, seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB", **save: object) -> None:
    """An image file of noise that is a function of the seed; ``size`` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, *reversed(size))).convert(mode).save(path, **save)


def encoded(image: Image.Image, kind: str = "PNG", **save: object) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **save)
    return file.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def tiny_bundle(
    path: Path,
    classes: tuple[str, ...],
    size: int,
    crop_ratio: float,
    *,
    design: Design = TINY,
    seed: int = 0,
    sharpness: float = 1,
    **about: Any,
) -> Path:
    """A bundle of a tiny untrained network; with more ``sharpness`` it tells images apart, though by chance."""
    torch.manual_seed(seed)
    model = create_model(design, len(classes))
    with torch.no_grad():
        model.head.classifier.weight.mul_(sharpness)
    settings = Preprocessing.from_crop_ratio(size, crop_ratio)
    return save_bundle(
        path, model.state_dict(), About(design, len(classes), classes=classes, preprocessing=settings, **about)
    )


def fewer(images: Images, train: int, test: int) -> Images:
    """The first so many to train and to test on, held decoded like all of them."""

    def first(part: ImageSet, count: int) -> ImageSet:
        assert part.array is not None
        return ImageSet(part.labels[:count], UniformStore(Kept(part.array[:count])))

    return replace(images, train=first(images.train, train), test=first(images.test, test))


def server() -> Any:
    """Start the process from which commands are forked, unless it runs; the engines of this process use it too."""
    commands = ("nextify.cli.roadmap", "nextify.cli.study", "nextify.cli.train", "nextify.cli.training", "tyro")
    context = worker_context(
        *commands, "matplotlib.backends.backend_agg", "sklearn.datasets", "sklearn.model_selection"
    )
    if sys.platform == "linux":
        from multiprocessing import forkserver

        forkserver.ensure_running()
    return context


class Command:
    """``nextify ARGUMENTS`` in a process and a session of its own, forked from one that has imported torch, which
    spares each of them seconds. What it prints to stdout is discarded."""

    def __init__(self, arguments: list[str], largest_file: int | None = None) -> None:
        context = server()
        self._errors, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(arguments, theirs, largest_file))
        self._process.start()
        self.pid = self._process.pid
        theirs.close()

    def poll(self) -> int | None:
        """The exit code, if it has ended; minus the number of the signal that killed it."""
        return self._process.exitcode

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float) -> tuple[int, str]:
        """The exit code and what it reported on stderr. Raises ``TimeoutError`` if it takes longer."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError
        os.set_blocking(self._errors.fileno(), False)
        try:
            return self._process.exitcode, os.read(self._errors.fileno(), 2**16).decode()
        except BlockingIOError:
            return self._process.exitcode, ""


def exit_with_import(name: str) -> None:
    """What a process of ``server`` runs: exit with 1 if the commands import ``name``, else with 0."""
    import nextify.cli.prediction
    import nextify.cli.study
    import nextify.cli.training  # noqa: F401

    sys.exit(name in sys.modules)


def _run(arguments: list[str], errors: Connection, largest_file: int | None) -> None:
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(errors.fileno(), 2)
    if largest_file is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.exit(main(arguments))
