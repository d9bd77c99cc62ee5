"""Classify images: files, folders, patterns, and images in memory, with a bundle's classes and their probabilities.

An unreadable image, or one whose outputs are NaN or infinite, yields a prediction with an error; the others are
classified all the same. Images from files and from memory are prepared exactly as the training's test images were.
"""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from nextify.data.arrays import NUMPY
from nextify.data.bands import check_agree, checked, with_bands
from nextify.data.decode import EXTENSIONS, PLUGINS, Pixels, UnreadableImage, decode, quiet, why_unread
from nextify.data.encoded import read_file
from nextify.data.preprocessing import normalized
from nextify.evaluation.runner import NOT_FINITE, Runner, probabilities, why_not_finite
from nextify.system.text import as_csv, valid_unicode

BATCH = 64
TOP = 5
"""Classes of an image, unless another number is asked for."""
COLUMNS = ("path", "rank", "class", "index", "probability")
"""Columns of the CSV, which has one line per image and class."""
Source = str | os.PathLike[str] | Image.Image | Pixels
"""A file, folder or pattern; a Pillow image; or a uint8 array, ``(H, W, 3)`` RGB or ``(H, W)`` grayscale."""
Read = TypeVar("Read")


@dataclass(frozen=True)
class Guess:
    """One class of an image."""

    name: str | None
    """Name of the class; None if the weights do not name their classes."""
    index: int
    """Index of the class's logit, from 0."""
    probability: float

    @property
    def label(self) -> str:
        """The name to show: the class's, or ``class #3`` from its index."""
        return f"class #{self.index}" if self.name is None else self.name


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, or its labels, or why there are none."""

    path: str
    """The image's path; ``image 2`` if the third source is an image in memory."""
    guesses: tuple[Guess, ...]
    """Most probable first; of several labels those that are given, which may be none. Empty on an error."""
    error: str = ""
    """Why the image could not be classified, in a few words; empty on success."""

    def to_dict(self) -> dict[str, object]:
        return {"path": self.path, "error": self.error} if self.error else asdict(self) | {"error": None}


class Predictor:
    """A network that is loaded once and called many times."""

    def __init__(self, runner: Runner, *, channels: Sequence[int] | int | None = None) -> None:
        """
        Args:
            runner: ``Network(weights)`` for a bundle; ``nextify.deploy.runners.open_runner`` opens exported files too.
            channels: the three bands of an image that the network sees, counted from 1, or how many it has. None takes
                those that the weights were trained on, or else the colours.

        Raises:
            ValueError: ``channels`` are not three bands.
            DataError: ``channels`` are not those that the weights were trained on.
        """
        self.runner, self.about, self.preprocessing = runner, runner.about, runner.preprocessing
        if channels is not None:
            check_agree(self.preprocessing.bands, checked(channels))
            self.preprocessing = replace(self.preprocessing, bands=checked(channels))
        self.extensions = EXTENSIONS | NUMPY if isinstance(self.preprocessing.bands, int) else EXTENSIONS
        self.batch_size = self.preprocessing.batch_size(BATCH)

    def __call__(self, sources: Source | Iterable[Source], top: int | None = None) -> Iterator[Prediction]:
        """Yield a prediction for each image of ``sources``, in order; see ``expand`` for paths.

        Args:
            sources: one source or several; an array of ``(N, H, W, 3)`` is N images.
            top: the number of classes; None is ``TOP``, or of several labels per image those at or above their
                thresholds.

        Raises:
            ValueError: ``top`` is no whole number from 1.
            TypeError: a source is neither a path nor an image.
        """
        if top is not None and not (isinstance(top, int | np.integer) and top >= 1):
            raise ValueError(f"top must be a whole number from 1, got {top!r}")
        entries = self.entries(sources)
        while waiting := list(islice(entries, self.batch_size)):
            yield from self._predict(waiting, top)

    def entries(self, sources: Source | Iterable[Source]) -> Iterator[Prediction | tuple[str, Any]]:
        """Yield each image's path and its prepared uint8 pixels ``(H, W, C)``, or a prediction with an error."""
        settings = self.preprocessing

        def read(image: Source) -> torch.Tensor:
            if isinstance(image, str | os.PathLike):
                image = decode(with_bands(read_file(image), settings.bands))
            return settings.pixels(image)

        for path, pixels, error in opened(sources, read, self.extensions):
            yield Prediction(path, (), error) if error else (path, pixels)

    def _predict(self, waiting: Sequence[Prediction | tuple[str, Any]], top: int | None) -> Iterator[Prediction]:
        ready = [entry[1] for entry in waiting if isinstance(entry, tuple)]
        found: Any = ()
        if ready:
            settings = self.preprocessing
            inputs = normalized(torch.stack(ready), torch.device("cpu"), settings.mean, settings.std)
            found = probabilities(self.runner(inputs.numpy()), self.about)
        rows, names = iter(found), self.about.classes
        for entry in waiting:
            if isinstance(entry, Prediction):
                yield entry
                continue
            row = next(rows)
            if not np.isfinite(row).all():
                yield Prediction(entry[0], (), f"{NOT_FINITE}: {why_not_finite(self.preprocessing)}")
                continue
            best = (-row).argsort(kind="stable")
            if top is None and self.about.thresholds:
                best = best[row[best] >= np.array(self.about.thresholds)[best]]
            else:
                best = best[: TOP if top is None else top]
            guesses = (Guess(names[i] if names else None, i, float(row[i])) for i in best.tolist())
            yield Prediction(entry[0], tuple(guesses))


def listed(sources: Source | Iterable[Source]) -> Iterable[Source]:
    """Wrap a single source; a path is one source, not its characters, and an image is one, not its rows."""
    if isinstance(sources, np.ndarray):
        return sources if sources.ndim > 3 else [sources]
    if isinstance(sources, str | os.PathLike | Image.Image | bytes) or not isinstance(sources, Iterable):
        return [sources]
    return sources


def opened(
    sources: Source | Iterable[Source], read: Callable[[Source], Read], extensions: frozenset[str] = EXTENSIONS
) -> Iterator[tuple[str, Read | None, str]]:
    """Yield the path of each image of ``sources``, what ``read`` makes of it, and an empty text; or None and in a few
    words why it could not be read."""
    for i, source in enumerate(listed(sources)):
        images: Iterable[tuple[str, Source, str]] = [(f"image {i}", source, "")]
        if isinstance(source, str | os.PathLike):
            images = ((path, path, reason) for path, reason in expand(source, extensions))
        for path, image, reason in images:
            found: Read | None = None
            try:
                if not reason:
                    with quiet():
                        found = read(image)
            except (OSError, UnreadableImage) as error:
                reason = why_unread(error)
            except MemoryError:
                reason = "too large for this machine's memory"
            yield path, found, reason


def expand(source: str | os.PathLike[str], extensions: frozenset[str] = EXTENSIONS) -> Iterator[tuple[str, str]]:
    """Yield (path, "") for each image, or (source, reason) for a source that leads to none.

    A file is taken whatever its name; a folder yields its images at any depth, sorted, without hidden ones, also those
    in folders that are links; a path that does not exist is tried as a pattern (``**`` matches any depth).
    """
    path = Path(source).expanduser()
    if not str(source).strip():  # such as an unset variable, which is not the current folder
        yield str(source), "an empty name: write . for the current folder"
    elif path.is_dir():
        found, refused = _images(path, extensions)
        yield from ((str(p), "" if p.exists() else "dangling link") for p in found)
        yield from ((str(error.filename), error.strerror or "unreadable") for error in refused)
        if not found and not refused:
            yield str(source), "a folder without images"
    elif path.exists() or path.is_symlink():
        yield str(path), "" if path.exists() else "dangling link"
    elif glob.has_magic(str(source)):
        matches = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
        images = [p for p in matches if p.is_file() and p.suffix.lower() in extensions]
        yield from ((str(p), "") for p in images)
        if not images:
            yield str(source), "no image matches"
    else:
        yield str(source), "no such file or folder"


def without_own(sources: Iterable[str], folders: Iterable[Path]) -> list[str]:
    """The paths that ``sources`` lead to, without what lies in ``folders``, such as pictures of an earlier run, unless
    a source names one of them or a file there. Raises ``ValueError`` where nothing else is left."""
    ours, found = {folder.resolve() for folder in folders}, list[str]()
    for source in sources:
        named = Path(source).expanduser().resolve()
        for path, _ in expand(source):
            folder = Path(path).parent.resolve()
            if folder not in ours or named in (folder, folder / Path(path).name):
                found.append(path)
    if not found:
        raise ValueError(f"{', '.join(sources)}: there are only pictures of an earlier run: name images")
    return found


def _images(folder: Path, extensions: frozenset[str]) -> tuple[list[Path], list[OSError]]:
    """Images at any depth, sorted, and the errors of folders that could not be listed. Links are followed as in
    training: not those to a folder within ``folder`` or above it."""
    found: list[Path] = []
    refused: list[OSError] = []
    root, seen = Path(os.path.realpath(folder)), set[str]()

    def leads_back(path: str) -> bool:
        to = Path(os.path.realpath(path))
        return os.path.islink(path) and (to.is_relative_to(root) or root.is_relative_to(to))

    for below, folders, files in os.walk(folder, onerror=refused.append, followlinks=True):
        if (real := os.path.realpath(below)) in seen:
            folders.clear()
            continue
        seen.add(real)
        names = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in names if not leads_back(os.path.join(below, name))]
        found += [Path(below, name) for name in files if not name.startswith(".")]
    named = extensions.union(PLUGINS)  # without its plug-in, such an image is reported as one that cannot be read
    return sorted(path for path in found if path.suffix.lower() in named), refused


def csv_text(predictions: Iterable[Prediction]) -> str:
    """CSV with ``COLUMNS``, one line per image and class (RFC 4180 quoting, ``\\n`` line ends).

    Unreadable images have no line; a class without a name has an empty one. An image without any label has a line of
    rank 0, whose other columns are empty.
    """
    rows: list[tuple[object, ...]] = []
    for prediction in predictions:
        path = valid_unicode(prediction.path)
        if not prediction.guesses and not prediction.error:
            rows.append((path, 0, "", "", ""))
        for rank, guess in enumerate(prediction.guesses, 1):
            rows.append((path, rank, guess.name, guess.index, repr(guess.probability)))
    return as_csv(COLUMNS, rows)
