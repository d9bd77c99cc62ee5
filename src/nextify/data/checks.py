"""From a listing to checked images, the same for every source: each image is looked at once, what cannot be read is
named, what may surprise is said, and what fits is held decoded."""

import contextlib
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nextify.data.bands import Bands, BandsOf, kind_of
from nextify.data.decode import Header, Pixels, UnreadableImage, decode, quiet, read_header, why_unread
from nextify.data.encoded import Encoded
from nextify.data.errors import DataError
from nextify.data.images import (
    DIGEST,
    EncodedStore,
    Images,
    ImageSet,
    MixedStore,
    Store,
    UniformStore,
    class_counts,
    label_of,
)
from nextify.data.kept import keep
from nextify.data.sources.listing import Indices, Listing
from nextify.system.files import parse_json, write_text_atomic
from nextify.system.text import plural, printable, some

VERSION = 2
"""Part of every fingerprint and index: raised when decoding or listing changes."""
IMBALANCE = 10
"""Ratio of the largest class to the smallest from which a note is made."""
THREADED_PIXELS = 128 * 128
"""Mean size of an image from which decoding in threads pays."""
DARK_PEAK = 2**14
"""Largest value below which 16-bit images are nearly black: they hold 14 bits or fewer."""
EXAMPLES = 2
"""Images named where labels contradict each other."""
DECODED = "d"
"""The letter that the index adds to the traits of an image that was decoded whole."""
NOTED = {
    "g": "are grayscale and become RGB with three equal channels",
    "t": "have transparency, which is filled with white",
    "r": "are turned upright by their EXIF or TIFF orientation",
    "a": "are animated; the first frame is used",
}
"""What is said of images of a trait (``decode.Header``); ``WARNED`` of those that may look other than meant."""
WARNED = {
    "b": "are TIFFs with extra bands besides colour (infrared or alpha), which are ignored",
    "n": "are fully transparent: their hidden colours are used; check that they show a picture",
}
SHOW_SECONDS = 0.3
"""Shortest time between two reports of progress."""


@dataclass(frozen=True, slots=True)
class Record:
    """What one look at an image gives."""

    digest: str
    """SHA-256 of its file."""
    header: Header


Records = dict[int, Record]
"""By an image's index in its source."""
Index = dict[str, list[Any]]
"""By an image's name: its stamp, and then the digest, height, width, traits and peak of its file."""
_FACTS = 5
"""Values of an entry after its stamp."""


def check(
    listing: Listing,
    *,
    name: str,
    cache: Path | None,
    decoded_limit: int,
    skip_unreadable: bool = False,
    to_train: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
    looked: tuple[Records, dict[int, str]] | None = None,
) -> Images:
    """The images of a listing, checked; ``skip_unreadable``, ``to_train`` and ``on_progress`` are those of
    ``open_images``.

    Args:
        cache: folder for what later starts need not do again; None for none.
        decoded_limit: bytes up to which all images are held decoded.
        looked: what ``examine`` gave, where it was called before.

    Raises:
        DataError: images that cannot be read, named.
    """
    used = np.concatenate([listing.train, listing.test])
    records, unreadable = looked or examine(
        listing.images, used, cache, decode=skip_unreadable, on_progress=on_progress
    )
    if not skip_unreadable:
        _refuse([(listing.images.names[i], reason) for i, reason in unreadable.items()], len(used))
    # An image whose header is whole belongs to the set: a training that it stopped is still the same one.
    wanted = listing
    train, test = (part[np.isin(part, list(records))] for part in (listing.train, listing.test))
    listing = replace(listing, train=train, test=test)
    fingerprint = _fingerprint(listing, records)
    readable = _readable(listing, unreadable, to_train) if unreadable else listing
    for what, before, after in (("train", wanted.train, readable.train), ("test", wanted.test, readable.test)):
        if len(before) and not len(after):
            raise DataError(f"none of {plural(len(before), 'image')} to {what} on can be read: replace them")
    notes = [*readable.notes, *_notes(readable, records)]
    shared = _shared(readable, records)
    if shared:
        first, second = (printable(listing.images.names[i]) for i in shared[0])
        count = plural(len(shared), "test image is also a training image", "test images are also training images")
        notes.append(f"{count} (the same bytes), so accuracy is inflated: {first} is identical to {second}.")
    bands = listing.images.bands if isinstance(listing.images, BandsOf) else None
    channels, kind = kind_of(bands)
    each = channels * np.dtype(kind).itemsize  # bytes of a pixel
    held = sum(r.header.height * r.header.width * each for r in records.values()) <= decoded_limit
    if not held and listing.undecoded_note:
        notes.append(listing.undecoded_note)
    sets, damaged = [], []
    for part, indices in (("train", readable.train), ("test", readable.test)):
        keep_under = None if cache is None else cache / f"{fingerprint[:16]}-{part}{'-skipped' if unreadable else ''}"
        store: Store = EncodedStore(listing.images, indices)
        if held and len(indices):
            try:
                store, refused = _decoded(listing.images, indices, records, keep_under, bands)
            except _Undecodable as error:
                damaged += error.images
                continue
            if refused is not None:
                notes.append(f"Decoded images could not be cached in {cache} ({refused.strerror}) and stay in memory.")
        names = tuple(listing.images.names[i] for i in indices)
        groups = None if readable.groups is None else [readable.groups[i] for i in indices]
        digests = np.array([records[i].digest[:DIGEST] for i in indices.tolist()], f"S{DIGEST}")
        sets.append(ImageSet(listing.labels[indices], store, names, keep_under, bands, groups, digests))
    _refuse(damaged, len(used))
    sizes = {(r.header.height, r.header.width) for r in records.values()}
    return Images(
        name=name,
        classes=listing.classes,
        train=sets[0],
        test=sets[1],
        mirror_keeps_class=True,
        fingerprint=fingerprint,
        notes=tuple(notes),
        native_size=sizes.pop() if len(sizes) == 1 else None,
        warnings=(*_contradictions(readable, records), *_odd_pixels(list(records.values()))),
        test_images_also_in_training=len(shared),
        left_out=readable.left_out,
        untested=readable.untested,
        middle_side=round(float(np.median([min(r.header.height, r.header.width) for r in records.values()]))),
        bands=bands,
    )


# -- looking at the images -----------------------------------------------------------------------------------------


def examine(
    images: Encoded,
    used: Indices,
    cache: Path | None = None,
    *,
    decode: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Records, dict[int, str]]:
    """Digest and header of each image that is used, and why some cannot be read; a name is looked at once.

    Args:
        cache: folder that remembers what lies in files, so that unchanged ones are not read again.
        decode: decode each image, which finds damage behind the header. Those have a record and a reason.
    """
    index_path = None
    known: Index = {}
    if cache is not None:
        place = hashlib.sha256(os.fsencode(images.place)).hexdigest()[:16]
        index_path = cache / f"index-{place}.json"
        known = _read_index(index_path)
    entries: Index = {}
    seen: dict[str, tuple[Record | None, str]] = {}
    records: Records = {}
    unreadable: dict[int, str] = {}
    shown = time.monotonic()

    def look(i: int, name: str) -> tuple[Record | None, str]:
        record, reason, entry = None, "", known.get(name)
        try:
            stamp = list(images.stamp(i))
            if entry is None or entry[: len(stamp)] != stamp or (decode and DECODED not in entry[-2]):
                data = images.read(i)
                header = read_header(data)
                digest = hashlib.sha256(data).hexdigest()
                entry = [*stamp, digest, header.height, header.width, header.traits, header.peak]
                record = Record(digest, header)
                if decode:
                    _decode(data, header)
                    entry[-2] += DECODED
        except (OSError, UnreadableImage) as error:
            reason = why_unread(error)
        if not reason or record is None:  # what was whole at an earlier start and is damaged since belongs to the set
            if entry is None:
                return None, reason
            entries[name] = entry
            record = Record(entry[-5], Header(*entry[-4:]))
        return record, reason

    with quiet():
        for count, i in enumerate(used.tolist()):
            name = images.names[i]
            if name not in seen:
                seen[name] = look(i, name)
            record, reason = seen[name]
            if record is not None:
                records[i] = record
            if reason:
                unreadable[i] = reason
            if on_progress is not None and count % 64 == 0 and time.monotonic() - shown > SHOW_SECONDS:
                shown = time.monotonic()
                on_progress(count, len(used))
    if index_path is not None and entries != known:
        with contextlib.suppress(OSError):  # an index that cannot be written only costs the next start
            index_path.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomic(index_path, json.dumps({"version": VERSION, "files": entries}))
    return records, unreadable


def _read_index(path: Path) -> Index:
    """What an index remembers; empty where there is none, or anything in it is not as ``examine`` writes it."""
    try:
        index = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(index, dict) or index.get("version") != VERSION:
        return {}
    files = index.get("files")
    return files if isinstance(files, dict) and all(map(_is_entry, files.values())) else {}


def _is_entry(entry: object) -> bool:
    """Whether it is a stamp, then the digest, height, width, traits and peak of an image."""
    if not isinstance(entry, list) or len(entry) < _FACTS:
        return False
    digest, height, width, traits, peak = entry[-_FACTS:]
    return (
        all(type(number) is int for number in (*entry[:-_FACTS], height, width, peak))
        and (height >= 1 and width >= 1 and peak >= 0)
        and (isinstance(digest, str) and isinstance(traits, str))
    )


def _readable(listing: Listing, unreadable: dict[int, str], to_train: bool) -> Listing:
    """The listing without unreadable images. Raises ``DataError`` where a class is lost."""
    names = listing.images.names
    left = {reason: list(files) for reason, files in listing.left_out.items()}
    for i, reason in unreadable.items():
        left.setdefault(f"images that cannot be read ({reason})", []).append(names[i])
    bad = np.isin(listing.train, list(unreadable))
    train = listing.train.copy() if to_train else listing.train[~bad]
    replaced = []
    if to_train and bad.any():
        labels = listing.labels[listing.train]
        before, after = (class_counts(own, len(listing.classes)) for own in (labels, labels[~bad]))
        for lost in np.flatnonzero((before > 0) & (after == 0))[:1]:
            name = printable(listing.classes[lost])
            raise DataError(f"no training image of class {name} can be read: replace them, or leave the class out")
        for position in np.flatnonzero(bad):
            same = labels == labels[position]
            alike = np.flatnonzero(~bad & (same.all(1) if same.ndim == 2 else same))
            if not len(alike):  # of several labels, no other has the very same
                alike = np.flatnonzero(~bad)
            train[position] = listing.train[alike[np.searchsorted(alike, position) % len(alike)]]
            replaced.append(f"{names[train[position]]} for {names[listing.train[position]]}")
    test = listing.test[~np.isin(listing.test, list(unreadable))]
    count = plural(len(unreadable), "image cannot be read and is", "images cannot be read and are")
    said = f"{count} left out: {some([names[i] for i in unreadable])}."
    if replaced:
        said += f" Training uses others in their place: {some(replaced)}."
    return replace(listing, train=train, test=test, left_out=left, notes=(*listing.notes, said))


def _refuse(unreadable: list[tuple[str, str]], total: int) -> None:
    if unreadable:
        windows = all("\\" in name for name, _ in unreadable)  # a table made there
        slashes = "write their paths with / instead of \\, " if windows else ""
        raise DataError(
            f"{len(unreadable):,} of {plural(total, 'image')} cannot be read: "
            f"{some([f'{name} ({reason})' for name, reason in unreadable])}; {slashes}replace them, move them "
            f"elsewhere, or leave them out with --skip-unreadable"
        )


class _Undecodable(Exception):
    """Images whose damage shows as they are decoded."""

    def __init__(self, images: list[tuple[str, str]]) -> None:
        super().__init__(images)
        self.images = images
        """Names, and why they cannot be read."""


def _decoded(
    images: Encoded, indices: Indices, records: Records, keep_under: Path | None, bands: Bands | None
) -> tuple[UniformStore | MixedStore, OSError | None]:
    """The images of ``indices`` decoded, from the cache where they are there already. Raises ``_Undecodable``."""
    sizes = np.array(
        [(records[i].header.height, records[i].header.width) for i in indices.tolist()], np.int64
    )  # (N, 2)
    uniform = bool((sizes == sizes[0]).all())
    channels, kind = kind_of(bands)
    values = int(sizes.prod(1).sum()) * channels
    shape = (len(indices), *map(int, sizes[0]), channels) if uniform else (values,)
    path = None if keep_under is None else keep_under.with_name(f"{keep_under.name}.npy")
    decoded = _decode_all(images, indices.tolist(), records, channels)
    kept, refused = keep(path, shape, (image[None] if uniform else image.reshape(-1) for image in decoded), kind)
    return (UniformStore(kept) if uniform else MixedStore(kept, sizes)), refused


def _decode(data: bytes, header: Header) -> Pixels:
    pixels = decode(data)
    if pixels.shape[:2] != (header.height, header.width):
        raise UnreadableImage("its size differs from the size in its header")
    return pixels


def _decode_all(images: Encoded, indices: list[int], records: Records, channels: int) -> Iterator[Pixels]:
    """The pixels of each image, decoded once where a table lists it several times. Raises ``_Undecodable``."""
    first: dict[str, int] = {}
    which = [first.setdefault(images.names[i], i) for i in indices]
    unreadable: list[tuple[str, str]] = []

    def one(index: int) -> Pixels | str:
        try:
            return _decode(images.read(index), records[index].header)
        except (OSError, UnreadableImage) as error:
            return why_unread(error)

    def outcomes() -> Iterator[Pixels]:
        own = list(first.values())
        large = sum(records[i].header.height * records[i].header.width for i in own) / len(own) >= THREADED_PIXELS
        with ThreadPoolExecutor((os.cpu_count() or 1) if large else 1) as pool:
            for start in range(0, len(own), 64):
                some_own = own[start : start + 64]
                for index, outcome in zip(some_own, (pool.map if large else map)(one, some_own), strict=True):
                    if isinstance(outcome, str):
                        unreadable.append((images.names[index], outcome))
                        header = records[index].header
                        outcome = np.zeros((header.height, header.width, channels), np.uint8)
                    yield outcome

    with quiet():
        if len(first) == len(which):
            yield from outcomes()
        else:
            pixels = dict(zip(first.values(), outcomes(), strict=True))
            yield from map(pixels.__getitem__, which)
    if unreadable:
        raise _Undecodable(unreadable)


# -- what is said of them ------------------------------------------------------------------------------------------


def _fingerprint(listing: Listing, records: Records) -> str:
    # "folder" whatever the source is: the same images, names, classes and order make the same training.
    digest = hashlib.sha256(json.dumps([VERSION, "folder", listing.classes, len(listing.train)]).encode())
    for i in (*listing.train, *listing.test):
        label = listing.labels[i] if listing.labels.ndim == 1 else label_of(listing.labels, i)
        line = f"{listing.images.names[i]}\0{label}\0{records[i].digest}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _notes(listing: Listing, by_index: Records) -> Iterator[str]:
    records = list(by_index.values())
    total = len(records)
    for trait, what in NOTED.items():
        if count := sum(trait in record.header.traits for record in records):
            yield f"{'All' if count == total else f'{count:,} of {total:,}'} images {what}."
    sizes = sorted({(r.header.height * r.header.width, r.header.height, r.header.width) for r in records})
    if len(sizes) > 1:
        small, large = (f"{width}×{height}" for _, height, width in (sizes[0], sizes[-1]))
        yield f"The images have {len(sizes):,} different sizes, from {small} to {large} pixels."
    counts = Counter(i for own in listing.train for i in label_of(listing.labels, own))
    (most, largest), *_, (least, smallest) = counts.most_common() * 2 or [(0, 0)] * 2
    if largest > IMBALANCE * smallest:
        yield (
            f"Classes are imbalanced: {printable(listing.classes[most])} has {largest:,} training images, "
            f"{printable(listing.classes[least])} has {smallest:,}."
        )


def _odd_pixels(records: list[Record]) -> Iterator[str]:
    """What may make images look other than meant, one sentence for each kind."""
    for trait, what in WARNED.items():
        if count := sum(trait in record.header.traits for record in records):
            yield f"{count:,} of {len(records):,} images {what}"
    deep = [record.header.peak for record in records if record.header.peak]
    if deep and max(deep) < DARK_PEAK:
        found = plural(len(deep), "16-bit image is", "16-bit images are")
        yield (
            f"{found} nearly black ({max(deep).bit_length()}-bit values stored in 16 bits?), with values up to "
            f"{max(deep):,} of 65,535: scale them to the full range"
        )


def _shared(listing: Listing, records: Records) -> list[tuple[int, int]]:
    """Test images that are training images too, each with one of those."""
    trained = {records[i].digest: int(i) for i in listing.train}
    return [(int(i), trained[records[i].digest]) for i in listing.test if records[i].digest in trained]


def _contradictions(listing: Listing, records: Records) -> Iterator[str]:
    """One sentence where the same image stands in more than one class."""
    copies: dict[str, dict[tuple[int, ...], int]] = {}  # of a digest: label to the first image that has it
    for i in (*listing.train, *listing.test):
        copies.setdefault(records[i].digest, {}).setdefault(label_of(listing.labels, int(i)), int(i))
    torn = [by_label for by_label in copies.values() if len(by_label) > 1]
    if not torn:
        return

    def words(label: tuple[int, ...]) -> str:
        return ", ".join(printable(listing.classes[k]) for k in label) or "none"

    examples = "; ".join(
        " and ".join(
            f"{printable(listing.images.names[i])} as {words(label)}" for label, i in list(by_label.items())[:2]
        )
        for by_label in torn[:EXAMPLES]
    )
    count = plural(len(torn), "image appears", "images appear")
    if listing.labels.ndim == 2:
        yield f"{count} under several names with different labels ({examples}): correct them"
    else:
        yield (
            f"{count} in more than one class ({examples}): correct their labels, or give --task multilabel where an "
            f"image can have several"
        )
