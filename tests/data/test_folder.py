"""Image folders: what is accepted, what is said, and each way of being refused."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextify.data import DataError, open_images
from nextify.data import kept as kept_module
from nextify.data.sources.parts import natural
from tests.helpers import save_noise


def split_folder(root: Path, test: str = "val", classes: tuple[str, ...] = ("cat", "dog"), each: int = 3) -> Path:
    for s, split in enumerate(("train", test)):
        for c, name in enumerate(classes):
            for i in range(each):
                save_noise(root / split / name / f"{i}.png", 100 * s + 10 * c + i)
    return root


def flat_folder(root: Path, counts: dict[str, int]) -> Path:
    for c, (name, count) in enumerate(counts.items()):
        for i in range(count):
            save_noise(root / name / f"{i}.png", 1000 * c + i)
    return root


def test_train_and_val(tmp_path: Path) -> None:
    images = open_images(str(split_folder(tmp_path / "pets")))
    assert images.name == "pets"
    assert images.classes == ("cat", "dog")
    assert (images.train_images, images.test_images, images.num_classes) == (6, 6, 2)
    assert images.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.train.labels.dtype == np.int64
    assert images.native_size == (8, 8)
    assert images.mirror_keeps_class
    assert images.notes == ()
    assert images.train.name(4) == "train/dog/1.png"
    for i in range(6):
        expected = np.asarray(Image.open(tmp_path / "pets" / images.test.name(i)))
        np.testing.assert_array_equal(images.test.load(i), expected)
    assert images.train.array is not None
    assert images.train.array.shape == (6, 8, 8, 3)


def test_val_is_preferred_and_test_serves(tmp_path: Path) -> None:
    both = split_folder(split_folder(tmp_path / "both"), "test")
    images = open_images(str(both))
    assert images.test.name(0).startswith("val/")
    assert any("test/ is not used" in note for note in images.notes)
    assert open_images(str(split_folder(tmp_path / "t", "Test"))).test.name(0).startswith("Test/")


def test_one_folder_is_split_by_class_and_seed(tmp_path: Path) -> None:
    root = flat_folder(tmp_path / "f", {"a": 20, "b": 10, "c": 2, "d": 1})
    images = open_images(str(root), test_fraction=0.3)
    assert np.bincount(images.train.labels).tolist() == [14, 7, 1, 1]
    assert np.bincount(images.test.labels).tolist() == [6, 3, 1]
    names = {images.train.name(i) for i in range(len(images.train))}
    assert names.isdisjoint(images.test.name(i) for i in range(len(images.test)))
    assert any("10 of 33 images (30% of each class, seed 0)" in note for note in images.notes)
    again, other = (open_images(str(root), test_fraction=0.3, split_seed=s) for s in (0, 1))
    assert again.fingerprint == images.fingerprint != other.fingerprint
    assert {other.train.name(i) for i in range(len(other.train))} != names


def test_train_alone_is_split(tmp_path: Path) -> None:
    flat_folder(tmp_path / "train", {"a": 5, "b": 5})
    images = open_images(str(tmp_path))
    assert (len(images.train), len(images.test)) == (8, 2)
    assert any("no val/" in note for note in images.notes)


def test_names(tmp_path: Path) -> None:
    for c, name in enumerate(("10", "2", "Ünï cödé", "b" * 100)):
        for i in range(2):
            save_noise(tmp_path / name / "deeper" / f"{i}.JPEG", 10 * c + i)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "2" / ".x.png").write_bytes(b"no image")
    (tmp_path / "2" / "notes.txt").write_text("ignored")
    (tmp_path / "2" / "loop").symlink_to(tmp_path / "2")
    images = open_images(str(tmp_path))
    assert images.classes == ("2", "10", "b" * 100, "Ünï cödé")
    assert len(images.train) + len(images.test) == 8
    assert sorted(("b10", "B9", "a", "b"), key=natural) == ["a", "b", "B9", "b10"]


@pytest.mark.parametrize("below", ["", "train/"])
def test_folders_that_all_classes_hold_are_noted_as_what_may_be_the_classes(tmp_path: Path, below: str) -> None:
    for number, name in enumerate(("camera1/cat", "camera1/dog", "camera2/cat", "camera2/dog")):
        flat_folder(tmp_path / below / name, {".": 2 + number % 2})
    images = open_images(tmp_path)
    assert images.classes == ("camera1", "camera2")
    (note,) = [note for note in images.notes if "same folders" in note]
    assert "cat, dog, whose names are not used" in note
    assert "put each one's images in one folder" in note
    (tmp_path / below / "camera2" / "dog").rename(tmp_path / below / "camera2" / "cow")  # no longer the same
    assert not any("same folders" in note for note in open_images(tmp_path).notes)


def test_notes_on_content(tmp_path: Path) -> None:
    root = split_folder(tmp_path)
    for i in range(40):
        save_noise(root / "train" / "dog" / f"more{i}.png", 500 + i)
    save_noise(root / "train" / "cat" / "gray.png", 1, mode="L")
    save_noise(root / "train" / "cat" / "clear.png", 2, mode="RGBA", size=(10, 12))
    for copy in ("val/dog/copy.png", "val/cat/copy.png"):
        (root / copy).write_bytes((root / "train/dog/0.png").read_bytes())
    images = open_images(str(root))
    assert images.native_size is None
    text = "\n".join(images.notes)
    assert "1 of 56 images are grayscale" in text
    assert "1 of 56 images have transparency" in text
    assert "2 different sizes, from 8×8 to 10×12" in text
    assert "2 test images are also training images" in text
    (warning,) = images.warnings
    examples = "(train/dog/0.png as dog and val/cat/copy.png as cat)"
    remedy = "correct their labels, or give --task multilabel where an image can have several"
    assert warning == f"1 image appears in more than one class {examples}: {remedy}"
    assert images.test_images_also_in_training == 2
    assert "imbalanced" not in text
    for i in range(20):
        save_noise(root / "train" / "dog" / f"evenmore{i}.png", 700 + i)
    assert any("dog has 63 training images, cat has 5" in note for note in open_images(str(root)).notes)


def test_class_without_test_images_is_noted(tmp_path: Path) -> None:
    root = split_folder(tmp_path, classes=("a", "b", "c"))
    for file in (root / "val" / "c").iterdir():
        file.unlink()
    (root / "val" / "c").rmdir()
    assert any("no images of class c" in note for note in open_images(str(root)).notes)


# -- refused -------------------------------------------------------------------------------------------------------


def absent(root: Path) -> Path:
    return root / "nowhere"


def a_file(root: Path) -> Path:
    save_noise(root / "x.png", 0)
    return root / "x.png"


def nothing(root: Path) -> Path:
    (root / "a").mkdir()
    (root / "a" / "readme.txt").write_text("no image")
    return root


def no_folders(root: Path) -> Path:
    save_noise(root / "1.jpg", 0)
    return root


def one_class(root: Path) -> Path:
    return flat_folder(root, {"only": 3})


def nested(root: Path) -> Path:
    split_folder(root / "pets")
    return root


def around(root: Path) -> Path:
    flat_folder(root / "images", {"a": 2, "b": 2})
    return root


def listed(root: Path) -> Path:
    save_noise(root / "images" / "1.png", 0)
    (root / "train.csv").write_text("path,label\nimages/1.png,a\n")
    return root


def empty_class(root: Path) -> Path:
    split_folder(root)
    (root / "train" / "emu").mkdir()
    return root


def unknown_class(root: Path) -> Path:
    split_folder(root)
    save_noise(root / "val" / "emu" / "1.png", 0)
    return root


def no_train(root: Path) -> Path:
    split_folder(root)
    (root / "train").rename(root / ".gone")
    return root


def single_images(root: Path) -> Path:
    return flat_folder(root, {"a": 1, "b": 1})


def broken(root: Path) -> Path:
    split_folder(root)
    save_noise(root / "train" / "cat" / "cut.jpg", 0, size=(64, 64))
    whole = (root / "train" / "cat" / "cut.jpg").read_bytes()
    (root / "train" / "cat" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "train" / "dog" / "void.png").write_bytes(b"")
    (root / "val" / "dog" / "text.jpg").write_text("hello")
    (root / "val" / "dog" / "link.jpg").symlink_to(root / "gone.jpg")
    return root


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (absent, ["no such folder", "nowhere"]),
        (a_file, ["is not a supported kind of file", "give "]),
        (nothing, ["has no images", "one folder per class"]),
        (no_folders, ["no class folders", "put the images of each class"]),
        (one_class, ["one class only (only)", "add a folder"]),
        (nested, ["one class only (pets)", "give ", "/pets"]),
        (around, ["one class only (images)", "/images if its folders are the classes, or add a folder"]),
        (listed, ["one class only (images)", "or give ", "/train.csv if it lists paths and labels"]),
        (empty_class, ["class emu without images", "move it elsewhere"]),
        (unknown_class, ["val/ has class emu that train/ lacks", "add training images"]),
        (no_train, ["no train/", "add train/"]),
        (single_images, ["none is left to test on", "add images"]),
        (
            broken,
            [
                "4 of 16 images cannot be read",
                "train/cat/cut.jpg (truncated)",
                "train/dog/void.png (empty file)",
                "val/dog/text.jpg (not an image)",
                "val/dog/link.jpg (dangling link)",
                "replace them",
            ],
        ),
    ],
)
def test_refused_in_one_line(tmp_path: Path, make: Callable[[Path], Path], parts: list[str]) -> None:
    source = str(make(tmp_path))
    with pytest.raises(DataError) as caught:
        open_images(source, cache=tmp_path / ".cache")
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_many_broken_are_counted(tmp_path: Path) -> None:
    split_folder(tmp_path)
    for i in range(30):
        (tmp_path / "train" / "cat" / f"bad{i}.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"30 of 42 images.*and 25 more"):
        open_images(str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder(tmp_path: Path) -> None:
    split_folder(tmp_path)
    (tmp_path / "train" / "cat").chmod(0)
    with pytest.raises(DataError, match="check its permissions"):
        open_images(str(tmp_path))
    (tmp_path / "train" / "cat").chmod(0o700)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_bad_fraction(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        open_images(str(flat_folder(tmp_path, {"a": 2, "b": 2})), test_fraction=fraction)


# -- what is held, and where ---------------------------------------------------------------------------------------


def mixed_sizes(root: Path) -> Path:
    for c, name in enumerate(("a", "b")):
        for i in range(4):
            save_noise(root / name / f"{i}.png", 10 * c + i, size=(8 + i, 9 + c))
    return root


@pytest.mark.parametrize("make", [split_folder, mixed_sizes])
def test_stores_agree(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    root, cache = make(tmp_path / "data"), tmp_path / "cache"
    memory = open_images(str(root))
    disk = open_images(str(root), cache=cache)
    files = open_images(str(root), decoded_limit=10)
    assert memory.fingerprint == disk.fingerprint == files.fingerprint
    assert list(cache.glob("*.npy"))
    assert not list(cache.glob(".*"))
    assert files.train.array is None
    for source in (disk, files, pickle.loads(pickle.dumps(disk)), pickle.loads(pickle.dumps(memory))):
        for mine, theirs in ((memory.train, source.train), (memory.test, source.test)):
            np.testing.assert_array_equal(mine.labels, theirs.labels)
            for i in range(len(mine)):
                np.testing.assert_array_equal(mine.load(i), theirs.load(i))


def test_pixels_on_disk_are_pickled_by_name(tmp_path: Path) -> None:
    for i in range(4):
        save_noise(tmp_path / "data" / "ab"[i % 2] / f"{i}.png", i, size=(200, 200))
    images = open_images(str(tmp_path / "data"), cache=tmp_path / "cache")
    assert len(pickle.dumps(images)) < 5_000


def test_second_start_reads_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = split_folder(tmp_path / "data"), tmp_path / "cache"
    first = open_images(str(root), cache=cache)

    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr("nextify.data.encoded.Files.read", refuse)
        second = open_images(str(root), cache=cache)
    assert second.fingerprint == first.fingerprint
    expected = first.train.load(5).copy()
    np.testing.assert_array_equal(second.train.load(5), expected)
    for damaged in cache.glob("*train.npy"):
        part = damaged.read_bytes()[:200]
        damaged.unlink()  # a new file, as the old one is still mapped
        damaged.write_bytes(part)
    third = open_images(str(root), cache=cache)
    np.testing.assert_array_equal(third.train.load(5), expected)


BAD_ENTRIES = [5, None, [], "text", {}, ["x"] * 9]


@pytest.mark.parametrize(
    "bad", [*BAD_ENTRIES, "width as text", "negative height", "nested", "list", "no files"], ids=str
)
def test_an_index_that_is_not_one_is_made_anew(tmp_path: Path, bad: object) -> None:
    root, cache = split_folder(tmp_path / "data"), tmp_path / "cache"
    first = open_images(str(root), cache=cache)
    (path,) = cache.glob("index-*.json")
    whole = path.read_text()
    content = json.loads(whole)
    name, entry = next(iter(content["files"].items()))
    match bad:
        case "width as text":
            content["files"][name] = [*entry[:-3], "8", *entry[-2:]]
        case "negative height":
            content["files"][name] = [*entry[:-4], -8, *entry[-3:]]
        case "list":
            content = [content]
        case "no files":
            content["files"] = 5
        case _:
            content["files"][name] = bad
    path.write_text("[" * 100_000 if bad == "nested" else json.dumps(content))
    (root / name).touch()  # so that the entry of this image does not stand for it
    assert open_images(str(root), cache=cache).fingerprint == first.fingerprint
    assert json.loads(path.read_text())["files"].keys() == json.loads(whole)["files"].keys()


def test_content_and_names_make_the_fingerprint(tmp_path: Path) -> None:
    root, cache = split_folder(tmp_path / "data"), tmp_path / "cache"
    prints = [open_images(str(root), cache=cache).fingerprint]
    save_noise(root / "train" / "cat" / "0.png", 999)
    prints.append(open_images(str(root), cache=cache).fingerprint)
    (root / "train" / "cat" / "0.png").rename(root / "train" / "cat" / "00.png")
    prints.append(open_images(str(root), cache=cache).fingerprint)
    assert len(set(prints)) == 3
    root.rename(tmp_path / "moved")
    assert open_images(str(tmp_path / "moved"), cache=cache).fingerprint == prints[-1]


def test_full_disk_costs_the_cache_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = split_folder(tmp_path / "data"), tmp_path / "cache"

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_module.np.lib.format, "write_array", full)
    images = open_images(str(root), cache=cache)
    assert any("No space left on device" in note and "stay in memory" in note for note in images.notes)
    assert images.train.load(0).shape == (8, 8, 3)
    assert not [p for p in cache.iterdir() if "npy" in p.name]


def test_file_that_vanishes_later_is_named(tmp_path: Path) -> None:
    root = split_folder(tmp_path)
    images = open_images(str(root), decoded_limit=0)
    (root / "train" / "cat" / "1.png").unlink()
    with pytest.raises(DataError, match=r"train/cat/1\.png cannot be read"):
        images.train.load(1)


# -- embedded sources ----------------------------------------------------------------------------------------------


def test_digits() -> None:
    images = open_images("digits")
    assert (images.train_images, images.test_images, images.num_classes) == (600, 1197, 10)
    assert images.native_size == (8, 8)
    assert not images.mirror_keeps_class
    assert set(np.bincount(images.train.labels)) <= set(range(57, 64))
    assert images.train.array is not None
    assert (images.train.array.min(), images.train.array.max()) == (0, 255)
    assert open_images("digits").fingerprint == images.fingerprint
    assert open_images("digits", split_seed=1).fingerprint != images.fingerprint


def test_cifar10_as_a_local_folder(tmp_path: Path) -> None:
    images = open_images("cifar10", root=split_folder(tmp_path, "test"))
    assert images.name == "cifar10"
    assert images.test.name(0).startswith("test/")


def test_import_is_light() -> None:
    code = (
        "import sys, nextify.data; print([m for m in ('torch', 'timm', 'sklearn', 'torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
