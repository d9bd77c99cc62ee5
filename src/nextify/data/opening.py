"""``open_images``: the embedded digits, CIFAR-10, or images of your own, in whatever they lie."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nextify.data.arrays import NUMPY, read_array
from nextify.data.bands import MOST_CHANNELS, Bands, BandsOf, checked
from nextify.data.checks import check
from nextify.data.decode import Pixels, UnreadableImage
from nextify.data.encoded import Files
from nextify.data.errors import DataError
from nextify.data.images import Images, ImageSet, Labels, UniformStore
from nextify.data.kept import Kept, keep
from nextify.data.source import EMBEDDED, KINDS, PREFIX, LabelTask, check_source, check_task, is_pattern, source_name
from nextify.data.sources.annotated import format_of, not_coco
from nextify.data.sources.folder import (
    ARCHIVES,
    Unlabelled,
    holds_numpy,
    list_folder,
    list_unlabelled,
    numpy_files,
)
from nextify.data.sources.hugging_face import list_hugging_face
from nextify.data.sources.listing import Found, Listing, arrange, split_train
from nextify.data.sources.manifest import TABLES, list_manifest, list_metadata
from nextify.data.sources.parquet import holds_images, list_parquet
from nextify.data.sources.parts import Splitting, Tested
from nextify.data.sources.shards import shards_in, shards_of
from nextify.data.sources.tar import list_tar
from nextify.data.without import without as leave_out
from nextify.system.files import cache_root
from nextify.system.text import plural, printable

DIGITS_TRAIN = 600
"""Training images of ``digits``; the other 1,197 are tested on, enough to tell accuracies apart."""
DECODED_LIMIT = 2 * 2**30
"""Bytes up to which a set is held decoded."""
ON_DISK_FROM = 8 * 2**20
"""Bytes from which a set given as an array goes to the cache, so that processes share it."""


def open_images(
    source: str | Path,
    *,
    root: str | Path | None = None,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    cache: str | Path | None = None,
    decoded_limit: int = DECODED_LIMIT,
    to_train: bool = True,
    tested: Tested | None = None,
    channels: Sequence[int] | int | None = None,
    task: LabelTask | None = None,
    skip_unreadable: bool = False,
    without: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Images:
    """Open a source of images and check them.

    Args:
        source: ``digits`` (scikit-learn's, 8×8), ``cifar10``, ``hf:OWNER/NAME`` (Hugging Face), or a path: an image
            folder (``folder.py``), a manifest (``manifest.py``), Parquet files with images (``parquet.py``) or tar
            shards (``tar.py``); the last two may also be a folder or a pattern such as ``train-{000..003}.tar``. Give a
            folder called ``digits`` or ``cifar10`` as ``./digits`` or as a ``Path``.
        root: for ``cifar10``, the folder that holds it or is to hold it; ``train/`` and ``test/`` folders of images
            in there are used too. None is ``~/.cache/nextify``.
        test_fraction: share of each class used for testing if a source has no test images of its own.
        split_seed: seed of that split, and of the split of the digits.
        cache: folder for decoded images, shared by processes and later runs. None keeps them in memory.
        decoded_limit: bytes of decoded images to keep; above this, images are decoded each time they are used.
        to_train: False if the images are only used for testing. A source may then lack training images or have only one
            class, and a folder that is called like a test part, or holds nothing else, is tested on as a whole.
        tested: part to use as test images, ``val`` or ``test``; None takes val, else test, else part of train.
        channels: three bands to read as colours, counted from 1, such as ``(4, 3, 2)`` for a file with infrared. Or the
            number of bands that each image has, such as ``13``: all are then read, as numbers rather than colours.
            None reads the colours, and all channels of NumPy files.
        task: ``classification``, one class per image, or ``multilabel``, any number of labels (``several.py``). None
            detects it if it is unambiguous, with a note.
        skip_unreadable: leave out images that cannot be read, and list them in ``left_out``; each image is decoded once
            to find them. If only the header of an image is readable, training uses another image of its class in its
            place, so that a training it stopped can resume. False refuses such images.
        without: a CSV of training images to leave out, with a column ``file``, as ``nextify inspect`` writes it.
        on_progress: called now and then with the number of images checked and the number of all.

    Raises:
        DataError: what is wrong and what to do about it.
        ValueError: ``channels`` are neither three bands nor a number.
        TypeError: a source that is neither a string nor a path, such as a list of several.
    """
    if isinstance(source, Path):
        source = os.path.join(os.curdir, source.expanduser())  # a path is never one of the names
    elif not isinstance(source, str):
        raise TypeError(f"a source must be one string or Path, got {type(source).__name__}; give {KINDS}")
    root, cache, without = (None if path is None else Path(path) for path in (root, cache, without))
    check_task(task)
    bands = None if channels is None else checked(channels)
    _check_embedded(source, bands, tested, task, without)
    if source == "digits":
        return _digits(split_seed, cache)
    splitting = Splitting(test_fraction, split_seed, to_train, tested, task)
    if source == "cifar10":
        local = root or cache_root() / "nextify"
        if not (local / "train").is_dir():
            if without is not None:
                raise DataError("the images of cifar10 have no file names for --without: give them as a folder")
            return _cifar10(local, cache)
        listing = arrange(list_folder(local, splitting), splitting)
    else:
        try:
            listing = arrange(_found(source, splitting), splitting)
        except DataError as error:
            raise _with_annotations(error, source) from None
    if task == "multilabel" and listing.labels.ndim == 1:
        raise DataError(_one_class_each(source))
    if bands is None and Path(next(iter(listing.images.names), "")).suffix.lower() in NUMPY:
        bands, said = _channels_of(listing)
        listing = replace(listing, notes=(*listing.notes, said))
    if bands is not None:
        listing = replace(listing, images=BandsOf(listing.images, bands))
    if without is not None:
        listing = leave_out(listing, without)
    return check(
        listing,
        name=source_name(source, tested),
        cache=cache,
        decoded_limit=decoded_limit,
        skip_unreadable=skip_unreadable,
        to_train=to_train,
        on_progress=on_progress,
    )


def _check_embedded(
    source: str, bands: Bands | None, tested: Tested | None, task: LabelTask | None, without: Path | None
) -> None:
    """Refuse what a source that is given by name does not have."""
    if source == "scenes":
        raise DataError(
            "scenes has boxes and masks but no labels: train on them with nextify train MODEL --data scenes"
        )
    if task == "multilabel" and (source in ("digits", "cifar10") or source.startswith(PREFIX)):
        raise DataError(_one_class_each(source))
    if source not in ("digits", "cifar10"):
        return
    if bands is not None:
        raise DataError(f"{source} has no bands to choose from: leave --channels out")
    if tested == "val":
        raise DataError(f"{source} has no val split: choose --split test, or leave it out")
    if without is not None and source == "digits":
        raise DataError("digits has no files for --without to name: leave it out")


def _with_annotations(error: DataError, source: str) -> DataError:
    """The error of a source without labels, with what to do where it has boxes or masks."""
    path = Path(source).expanduser()
    if not path.exists():
        return error
    if format_of(path) is not None:
        return DataError(f"{error}; to train on its boxes or masks, use nextify train MODEL --data {printable(source)}")
    said = not_coco(path) if path.is_dir() else None
    return DataError(f"{error}; {said}") if said else error


UNLABELLED_TESTS = 0.05
"""Share of images without classes on which the masked error is measured."""


def open_unlabelled(source: str | Path, *, split_seed: int = 0, **options: Any) -> Images:
    """The images of a source whose classes do not matter: what ``open_images`` takes, a folder without classes, or a
    manifest without them.

    Of the latter two, a twentieth is set apart. Of a folder, images in folders of any depth are taken; folders count as
    classes only where no image lies beside them, and a val or test split is left out. ``options``: ``cache``,
    ``channels``, ``skip_unreadable`` and ``on_progress`` of ``open_images``, whose errors it raises."""
    path, name = Path(source).expanduser(), str(source)
    listing: Listing | None
    if isinstance(source, str) and (source in (*EMBEDDED, "cifar10") or source.startswith(PREFIX)):
        return open_images(source, split_seed=split_seed, **options)
    if (found := list_unlabelled(path)) is not None:
        name, listing = str(found.root), _unlabelled_folder(source, found, split_seed)
    else:
        listing = _unlabelled_manifest(path, split_seed)
    if listing is None:
        return open_images(source, split_seed=split_seed, **options)
    channels, cache = options.pop("channels", None), options.pop("cache", None)
    if channels is not None:
        listing = replace(listing, images=BandsOf(listing.images, checked(channels)))
    return check(listing, name=source_name(name), cache=cache, decoded_limit=DECODED_LIMIT, **options)


def _unlabelled_folder(source: str | Path, found: Unlabelled, seed: int) -> Listing:
    path, names = found.root, found.names
    labels, everything = np.zeros(len(names), np.int64), np.arange(len(names))
    train, test, note = split_train(labels, Splitting(UNLABELLED_TESTS, seed), everything)
    notes = (
        f"{printable(str(path))} has no class folders: all its images are used.",
        note.replace(" of each class", ""),
        *([f"Other splits of {printable(str(source))} are left out."] if path != Path(source).expanduser() else []),
        *found.notes,
    )
    return Listing(("images",), Files(path, tuple(names)), labels, train, test, notes)


def _unlabelled_manifest(path: Path, seed: int) -> Listing | None:
    """A manifest whose labels training would refuse, read without them; None for any other source."""
    suffix = path.suffix.lower()
    if suffix not in TABLES or not path.is_file() or (suffix == ".parquet" and holds_images(path)):
        return None
    try:
        arrange(list_manifest(path, Splitting(seed=seed)), Splitting(seed=seed))
        return None
    except DataError:
        splitting = Splitting(UNLABELLED_TESTS, seed)
        listing = arrange(list_manifest(path, splitting, labelled=False), replace(splitting, to_train=False))
    said = f"{printable(path.name)} is read without labels."
    return replace(listing, notes=(said, *(note.replace(" of each class", "") for note in listing.notes)))


def _one_class_each(source: str) -> str:
    return (
        f"{printable(source)} holds one class per image, and only folders and tables of paths can hold several "
        f"labels: write a table of paths and labels, or train without --task multilabel"
    )


def _channels_of(listing: Listing) -> tuple[int, str]:
    """How many channels the first NumPy file has, and what to say of it. Raises ``DataError``."""
    name = printable(listing.images.names[0])
    try:
        count = read_array(listing.images.read(0)).shape[2]
    except (OSError, UnreadableImage) as error:
        raise DataError(f"{name} cannot be read ({error}): replace it") from None
    if count > MOST_CHANNELS:
        raise DataError(
            f"{name} has {count} channels, but at most {MOST_CHANNELS} can be read: choose some with --channels"
        )
    return (
        count,
        f"The images are NumPy files of {plural(count, 'channel')}, as in {name}; --channels {count} does the same.",
    )


def _found(source: str, splitting: Splitting) -> Found:
    if source.startswith(PREFIX):
        return list_hugging_face(source, splitting)
    check_source(source)
    path = Path(source).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir():
        if (shards := shards_in(path, ".tar", splitting)) is not None:
            return list_tar(shards, splitting)
        if (shards := shards_in(path, ".parquet", splitting)) is not None:
            return list_parquet(shards, splitting)
        with numpy_files(holds_numpy(path)):
            return list_metadata(path, splitting) or list_folder(path, splitting)
    pattern = is_pattern(source) and suffix in (".tar", ".parquet")
    if path.exists() and not path.is_file():
        raise DataError(f"{printable(source)} is not a regular file: give {KINDS}")
    if suffix == ".tar":
        return list_tar(shards_of(source, splitting), splitting)
    if suffix == ".parquet" and (pattern or holds_images(path)):
        return list_parquet(shards_of(source, splitting), splitting)
    if suffix in TABLES:
        return list_manifest(path, splitting)
    if path.name.lower().endswith(ARCHIVES):
        raise DataError(f"{printable(source)} is an archive: unpack it and give its folder")
    raise DataError(f"{not_coco(path) or f'{printable(source)} is not a supported kind of file'}: give {KINDS}")


def _digits(split_seed: int, cache: Path | None) -> Images:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    pixels = np.repeat((found.images * (255 / 16)).round().astype(np.uint8)[..., None], 3, axis=-1)  # (1797, 8, 8, 3)
    labels = found.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(labels)), train_size=DIGITS_TRAIN, stratify=labels, random_state=split_seed
    )
    return _from_arrays(
        "digits",
        tuple(str(digit) for digit in range(10)),
        (pixels[train], labels[train]),
        (pixels[test], labels[test]),
        cache,
        mirror_keeps_class=False,
        notes=(
            f"{len(train):,} images to train on and {len(test):,} to test on (stratified, seed {split_seed}).",
            "All images are grayscale and become RGB with three equal channels.",
        ),
    )


def _cifar10(root: Path, cache: Path | None) -> Images:
    from torchvision.datasets import CIFAR10

    try:
        here = (root / CIFAR10.base_folder).is_dir()
        parts = [CIFAR10(str(root), train=train, download=not here) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"CIFAR-10 is not in {root} and could not be downloaded ({str(error).splitlines()[0]}): "
            f"put cifar-10-batches-py/, or train/ and test/ folders of its images, there"
        ) from None
    (train, train_labels), (test, test_labels) = ((p.data, np.array(p.targets, np.int64)) for p in parts)
    return _from_arrays(
        "cifar10",
        tuple(parts[0].classes),
        (train, train_labels),
        (test, test_labels),
        cache,
        mirror_keeps_class=True,
        notes=(),
    )


def _from_arrays(
    name: str,
    classes: tuple[str, ...],
    train: tuple[Pixels, Labels],
    test: tuple[Pixels, Labels],
    cache: Path | None,
    *,
    mirror_keeps_class: bool,
    notes: tuple[str, ...],
) -> Images:
    digest = hashlib.sha256(json.dumps([1, "arrays", classes]).encode())
    for pixels, labels in (train, test):
        digest.update(f"{pixels.shape}".encode())
        digest.update(np.ascontiguousarray(pixels).data)
        digest.update(labels.astype("<i8").data)
    fingerprint = digest.hexdigest()
    sets = []
    for part, (pixels, labels) in (("train", train), ("test", test)):
        kept, keep_under = Kept(np.ascontiguousarray(pixels)), None
        if cache is not None and pixels.nbytes >= ON_DISK_FROM:
            keep_under = cache / f"{fingerprint[:16]}-{part}"
            path = keep_under.with_name(f"{keep_under.name}.npy")
            kept = keep(path, pixels.shape, [pixels])[0]
        sets.append(ImageSet(labels, UniformStore(kept), None, keep_under))
    height, width = train[0].shape[1:3]
    return Images(name, classes, sets[0], sets[1], mirror_keeps_class, fingerprint, notes, (height, width))
