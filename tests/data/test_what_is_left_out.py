"""Every file of a source is used, left out for a reason, or refused; unreadable images can be left out."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from nextify.data import DataError, Images, open_images
from nextify.data.preflight import preflight, split_csv
from nextify.paper.recipe import Recipe
from tests.helpers import encoded, noise, save_noise, write_tar


def png(seed: int) -> bytes:
    return encoded(Image.fromarray(noise(seed, 8, 8)))


def write(root: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(i) if name.endswith(".png") else b"x")


def names(images: Images) -> list[str]:
    return [part.name(i) for part in (images.train, images.test) for i in range(len(part))]


# -- the sum of used, left out and refused equals what is on the disk --------------------------------------------------


def in_folders(root: Path) -> str:
    write(root, *(f"{part}/{c}/{i}.png" for part in ("train", "val", "test") for c in "ab" for i in range(4)))
    write(root, "train/a/x.HEIC", "train/b/@eaDir/0.png", "runs/x/preflight.json", "runs/x/curves.png", "val/.hidden")
    (root / "train" / "a" / "loop").symlink_to(root)
    return str(root)


def in_a_table(root: Path) -> str:
    write(root, *(f"p/{i}.png" for i in range(12)), "p/more.png", "p/notes.txt", "p/raw.dng")
    rows = [f"p/{i}.png,{'ab'[i % 2]},{'test' if i < 2 else 'val' if i < 4 else 'train'}" for i in range(12)]
    (root / "m.csv").write_text("\n".join(["path,label,split", *rows]))
    return str(root / "m.csv")


def in_tars(root: Path) -> str:
    root.mkdir()
    for seed, part in enumerate(("train", "val", "test")):
        members = [(f"{i}.{end}", data) for i in range(6) for end, data in
                   (("png", png(100 * seed + i)), ("cls", b"%d" % (i % 2)))]  # fmt: skip
        write_tar(root / f"{part}-0.tar", [*members, ("7.txt", b"x"), ("8.cls", b"1")])
    write(root, "README.md", "classes.txt", "old/.x.tar")
    (root / "classes.txt").write_text("a\nb\n")
    return str(root)


def parquet(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "image": [{"bytes": png(seed + i), "path": None} for i in range(6)],
        "label": [i % 2 for i in range(6)],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def in_parquet_as_on_the_hub(root: Path) -> str:
    for seed, part in enumerate(("train", "validation", "test")):
        parquet(root / "data" / f"{part}-00000-of-00001.parquet", 100 * seed)
    write(root, "README.md", ".gitattributes", "assets/logo.png")
    return str(root)


@pytest.mark.parametrize("make", [in_folders, in_a_table, in_tars, in_parquet_as_on_the_hub])
def test_the_part_to_test_on_can_be_chosen(make: Callable[[Path], str], tmp_path: Path) -> None:
    source = make(tmp_path / "set")
    usual, val, test = (open_images(source, to_train=False, tested=part) for part in (None, "val", "test"))
    seen = [[part.load(i).tobytes() for i in range(len(part))] for part in (usual.test, val.test, test.test)]
    assert seen[0] == seen[1] != seen[2]
    assert (usual.name, test.name) == (test.name.removesuffix(" (test)"), f"{usual.name} (test)")
    assert "nextify evaluate --split test measures a bundle on the split named test." in open_images(source).notes


def test_a_part_to_test_on_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write(tmp_path, *(f"{part}/{c}/{i}.png" for part in ("train", "val") for c in "ab" for i in range(4)))
    for source, message in (
        (
            tmp_path,
            r"--split test asks for a split that .* does not have \(only val/\): choose another, or leave --split out",
        ),
        (tmp_path / "train", "--split test asks for a split that .* does not have: choose another"),
    ):
        with pytest.raises(DataError, match=message):
            open_images(source, to_train=False, tested="test")
    with pytest.raises(DataError, match="digits has no val"):
        open_images("digits", tested="val")


@pytest.mark.parametrize("make", [in_folders, in_a_table, in_tars, in_parquet_as_on_the_hub])
def test_used_and_left_out_are_all_there_is(make: Callable[[Path], str], tmp_path: Path) -> None:
    root = tmp_path / "set"
    images = open_images(make(root))
    facts = preflight(images, Recipe(batch_size=2)).facts
    left = [name for of_reason in facts.left_out.values() for name in of_reason]
    on_disk = [Path(at, f).relative_to(root).as_posix() for at, _, files in os.walk(root) for f in files]
    if make is in_folders:
        on_disk.append("train/a/loop")
    if make is in_tars:  # what lies in the shards that are used, in their place
        on_disk = [name for name in on_disk if name not in ("train-0.tar", "val-0.tar", "classes.txt")]
        on_disk += [
            f"{part}-0.tar/{m}" for part in ("train", "val") for m in [*(f"{i}.png" for i in range(6)), "7.txt", "8"]
        ]
    if make is in_parquet_as_on_the_hub:
        used = [f"data/{part}-00000-of-00001.parquet" for part in ("train", "validation")]
        on_disk = [name for name in on_disk if name not in used] + [f"{name}#{i}" for name in used for i in range(6)]
    assert sorted([*names(images), *left]) == sorted(set(on_disk) - {"m.csv"})
    assert any("test" in note and "is not used" in note for note in images.notes)


def test_splits_of_the_hub_that_are_not_used_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rows(list[Any]):
        _fingerprint = "x"
        features: dict[str, Any]

        def __getitem__(self, key: Any) -> Any:
            return [row["label"] for row in self] if key == "label" else super().__getitem__(key)

        def select_columns(self, _: object) -> Rows:
            return self

        def cast_column(self, *_: object) -> Rows:
            return self

    class Feature:
        def __init__(self, decode: bool = True) -> None: ...

    class Label:
        names = ("a", "b")

    found = {}
    for seed, split in enumerate(("train", "test", "validation", "unsupervised")):
        found[split] = Rows({"image": {"bytes": png(100 * seed + i), "path": None}, "label": i % 2} for i in range(4))
        found[split].features = {"image": Feature(), "label": Label()}
    library = SimpleNamespace(Image=Feature, ClassLabel=Label, load_dataset=lambda name: found)
    monkeypatch.setitem(sys.modules, "datasets", library)
    images = open_images("hf:owner/pets")
    left = {reason: list(files) for reason, files in images.left_out.items()}
    assert left == {
        "in the split test, which is not used": [f"test#{i}" for i in range(4)],
        "in the split unsupervised, whose purpose is not known": [f"unsupervised#{i}" for i in range(4)],
    }
    assert len(names(images)) + sum(map(len, left.values())) == sum(map(len, found.values()))
    assert any("4 in the split unsupervised" in note for note in images.notes)


# -- test images without labels --------------------------------------------------------------------------------------


def test_a_test_folder_without_class_folders_is_unlabelled(tmp_path: Path) -> None:
    write(tmp_path, *(f"train/{c}/{i}.png" for c in "ab" for i in range(5)), "test/1.png", "test/2.png")
    images = open_images(str(tmp_path))
    assert all(name.startswith("train/") for name in names(images))
    assert images.left_out == {"in test/, which has no labels": ["test/1.png", "test/2.png"]}
    assert any("test/ has no labels, so it cannot be used for testing" in note for note in images.notes)
    with pytest.raises(DataError, match="test/ has no labels, so nothing can be measured on it"):
        open_images(str(tmp_path), to_train=False)


def test_an_unlabelled_val_part_does_not_fall_to_test_images(tmp_path: Path) -> None:
    write(tmp_path, *(f"{i}.png" for i in range(12)))
    rows = [f"{i}.png,{'ab'[i % 2]},train" for i in range(8)]
    rows += ["8.png,,val", "9.png,NaN,val", "10.png,a,test", "11.png,b,test"]
    (tmp_path / "m.csv").write_text("\n".join(["path,label,split", *rows]))
    images = open_images(str(tmp_path / "m.csv"))
    assert set(names(images)) == {f"{i}.png" for i in range(8)}
    assert any("split val has no labels" in note for note in images.notes)
    assert any("a share of the training images is the test set; split test is not used" in n for n in images.notes)


# -- tables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t", " ", "  "])
@pytest.mark.parametrize("ending", [".csv", ".txt"])
def test_lists_without_a_header(separator: str, ending: str, tmp_path: Path) -> None:
    write(tmp_path, *(f"in here/{i}.png" for i in range(8)))
    lines = [f"in here/{i}.png{separator}{'ab'[i % 2]}" for i in range(8)]
    (tmp_path / f"list{ending}").write_text("\n".join(lines) + "\n")
    images = open_images(str(tmp_path / f"list{ending}"))
    assert (len(names(images)), images.classes) == (8, ("a", "b"))
    assert any("has no header: the first column is taken as the path" in note for note in images.notes)


def test_groups_stay_on_one_side(tmp_path: Path) -> None:
    write(tmp_path, *(f"{i}.png" for i in range(60)))
    rows = [(f"{i}.png", "ab"[i % 2], f"patient {i // 4}") for i in range(60)]

    def opened(*split: str, seed: int = 0) -> tuple[Images, set[str]]:
        with open(tmp_path / "m.csv", "w", newline="") as file:
            csv.writer(file).writerows([("path", "label", "group", *["split"] * bool(split)), *(
                (*row, split[i % len(split)]) if split else row for i, row in enumerate(rows))])  # fmt: skip
        images = open_images(str(tmp_path / "m.csv"), split_seed=seed)
        of = {name: group for name, _, group in rows}
        train, test = ({of[part.name(i)] for i in range(len(part))} for part in (images.train, images.test))
        return images, train & test

    images, both = opened()
    assert not both
    assert 8 <= len(images.test) <= 16
    assert set(images.test.labels) == {0, 1}
    assert any("3 of 15 groups" in note and "no group is in both splits" in note for note in images.notes)
    assert opened(seed=1)[0].fingerprint != images.fingerprint
    images, both = opened("train", "train", "val")
    assert both
    assert any("groups have both training and test images" in note for note in images.notes)
    rows[:10] = [(*row[:2], "") for row in rows[:10]]
    assert any("10 of 60 images have no group" in note for note in opened()[0].notes)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("parts", [(), ("train", "test")])
def test_metadata_beside_the_images(ending: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    for part in parts or ("",):
        write(tmp_path / part, *(f"{i}.png" for i in range(8)))
        rows = [(f"{i}.png", "ab"[i % 2]) for i in range(8)]
        lines = [json.dumps({"file_name": n, "label": c}) for n, c in rows] if ending == "jsonl" else [
            "file_name,label", *(f"{n},{c}" for n, c in rows)]  # fmt: skip
        (tmp_path / part / f"metadata.{ending}").write_text("\n".join(lines))
    images = open_images(str(tmp_path))
    assert (len(names(images)), images.classes) == (8 * max(len(parts), 1), ("a", "b"))
    assert len(images.test) == (8 if parts else 2)
    assert any(f"metadata.{ending}" in note for note in images.notes)


@pytest.mark.parametrize("place", ["train", ""])
def test_what_lies_beside_metadata_is_counted(place: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    pictures = [f"{i}.png" for i in range(8)]
    write(root / place, *pictures, "unlisted.png", "notes.txt")
    write(root, "extra/1.png", "extra/deep/2.png", "extra/3.heic", "README.md", "extra/.hidden")
    lines = ["file_name,label", *(f"{name},{'ab'[i % 2]}" for i, name in enumerate(pictures))]
    (root / place / "metadata.csv").write_text("\n".join(lines))
    images = open_images(str(root))
    left = [name for of_reason in images.left_out.values() for name in of_reason]
    on_disk = [Path(at, f).relative_to(root).as_posix() for at, _, files in os.walk(root) for f in files]
    assert sorted([*names(images), *left, f"{place}/metadata.csv".lstrip("/")]) == sorted(on_disk)
    assert any("3 images that" in note and "does not list" in note for note in images.notes)


def test_metadata_without_labels_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train", "0.png", "1.png")
    (tmp_path / "train" / "metadata.csv").write_text("file_name,text\n0.png,a cat\n")
    with pytest.raises(DataError, match=r"metadata.csv has no column label \(its columns: file_name, text\)"):
        open_images(str(tmp_path))


def test_a_row_that_is_no_json_object_is_named(tmp_path: Path) -> None:
    for text, part in (
        ('{"path": "x", "label": 1}\n[1]', "row 2 of m.jsonl is not a JSON object"),
        ("{", "not a table of JSON"),
    ):
        (tmp_path / "m.jsonl").write_text(text)
        with pytest.raises(DataError, match=part):
            open_images(str(tmp_path / "m.jsonl"))


def test_a_table_reads_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "0.png", "1.png")
    (tmp_path / "m.csv").write_text("path,label\n" + "".join(f"{i % 2}.png,{'ab'[i % 2]}\n" for i in range(2000)))
    read: list[int] = []
    from nextify.data.encoded import Files

    original = Files.read
    monkeypatch.setattr(Files, "read", lambda self, index: read.append(index) or original(self, index))
    images = open_images(str(tmp_path / "m.csv"))
    assert len(names(images)) == 2000
    assert len(read) <= 2 * 3  # to check them, and to decode those of either part


# -- odd files -----------------------------------------------------------------------------------------------------


def two_classes(root: Path) -> Path:
    write(root, *(f"{c}/{i}.png" for c in ("cat", "dog") for i in range(4)))
    return root


@pytest.mark.parametrize("target", ["..", "../dog", "."])
def test_links_to_images_of_the_set_are_not_followed(target: str, tmp_path: Path) -> None:
    before = open_images(str(two_classes(tmp_path))).fingerprint
    (tmp_path / "cat" / "more").symlink_to(target, target_is_directory=True)
    images = open_images(str(tmp_path))
    assert images.fingerprint == before
    assert any("1 links to other images of the data set" in note for note in images.notes)


def test_links_that_lead_out_of_the_set_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "8.png", "9.png")
    two_classes(tmp_path / "set")
    (tmp_path / "set" / "cat" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert len(names(open_images(str(tmp_path / "set")))) == 10


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    two_classes(tmp_path / "set")
    os.mkfifo(tmp_path / "set" / "cat" / "pipe.png")
    with pytest.raises(DataError, match=r"1 of 9 images .*cat/pipe.png \(not a regular file\)"):
        open_images(str(tmp_path / "set"))
    for name in ("m.csv", "m.tar", "m.parquet", "tars/a.tar", "tars/a.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError, match=r"(not a regular file|are missing)"):
            open_images(str(tmp_path / name))
    os.remove(tmp_path / "tars" / "a.parquet")
    with pytest.raises(DataError, match="is not a regular file"):
        open_images(str(tmp_path / "tars"))


def test_an_image_of_the_same_size_and_time_is_seen(tmp_path: Path) -> None:
    two_classes(tmp_path / "set")
    path = tmp_path / "set" / "cat" / "0.png"
    path.write_bytes(b"P6 1 1 255 abc")
    before = path.stat()
    first = open_images(str(tmp_path / "set"), cache=tmp_path / "cache").fingerprint
    path.write_bytes(b"P6 1 1 255 abd")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_images(str(tmp_path / "set"), cache=tmp_path / "cache").fingerprint != first


def test_one_class_in_two_unicode_forms(tmp_path: Path) -> None:
    write(tmp_path, *(f"train/{c}/{i}.png" for c in ("cafe\u0301", "dog") for i in range(3)))
    write(tmp_path, *(f"val/{c}/{i}.png" for c in ("caf\u00e9", "dog") for i in range(3)))
    images = open_images(str(tmp_path))
    assert (images.num_classes, len(images.test)) == (2, 6)


def test_results_within_a_class_folder_do_not_cost_the_class(tmp_path: Path) -> None:
    before = open_images(str(two_classes(tmp_path))).fingerprint
    write(tmp_path / "cat" / "runs" / "x", "preflight.json", "curves.png")
    write(tmp_path / "evaluated", "confusion.png")
    (tmp_path / "evaluated" / "evaluation.json").write_text('{"environment": {"nextify": "1"}}')
    write(tmp_path / "study" / "cache", "index-0123456789abcdef.json")
    write(tmp_path / "study", "roadmap.png")
    assert open_images(str(tmp_path)).fingerprint == before
    (tmp_path / "dog" / "result.json").write_text('{"of": "another program"}')
    assert open_images(str(tmp_path)).fingerprint == before


@pytest.mark.parametrize("place", ["dog", "train", "train/dog", "val"])
@pytest.mark.parametrize("file", ["checkpoint.pt", "study.json", "preflight.json"])
def test_our_files_among_the_users_images_cost_no_image(tmp_path: Path, place: str, file: str) -> None:
    root = tmp_path / "set"
    parts = ("train", "val") if place != "dog" else ("",)
    write(root, *(f"{part}/{c}/{i}.png".lstrip("/") for part in parts for c in ("cat", "dog") for i in range(4)))
    before = open_images(str(root))
    (root / place / file).write_text("{}")
    write(root / place / "0123456789ab", "preflight.json", "curves.png")
    write(root / place, "mistakes.png")
    after = open_images(str(root))
    assert (after.fingerprint, names(after)) == (before.fingerprint, names(before))


# -- unreadable images ---------------------------------------------------------------------------------------------


def spoil(path: Path) -> None:
    """Put a TIFF in an image's place whose pixels are damaged, and whose header and end are whole."""
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.save(buffer, "TIFF", compression="tiff_adobe_deflate")
    data = bytearray(buffer.getvalue())
    with Image.open(buffer) as image:
        (start,) = image.tag_v2[273]  # type: ignore[attr-defined]
    data[start : start + 40] = b"\xff" * 40
    path.unlink()
    path.with_suffix(".tif").write_bytes(data)


@pytest.mark.parametrize("decoded_limit", [2**31, 0])
def test_unreadable_images_can_be_left_out(decoded_limit: int, tmp_path: Path) -> None:
    root = tmp_path / "set"
    write(root, *(f"{part}/{c}/{i}.png" for part in ("train", "val") for c in "ab" for i in range(4)))
    spoil(root / "train" / "a" / "1.png")
    spoil(root / "val" / "b" / "2.png")
    (root / "train" / "b" / "3.png").write_bytes(b"")

    def opened(skip: bool = True) -> Images:
        return open_images(str(root), decoded_limit=decoded_limit, cache=tmp_path / "c", skip_unreadable=skip)

    with pytest.raises(DataError, match=r"train/b/3.png \(empty file\)"):
        opened(skip=False)
    images = opened()
    assert (len(images.train), len(images.test)) == (7, 7)
    assert "train/a/1.tif" not in names(images)
    assert images.train.name(1) == "train/a/2.png"  # in its place another of its class
    assert all(image.load(i).shape == (8, 8, 3) for image in (images.train, images.test) for i in range(7))
    left = preflight(images, Recipe(batch_size=2)).facts.left_out
    assert sorted(chain(*left.values())) == ["train/a/1.tif", "train/b/3.png", "val/b/2.tif"]
    (said,) = [note for note in images.notes if "3 images cannot be read and are left out: train/" in note]
    assert said.endswith("Training uses others in their place: train/a/2.png for train/a/1.tif.")
    assert opened().fingerprint == images.fingerprint
    measured = open_images(str(root), decoded_limit=decoded_limit, skip_unreadable=True, to_train=False)
    assert (len(measured.train), len(measured.test)) == (6, 7)


def test_damage_in_both_parts_is_named_at_once(tmp_path: Path) -> None:
    write(tmp_path, *(f"{part}/{c}/{i}.png" for part in ("train", "val") for c in "ab" for i in range(4)))
    spoil(tmp_path / "train" / "a" / "1.png")
    spoil(tmp_path / "val" / "b" / "2.png")
    with pytest.raises(DataError, match=r"2 of 16 images cannot be read: train/a/1.tif .*, val/b/2.tif "):
        open_images(str(tmp_path))


@pytest.mark.parametrize("seed", range(4))
def test_what_stands_in_is_a_training_image_of_the_class(seed: int, tmp_path: Path) -> None:
    write(tmp_path, *(f"{c}/{i}.png" for c in ("cat", "dog") for i in range(10)))
    whole = open_images(str(tmp_path), split_seed=seed)
    bad = whole.train.name(seed)
    spoil(tmp_path / bad)
    images = open_images(str(tmp_path), split_seed=seed, skip_unreadable=True)
    train, test = ([part.name(i) for i in range(len(part))] for part in (images.train, images.test))
    assert len(train) == len(whole.train)
    assert [name for name in train if name == train[seed]] == [train[seed]] * 2
    assert train[seed].startswith(bad[:3])
    assert not {*train} & {*test}
    np.testing.assert_array_equal(images.train.labels, whole.train.labels)


def test_results_beside_parts_and_metadata_change_nothing(tmp_path: Path) -> None:
    write(tmp_path, *(f"{part}/{c}/{i}.png" for part in ("cats_train", "cats_test") for c in "ab" for i in range(3)))
    before = open_images(str(tmp_path)).fingerprint
    write(tmp_path / "runs" / "x" / "y", "preflight.json", "curves.png")
    assert open_images(str(tmp_path)).fingerprint == before


def test_what_is_damaged_later_leaves_the_training_the_same(tmp_path: Path) -> None:
    root = two_classes(tmp_path / "set")
    before = open_images(str(root), cache=tmp_path / "c")
    whole = (root / "cat" / "1.png").read_bytes()
    (root / "cat" / "1.png").write_bytes(whole[:50])
    with pytest.raises(DataError, match="--skip-unreadable"):
        open_images(str(root), cache=tmp_path / "c")
    skipped = open_images(str(root), cache=tmp_path / "c", skip_unreadable=True)
    assert (skipped.fingerprint, len(skipped.train)) == (before.fingerprint, len(before.train))
    (root / "cat" / "1.png").write_bytes(whole)
    assert open_images(str(root), cache=tmp_path / "c").fingerprint == before.fingerprint


def test_a_class_that_loses_all_its_images_is_named(tmp_path: Path) -> None:
    two_classes(tmp_path)
    for i in range(4):
        spoil(tmp_path / "cat" / f"{i}.png")
    with pytest.raises(DataError, match="no training image of class cat can be read"):
        open_images(str(tmp_path), skip_unreadable=True)


# -- what the preflight says -----------------------------------------------------------------------------------------


def test_what_few_test_images_cannot_tell(tmp_path: Path) -> None:
    for i in range(8):
        save_noise(tmp_path / "many" / f"{i}.png", i, size=(900, 900), compress_level=0)
    save_noise(tmp_path / "one" / "0.png", 99, size=(900, 900), compress_level=0)
    images = open_images(str(tmp_path))
    notes = preflight(images, Recipe(batch_size=2), image_size=224).notes
    assert any("With 2 test images, accuracy is only known to ±50 points" in note for note in notes)
    assert any("The held-out split has no images of class one" in note for note in notes)
    assert any("short side is about 900 pixels but training uses 224" in note for note in notes)


def test_the_split_as_a_table(tmp_path: Path) -> None:
    images = open_images(str(two_classes(tmp_path)))
    (tmp_path / "split.csv").write_text(split_csv(images))
    again = open_images(str(tmp_path / "split.csv"))
    assert again.fingerprint == images.fingerprint
    np.testing.assert_array_equal(again.train.labels, images.train.labels)


# -- parts that are said twice, by one file, or by a name alone ------------------------------------------------------


def test_columns_that_disagree_about_the_part_are_refused(tmp_path: Path) -> None:
    write(tmp_path, *(f"{i}.png" for i in range(8)))
    flags = [(i in (4, 5), i in (6, 7)) for i in range(8)]

    def table(header: str, cells: Callable[[bool, bool], str]) -> str:
        rows = [f"{i}.png,{'ab'[i % 2]},{cells(*flags[i])}" for i in range(8)]
        (tmp_path / "m.csv").write_text("\n".join([header, *rows]))
        return str(tmp_path / "m.csv")

    with pytest.raises(DataError, match=r"several columns of .* say which rows to train on"):
        open_images(table("path,label,is_valid,is_test", lambda valid, test: f"{valid},{test}"))
    agreeing = open_images(table("path,label,is_train,is_test", lambda valid, test: f"{not test},{test}"))
    assert len(agreeing.test) == 2


def test_a_folder_that_seems_a_part_and_is_not_used_is_said(tmp_path: Path) -> None:
    parts = ("train", "train_extra")
    write(tmp_path, *(f"{part}/{c}/{i}.png" for part in parts for c in "ab" for i in range(3)))
    (said,) = [note for note in open_images(str(tmp_path)).notes if "left out" in note]
    assert "6 in train_extra/" in said


def test_a_tar_of_a_test_part_is_measured_whole_and_a_star_names_files(tmp_path: Path) -> None:
    for part, first in (("train", 0), ("validation", 100)):
        each = (((f"{i}.png", png(i)), (f"{i}.cls", b"%d" % (i % 2))) for i in range(first, first + 12))
        write_tar(tmp_path / f"set-{part}-000.tar", [*chain.from_iterable(each)])
    (tmp_path / "classes.txt").write_text("a\nb\n")
    shard = str(tmp_path / "set-validation-000.tar")
    assert len(open_images(shard, to_train=False).test) == 12
    both = open_images(str(tmp_path / "set-*.tar"))
    assert (len(both.train), len(both.test)) == (12, 12)
    (tmp_path / "classes.txt").write_text("a\n\nb\n")
    with pytest.raises(DataError, match=r"line 2 of classes\.txt is blank"):
        open_images(shard)


def test_a_list_in_the_current_folder_lists_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(6):
        save_noise(tmp_path / f"{i}.png", i)
    rows = "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(5))
    (tmp_path / "list.csv").write_text(f"path,label\n{rows}")
    monkeypatch.chdir(tmp_path)
    assert open_images("list.csv").left_out == {"images that list.csv does not list": ["5.png"]}
