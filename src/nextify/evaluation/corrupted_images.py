"""Batches of corrupted images for the robustness measurement: made here, or read from the published ImageNet-C."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from nextify.data import DataError, Images, ImageSet
from nextify.data.decode import EXTENSIONS, UnreadableImage, decode, quiet
from nextify.data.encoded import read_file
from nextify.evaluation.corruption_names import GROUPS
from nextify.evaluation.corruptions import corrupt
from nextify.system.device import threads
from nextify.system.processes import worker_context
from nextify.system.text import some
from nextify.weights import Preprocessing

Pixels = npt.NDArray[np.uint8]
Key = tuple[str, int]
Corrupter = Callable[[Pixels, Sequence[Key], Sequence[int]], Iterator[tuple[Key | None, Pixels]]]


@contextmanager
def corrupter(workers: int, frost_pictures: Path | None) -> Iterator[Corrupter]:
    """Give a function that yields the clean batch, then each key's batch; workers compute them in advance."""
    context = worker_context(__name__)
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) if workers else nullcontext() as pool:

        def batches(pixels: Pixels, keys: Sequence[Key], seeds: Sequence[int]) -> Iterator[tuple[Key | None, Pixels]]:
            yield None, pixels
            waiting: deque[tuple[Key, Future[Pixels]]] = deque()
            for key in keys:
                if pool is None:
                    with threads(1):  # an image is too small to be worth several
                        batch = corrupt_batch(pixels, *key, seeds, frost_pictures)
                    yield key, batch
                    continue
                waiting.append((key, pool.submit(corrupt_batch, pixels, *key, seeds, frost_pictures)))
                if len(waiting) > workers + 1:
                    ready, future = waiting.popleft()
                    yield ready, future.result()
            for ready, future in waiting:
                yield ready, future.result()

        yield batches


def corrupt_batch(
    pixels: Pixels, corruption: str, severity: int, seeds: Sequence[int], frost_pictures: Path | None = None
) -> Pixels:
    """Corrupt a batch ``(N, H, W, 3)``, each image with its own seed."""
    found = np.empty_like(pixels)
    for row, seed in enumerate(seeds):
        found[row] = corrupt(pixels[row], corruption, severity, seed, frost_pictures=frost_pictures)
    return found


def prepared(here: Sequence[tuple[ImageSet, int]], settings: Preprocessing) -> Pixels:
    """The chosen images of their sets as the network takes them, ``(N, H, W, 3)``."""
    return np.stack([settings.pixels(images.load(i)).numpy() for images, i in here])


def stored(root: Path, key: Key, images: Images, limit: int | None) -> list[tuple[Path, int]]:
    """List the files of one corruption and severity of ImageNet-C, each with the index of its class in ``images``.
    Raises ``DataError`` where there is no such folder, or it holds no images or unknown classes."""
    name, severity = key
    group = next(group for group, names in GROUPS.items() if name in names)
    folders = [root / name / str(severity), root / group / name / str(severity)]
    folder = next((f for f in folders if f.is_dir()), None)
    if folder is None:
        raise DataError(f"neither {folders[0]} nor {folders[1]} exists: unpack ImageNet-C there, or leave {name} out")
    place = {c: i for i, c in enumerate(images.classes)}
    found = [
        (path, place.get(path.parent.name, -1))
        for path in sorted(folder.glob("*/*"))
        if path.suffix.lower() in EXTENSIONS
    ]
    unknown = sorted({path.parent.name for path, c in found if c < 0})
    if unknown or not found:
        what = f"classes that {images.name} does not have: {some(unknown)}" if unknown else "no images in class folders"
        raise DataError(f"{folder} has {what}")
    return [found[i] for i in spread(len(found), limit)]


def spread(count: int, limit: int | None) -> list[int]:
    """``limit`` of ``count`` indices, evenly spread; all of them without a limit."""
    number = count if limit is None else min(limit, count)
    places: list[int] = np.linspace(0, count - 1, number).round().astype(int).tolist()
    return places


def decoded(path: Path) -> Pixels:
    """The pixels of a published image. Raises ``DataError`` if it is damaged."""
    try:
        with quiet():
            return decode(read_file(path))
    except (OSError, UnreadableImage) as error:
        raise DataError(f"{path} cannot be read ({error}): fetch it again") from None


def as_stored(image: Pixels, settings: Preprocessing) -> Pixels:
    """Crop the centre without resizing, as the reference does; an image that is too small is prepared as usual."""
    height, width = settings.size
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    if min(top, left) < 0:
        return settings.pixels(image).numpy()
    return image[top : top + height, left : left + width]
