"""Manifests, Parquet, tar shards, Hugging Face: each gives what a folder of the same images gives, or says why not."""

from __future__ import annotations

import csv
import io
import json
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

import nextify.data.sources.parquet
from nextify.data import DataError, Images, TrainBatches, open_images
from nextify.data.source import source_name
from nextify.data.sources.hugging_face import Rows
from nextify.data.sources.shards import expand_braces, part_of
from nextify.paper.recipe import CONVNEXT
from tests.helpers import encoded, noise, write_tar

CLASSES = ("cat", "dog")
Sample = tuple[bytes, int]


def samples(start: int, each: int = 3) -> list[Sample]:
    """Images of two classes in turn."""
    return [(encoded(Image.fromarray(noise(start + i, 8, 8))), i % 2) for i in range(2 * each)]


TRAIN, TEST = samples(0), samples(100)


# -- the same images in every form ---------------------------------------------------------------------------------


def write_files(root: Path, rows: Sequence[Sample], below: str) -> list[str]:
    (root / below).mkdir(parents=True)
    names = [f"{below}/{i}.png" for i in range(len(rows))]
    for name, (data, _) in zip(names, rows, strict=True):
        (root / name).write_bytes(data)
    return names


def manifest_rows(root: Path) -> list[tuple[str, str, str]]:
    return [
        (name, CLASSES[label], part)
        for part, rows in (("train", TRAIN), ("test", TEST))
        for name, (_, label) in zip(write_files(root, rows, f"pictures/{part}"), rows, strict=True)
    ]


def write_csv(path: Path, rows: Sequence[Sequence[object]], delimiter: str = ",") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return str(path)


def csv_manifest(root: Path) -> str:
    return write_csv(root / "pets.csv", [("path", "label", "split"), *manifest_rows(root)])


def parquet_manifest(root: Path) -> str:
    paths, labels, splits = zip(*manifest_rows(root), strict=True)
    pyarrow.parquet.write_table(pyarrow.table({"path": paths, "label": labels, "split": splits}), root / "pets.parquet")
    return str(root / "pets.parquet")


def write_parquet(path: Path, rows: Sequence[Sample], *, named: bool = True, **options: Any) -> None:
    """As the library ``datasets`` writes images and class labels; two rows a row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = {"image": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}
    table = pyarrow.table(
        {
            "image": [{"bytes": data, "path": None} for data, _ in rows],
            "label": [label if named else CLASSES[label] for _, label in rows],
        }
    )
    if named:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, path, row_group_size=2, **options)


def parquet_folder(root: Path) -> str:
    write_parquet(root / "data" / "train-00000-of-00002.parquet", TRAIN[:3])
    write_parquet(root / "data" / "train-00001-of-00002.parquet", TRAIN[3:])
    write_parquet(root / "data" / "test-00000-of-00001.parquet", TEST)
    return str(root)


def parquet_of_names(root: Path) -> str:
    write_parquet(root / "train" / "0.parquet", TRAIN, named=False)
    write_parquet(root / "test" / "0.parquet", TEST, named=False)
    return str(root)


def as_cls(rows: Sequence[Sample], start: int = 0) -> list[tuple[str, bytes]]:
    return [
        member
        for i, (data, label) in enumerate(rows, start)
        for member in ((f"{i:04}.cls", str(label).encode()), (f"{i:04}.png", data))
    ]


def as_json(rows: Sequence[Sample]) -> list[tuple[str, bytes]]:
    return [
        member
        for i, (data, label) in enumerate(rows)
        for member in (
            (f"./deep/{i}.PNG", data),
            (f"./deep/{i}.json", json.dumps({"label": CLASSES[label], "more": 1}).encode()),
            (f"./deep/{i}.seg.png", b"not an image to train on"),
        )
    ]


def tar_shards(root: Path) -> str:
    write_tar(root / "train-000.tar", as_cls(TRAIN[:3]))
    write_tar(root / "train-001.tar", as_cls(TRAIN[3:], 3))
    write_tar(root / "test-000.tar", as_cls(TEST))
    (root / "classes.txt").write_text("cat\ndog\n")
    return str(root)


def tar_folders(root: Path) -> str:
    write_tar(root / "train" / "0.tar", as_json(TRAIN))
    write_tar(root / "test" / "0.tar", as_json(TEST))
    return str(root)


def deep_tar(root: Path) -> str:
    write_tar(root / "train" / "0.tar", [*as_json(TRAIN), ("z.png", TRAIN[0][0]), ("z.json", b"[" * 100_000)])
    write_tar(root / "test" / "0.tar", as_json(TEST))
    return str(root)


def deep_lines(root: Path) -> str:
    (root / "images.jsonl").write_text("[" * 100_000 + "\n")
    return str(root / "images.jsonl")


@pytest.mark.parametrize("make", [deep_tar, deep_lines])
def test_deeply_nested_json_is_refused_in_one_line(make: Callable[[Path], str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not UTF-8 JSON|nested too deeply") as error:
        open_images(make(tmp_path))
    assert len(str(error.value)) < 200


SOURCES = [
    csv_manifest,
    parquet_manifest,
    parquet_folder,
    parquet_of_names,
    tar_shards,
    tar_folders,
]
Make = Callable[[Path], str]


def same(images: Images, expected: Sequence[Sample], part: str) -> None:
    found = getattr(images, part)
    assert found.labels.tolist() == [label for _, label in expected]
    assert found.labels.dtype == np.int64
    for i, (data, _) in enumerate(expected):
        np.testing.assert_array_equal(found.load(i), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("make", SOURCES)
def test_every_source_gives_the_same_images(tmp_path: Path, make: Make) -> None:
    source, cache = make(tmp_path / "pets"), tmp_path / "cache"
    held, kept = open_images(source), open_images(source, cache=cache)
    each_time = open_images(source, decoded_limit=10)
    assert held.train.array is not None
    assert list(cache.glob("*.npy"))
    assert each_time.train.array is None
    assert each_time.train.short_sides is None
    for images in (held, kept, each_time, pickle.loads(pickle.dumps(each_time))):
        assert (images.name, images.classes, images.native_size) == ("pets", CLASSES, (8, 8))
        assert images.fingerprint == held.fingerprint
        assert (images.notes, images.warnings, images.test_images_also_in_training) == ((), (), 0)
        same(images, TRAIN, "train")
        same(images, TEST, "test")
    assert len({held.train.name(i) for i in range(6)} | {held.test.name(i) for i in range(6)}) == 12


@pytest.mark.parametrize("make", [csv_manifest, parquet_folder, tar_shards])
def test_second_start_reads_no_image(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    source, cache = make(tmp_path / "pets"), tmp_path / "cache"
    first = open_images(source, cache=cache)

    def refuse(*_: object) -> bytes:
        raise AssertionError("read again")

    for kind in ("encoded.Files", "sources.parquet.ParquetRows", "sources.tar.TarMembers"):
        monkeypatch.setattr(f"nextify.data.{kind}.read", refuse)
    assert open_images(source, cache=cache).fingerprint == first.fingerprint


@pytest.mark.parametrize("make", [parquet_folder, tar_shards])
def test_content_makes_the_fingerprint_and_the_place_does_not(tmp_path: Path, make: Make) -> None:
    prints = {open_images(make(tmp_path / "a" / "pets")).fingerprint, open_images(make(tmp_path / "b")).fingerprint}
    assert len(prints) == 1
    changed = [(encoded(Image.fromarray(noise(999, 8, 8))), 0), *TRAIN[1:3]]
    write_tar(tmp_path / "b" / "train-000.tar", as_cls(changed))
    if make is parquet_folder:
        write_parquet(tmp_path / "b" / "data" / "train-00000-of-00002.parquet", changed)
        (tmp_path / "b" / "train-000.tar").unlink()
    assert open_images(str(tmp_path / "b")).fingerprint not in prints


def test_a_manifest_of_a_folder_is_that_folder(tmp_path: Path) -> None:
    for part, rows in (("train", TRAIN), ("val", TEST)):
        for i, (data, label) in enumerate(rows):
            path = tmp_path / part / CLASSES[label] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    folder = open_images(str(tmp_path))
    rows = [("path", "label", "split")]
    for part, images in (("train", folder.train), ("val", folder.test)):
        rows += [(images.name(i), CLASSES[images.labels[i]], part) for i in range(len(images))]
    assert open_images(write_csv(tmp_path / "all.csv", rows)).fingerprint == folder.fingerprint


@pytest.mark.parametrize("make", [csv_manifest, parquet_folder, tar_shards])
def test_workers_read_what_one_process_reads(tmp_path: Path, make: Make) -> None:
    images = open_images(make(tmp_path), decoded_limit=0)
    recipe = CONVNEXT.with_(batch_size=2)
    alone = list(TrainBatches(images.train, recipe, 8, seed=0).iterate(0, 6))
    shared = list(TrainBatches(images.train, recipe, 8, seed=0, workers=2).iterate(0, 6))
    for (a, _), (b, _) in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(a, b)


# -- manifests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_order_and_case(tmp_path: Path, delimiter: str) -> None:
    names = write_files(tmp_path, [*TRAIN, *TEST], "x, y; z")
    rows = [("Label", " note", "PATH "), *(("10" if i % 2 else "9", "a,b;c", name) for i, name in enumerate(names))]
    path = write_csv(tmp_path / "m.csv", rows, delimiter)
    Path(path).write_bytes(b"\xef\xbb\xbf" + Path(path).read_bytes())  # as Excel writes it
    images = open_images(path, test_fraction=0.5)
    assert images.classes == ("9", "10")
    assert (len(images.train), len(images.test)) == (6, 6)
    assert any("6 of 12 images (50% of each class, seed 0)" in note for note in images.notes)
    assert open_images(path, test_fraction=0.5, split_seed=1).fingerprint != images.fingerprint


def test_parquet_manifest_of_numbers(tmp_path: Path) -> None:
    names = write_files(tmp_path, TRAIN, "x")
    table = pyarrow.table({"path": names, "label": [10, 9, 10, 9, 10, 9]})
    pyarrow.parquet.write_table(table, tmp_path / "m.parquet")
    assert open_images(str(tmp_path / "m.parquet")).classes == ("9", "10")


def test_absolute_paths_and_parts_beyond_two(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    names = write_files(tmp_path / "p", TRAIN, "x")
    here = [str(tmp_path / "p" / name) for name in names]
    rows = [("path", "label", "split")]
    for i, part in enumerate(("train", "train", "Val", "validation", "TEST", "val")):
        rows.append((here[i] if i % 2 else f"../p/{names[i]}", str(i % 2), part))
    images = open_images(write_csv(tmp_path / "m" / "m.csv", rows))
    assert (len(images.train), len(images.test)) == (2, 2)
    assert images.notes[0] == "split val is the test set; split validation, split test is not used."


def test_labels_that_contradict_each_other_are_a_warning(tmp_path: Path) -> None:
    root = tmp_path / "noise"
    names = write_files(root, [*TRAIN, TRAIN[0], TRAIN[1], TRAIN[2]], "x")
    rows = [("path", "label", "split"), *((name, CLASSES[i % 2], "train") for i, name in enumerate(names[:6]))]
    rows += [
        (names[6], "dog", "train"),
        (names[7], "cat", "test"),
        (names[1], "emu", "train"),
        (names[8], "dog", "test"),
    ]
    images = open_images(write_csv(root / "m.csv", rows))
    assert images.warnings == (
        "3 images appear in more than one class (x/0.png as cat and x/6.png as dog; x/1.png as dog and x/1.png as emu)"
        ": "
        "correct their labels, or give --task multilabel where an image can have several",
    )
    assert images.test_images_also_in_training == 2


def test_csv_needs_no_pyarrow(tmp_path: Path) -> None:
    source = csv_manifest(tmp_path)
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from nextify.data import DataError, open_images\n"
        f"print(open_images({source!r}).classes)\n"
        "try: open_images('m.parquet')\n"
        "except DataError as error: print(error)"
    )
    (tmp_path / "m.parquet").write_bytes(b"")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "('cat', 'dog')",
        "Parquet files need pyarrow: pip install 'nextify[data]'",
    ]


def manifest(text: str | bytes) -> Make:
    def make(root: Path) -> str:
        write_files(root, TRAIN, "x")
        data = text.encode() if isinstance(text, str) else text
        (root / "m.csv").write_bytes(data)
        return str(root / "m.csv")

    return make


def table(columns: dict[str, Any], **written: Any) -> Make:
    def make(root: Path) -> str:
        pyarrow.parquet.write_table(pyarrow.table(columns), root / "m.parquet", **written)
        return str(root / "m.parquet")

    return make


# -- refused -------------------------------------------------------------------------------------------------------


def shards(*parts: tuple[str, Sequence[tuple[str, bytes]]], classes: str | None = None) -> Make:
    def make(root: Path) -> str:
        for name, members in parts:
            write_tar(root / name, members)
        if classes is not None:
            (root / "classes.txt").write_text(classes)
        return str(root)

    return make


def cut_tar(root: Path) -> str:
    source = tar_shards(root)
    data = (root / "train-001.tar").read_bytes()
    (root / "train-001.tar").write_bytes(data[: 512 * 3 + 100])
    return source


def damaged_tar(root: Path) -> str:
    source = tar_shards(root)
    data = bytearray((root / "train-001.tar").read_bytes())
    data[1024:1124] = b"x" * 100  # the second header's name
    (root / "train-001.tar").write_bytes(data)
    return source


def compressed_tar(root: Path) -> str:
    with tarfile.open(root / "train-000.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    return str(root)


def missing_shards(root: Path) -> str:
    tar_shards(root)
    return str(root / "train-{000..003}.tar")


def odd_shard(root: Path) -> str:
    write_tar(root / "more.tar", as_cls(TRAIN))
    return tar_shards(root)


def only_tests(root: Path) -> str:
    write_parquet(root / "test-0.parquet", TEST)
    return str(root)


def different_files(root: Path) -> str:
    write_parquet(root / "train-0.parquet", TRAIN)
    write_parquet(root / "test-0.parquet", TEST, named=False)
    return str(root)


def no_parquet(root: Path) -> str:
    (root / "m.parquet").write_bytes(b"PAR1 but nothing else")
    return str(root / "m.parquet")


def broken_images(root: Path) -> str:
    write_tar(root / "a.tar", [*as_cls(TRAIN), ("7.cls", b"0"), ("7.jpg", b"hello"), ("8.cls", b"1"), ("8.jpg", b"")])
    return str(root / "a.tar")


def null_images(root: Path) -> str:
    rows = [{"bytes": data, "path": None} for data, _ in TRAIN] + [{"bytes": None, "path": "x.png"}, None]
    table({"image": rows, "label": [0, 1] * 4}, row_group_size=3)(root)
    return str(root / "m.parquet")


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (manifest("file,label\nx/0.png,a\n"), ["m.csv has no column path", "its columns: file, label"]),
        (manifest("a;b\n"), ["no column path and no column label", "its columns: a, b", "first line must name"]),
        (manifest(""), ["no column path", "its columns: none"]),
        (manifest("path,label\n"), ["m.csv has no rows"]),
        (manifest("path,label,path\n"), ["names a column twice"]),
        (manifest("path,label\nx/0.png,a\nx/1.png,\n\nx/2.png\n"), ["2 rows of m.csv have no label: row 3, 5"]),
        (manifest("path,label\n ,a\n"), ["1 row of m.csv has no path: row 2"]),
        (manifest("path,label\nx/0.png,a,b\n"), ["row 2 of m.csv has 3 cells for 2 columns"]),
        (
            manifest("path,label,split\nx/0.png,a,train\nx/1.png,b,tset\n"),
            ["row 3 of m.csv has the split 'tset'", "write train, val"],
        ),
        (manifest("path,label,split\nx/0.png,a,train\nx/1.png,b,\n"), ["row 3 of m.csv has the split ''"]),
        (manifest("path,label,split\nx/0.png,a,val\n"), ["has split val but no split train"]),
        (
            manifest("path,label\nx/0.png,a\nx/1.png,b\nx/2.png,a\nno.png,b\nx/nö.png,b\n"),
            ["2 of 5 images cannot be read", "no.png (No such file or directory)", "x/nö.png"],
        ),
        (manifest("path,label\nx/0.png,a\nx/1.png,a\n"), ["one class only (a)"]),
        (manifest("path,label\nx/0.png,a\nx/1.png,b\n"), ["every class has only one image"]),
        (
            manifest("path,label,split\nx/0.png,a,train\nx/1.png,b,train\nx/2.png,c,test\n"),
            ["split test has class c that split train lacks"],
        ),
        (manifest("path,label\nx/0.png,\xe4\n".encode("latin-1")), ["m.csv is not UTF-8 text"]),
        (manifest(b"path,label\nx/0.png,\0\n" + b"a" * 200_000), ["m.csv is not a CSV table"]),
        *(
            (manifest(b"path,label\nx/0.png,a\n" + row), ["1 row of m.csv holds a NUL byte: row 3; save it as UTF-8"])
            for row in (b"x/1\0.png,b\n", b"x/1.png,\0b\n")
        ),
        (table({"path": ["a"], "name": ["b"]}), ["m.parquet has no column label", "its columns: path, name"]),
        (table({"path": ["a"], "label": [0.5]}), ["column label of m.parquet holds 0.5"]),
        (table({"path": ["a", "b"], "label": ["x", None]}), ["1 row of m.parquet has no label: row 2"]),
        (table({"image": [b"x"], "name": ["b"]}), ["has no column label (its columns: image, name)"]),
        (table({"image": [b"x"], "other": [b"y"], "label": [1]}), ["has 2 columns of encoded images"]),
        (table({"image": [b"x"], "label": [None]}), ["1 of 1 image has no label", "m.parquet#0"]),
        (no_parquet, ["m.parquet is not a complete Parquet file", "copy it again"]),
        (null_images, ["2 of 8 images cannot be read: m.parquet#6 (no bytes in its row)"]),
        (only_tests, ["has split test but no split train"]),
        (different_files, ["does not have the columns or classes of train-0.parquet"]),
        (cut_tar, ["train-001.tar is not a complete tar file"]),
        (damaged_tar, ["train-001.tar is not a complete tar file (damaged header)"]),
        (compressed_tar, ["train-000.tar is compressed", "decompress it"]),
        (missing_shards, ["2 of 4 files", "are missing: train-002.tar, train-003.tar"]),
        (odd_shard, ["more.tar does not name a split, where others say test, train"]),
        (
            shards(("a.tar", [("1.png", b"x"), ("2.txt", b"y")])),
            ["1 of 1 image has no label: a.tar/1.png", "KEY.cls"],
        ),
        (shards(("a.tar", [("1.txt", b"x")])), ["has no images"]),
        (shards(("a.tar", [("1.png", b"x"), ("1.jpg", b"y")])), ["two images with the key 1"]),
        (shards(("a.tar", [("1.json", b"{")])), ["a.tar/1.json is not UTF-8 JSON"]),
        (shards(("a.tar", [("1.json", b'{"label": [1]}')])), ["a.tar/1.json has the label [1]"]),
        (shards(("a.tar", as_cls(TRAIN)), classes="cat\n"), ["classes.txt has 1 classes but no label 1"]),
        (shards(("a.tar", as_cls(TRAIN)), classes="cat\ncat\n"), ["names a class twice"]),
        (broken_images, ["2 of 8 images cannot be read", "a.tar/7.jpg (not an image)", "a.tar/8.jpg (empty file)"]),
    ],
)
def test_refused_in_one_line(tmp_path: Path, make: Make, parts: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        open_images(make(tmp_path))
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_paths_of_windows_get_the_remedy(tmp_path: Path) -> None:
    names = write_files(tmp_path, TRAIN, "p")
    rows = [(name.replace("/", "\\"), CLASSES[label]) for name, (_, label) in zip(names, TRAIN, strict=True)]
    with pytest.raises(DataError, match=r"6 of 6 images cannot be read: .*write their paths with / instead of \\,"):
        open_images(write_csv(tmp_path / "m.csv", [("path", "label"), *rows]))


def test_large_row_groups_are_noted_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = parquet_folder(tmp_path)
    monkeypatch.setattr(nextify.data.sources.parquet, "SLOW_ROW_GROUP", 10)
    assert open_images(source).notes == ()  # held decoded, so read once
    assert any("row_group_size=10" in note for note in open_images(source, decoded_limit=0).notes)
    monkeypatch.setattr(nextify.data.sources.parquet, "ROW_GROUP_LIMIT", 10)
    with pytest.raises(DataError, match=r"has row groups of up to .* write the files with row_group_size=10"):
        open_images(source)


def parquet_of(root: Path, name: str, rows: Sequence[Sample], **columns: Sequence[object]) -> str:
    """Images, labels and further columns."""
    own = {"image": [data for data, _ in rows], "label": [label for _, label in rows]}
    pyarrow.parquet.write_table(pyarrow.table({**own, **columns}), root / name, row_group_size=2)
    return str(root / name)


def test_columns_of_parquet_files_with_images_say_splits_and_groups(tmp_path: Path) -> None:
    rows = [*TEST, *TRAIN]
    tested, trained = [f"a.parquet#{i}" for i in range(6)], [f"a.parquet#{i}" for i in range(6, 12)]
    for columns in ({"split": ["Test"] * 6 + ["TRAIN"] * 6}, {"is_train": [False] * 6 + [True] * 6}):
        images = open_images(parquet_of(tmp_path, "a.parquet", rows, **columns))
        assert [images.train.name(i) for i in range(len(images.train))] == trained
        assert [images.test.name(i) for i in range(len(images.test))] == tested
        assert images.train.labels.tolist() == [label for _, label in TRAIN]
        expected = open_images(parquet_folder(tmp_path / next(iter(columns))))
        for own, other in ((images.train, expected.train), (images.test, expected.test)):
            for i in range(len(own)):
                np.testing.assert_array_equal(own.store.load(i), other.store.load(i))
    unused = ["test"] * 2 + ["val"] * 4 + ["train"] * 6
    images = open_images(parquet_of(tmp_path, "a.parquet", rows, split=unused))
    assert (len(images.train), len(images.test)) == (6, 4)
    assert any("split test is not used" in note for note in images.notes)
    images = open_images(str(tmp_path / "a.parquet"), tested="test")
    assert [images.test.name(i) for i in range(len(images.test))] == tested[:2]

    images = open_images(parquet_of(tmp_path, "a.parquet", rows, group=[i // 4 for i in range(12)]))
    assert len(images.test) == 4
    assert len({int(images.test.name(i).partition("#")[2]) // 4 for i in range(4)}) == 1
    assert any("1 of 3 groups" in note for note in images.notes)
    images = open_images(parquet_of(tmp_path, "a.parquet", rows, patient_id=[i // 4 for i in range(12)]))
    assert any("The column patient_id is not used" in note for note in images.notes)

    with pytest.raises(DataError, match=r"a\.parquet#11 has the split 'later': write train, val or test"):
        open_images(parquet_of(tmp_path, "a.parquet", rows, split=["test"] * 6 + ["train"] * 5 + ["later"]))
    images = open_images(parquet_of(tmp_path, "a.parquet", rows, split=["easy", "hard"] * 6))
    assert any("The column split (easy, hard) is not used" in note for note in images.notes)

    (tmp_path / "named").mkdir()
    parquet_of(tmp_path / "named", "train.parquet", TRAIN, split=["train", "val"] * 3)
    parquet_of(tmp_path / "named", "test.parquet", TEST, split=["test"] * 6)
    images = open_images(str(tmp_path / "named"))
    assert (len(images.train), len(images.test)) == (6, 6)
    assert any("The column split is not used, as the files' names" in note for note in images.notes)


def test_memory_of_a_set_that_is_not_held_stays_that_of_row_groups(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", samples(0, 20))
    rows = nextify.data.sources.parquet.ParquetRows(tmp_path, ["a.parquet"], "image.bytes", [[2] * 20])
    for i in (39, 0, 17, 5):
        assert rows.read(i) == samples(0, 20)[i][0]
        assert len(rows._held) <= nextify.data.sources.parquet.HELD_ROW_GROUPS


def test_a_class_that_no_image_has_stays_a_class(tmp_path: Path) -> None:
    make = shards(("train-0.tar", as_cls(TRAIN)), ("val-0.tar", as_cls(TEST)), classes="cat\ndog\nemu\n")
    images = open_images(make(tmp_path))
    assert images.classes == ("cat", "dog", "emu")


# -- which files, which parts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{008..011}.tar", ["a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"]),
        ("{b,a}-{0..1}", ["b-0", "b-1", "a-0", "a-1"]),
    ],
)
def test_braces(pattern: str, files: list[str]) -> None:
    assert expand_braces(pattern) == files


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train-00000-of-00001.parquet", "train"),
        ("Validation-0.tar", "val"),
        ("test.tar", "test"),
        ("val_07.tar", "val"),
        ("train/7.tar", "train"),
        ("data/test-0.tar", "test"),
        ("training.tar", "train"),
        ("imagenet1k-validation-07.tar", "val"),
        ("testament.tar", None),
        ("data-0.tar", None),
    ],
)
def test_parts_of_file_names(name: str, part: str | None) -> None:
    assert part_of(name) == part


def test_a_file_or_pattern_of_one_part_is_the_whole_set(tmp_path: Path) -> None:
    tar_shards(tmp_path)
    for source in ("test-000.tar", "train-{000..001}.tar"):
        images = open_images(str(tmp_path / source))
        assert len(images.train) + len(images.test) == 6
        assert images.classes == CLASSES
    both = open_images(str(tmp_path / "{train-000,train-001,test-000}.tar"))
    assert (len(both.train), len(both.test)) == (6, 6)
    assert both.fingerprint == open_images(str(tmp_path)).fingerprint


def test_an_archive_beside_class_folders_is_not_the_data(tmp_path: Path) -> None:
    for label, name in enumerate(CLASSES):
        write_files(tmp_path, [sample for sample in TRAIN if sample[1] == label], name)
    write_tar(tmp_path / "all.tar", [])
    assert open_images(str(tmp_path)).classes == CLASSES


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("digits", "digits"),
        ("hf:owner/pets", "pets"),
        ("some/pets.csv", "pets"),
        ("some/pets-{000..003}.tar", "pets"),
        ("pets/{train,test}-0.tar", "pets"),
    ],
)
def test_names_of_sources(source: str, name: str) -> None:
    assert source_name(source) == name


# -- Hugging Face --------------------------------------------------------------------------------------------------


class FakeImage:
    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


class FakeLabel:
    names = CLASSES


class FakeRows:
    """What is used of ``datasets.Dataset``."""

    _fingerprint = "0123456789abcdef"

    def __init__(self, rows: Sequence[Sample], features: dict[str, object]) -> None:
        self.rows, self.features = rows, features

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | str) -> Any:
        if key == "label":
            return [label for _, label in self.rows]
        assert isinstance(key, int)
        return {"image": {"bytes": self.rows[key][0], "path": None}, "label": self.rows[key][1]}

    def select_columns(self, names: list[str]) -> FakeRows:
        return FakeRows(self.rows, {name: self.features[name] for name in names})

    def cast_column(self, name: str, feature: FakeImage) -> FakeRows:
        assert not feature.decode
        return FakeRows(self.rows, self.features | {name: feature})


def fake_library(found: Any) -> Any:
    def load_dataset(name: str) -> Any:
        assert name == "owner/pets"
        if isinstance(found, Exception):
            raise found
        return found

    return SimpleNamespace(Image=FakeImage, ClassLabel=FakeLabel, load_dataset=load_dataset)


def test_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    features: dict[str, object] = {"id": object(), "image": FakeImage(), "label": FakeLabel(), "kind": FakeLabel()}
    found = {"train": FakeRows(TRAIN, features), "test": FakeRows(TEST, features), "extra": FakeRows([], features)}
    monkeypatch.setitem(sys.modules, "datasets", fake_library(found))
    images = open_images("hf:owner/pets", decoded_limit=0)
    assert (images.name, images.classes) == ("pets", CLASSES)
    same(images, TRAIN, "train")
    same(images, TEST, "test")
    assert images.notes == ("The classes come from the column label, not from kind.",)


@pytest.mark.parametrize(
    ("found", "part"),
    [
        (ConnectionError("no route\nto host"), "hf:owner/pets could not be loaded (no route): check the name and"),
        ({"a": FakeRows(TRAIN, {})}, "has the splits a: it needs train"),
        ({"train": FakeRows(TRAIN, {"text": object()})}, "has no columns of encoded images (its columns: text)"),
        ({"train": FakeRows(TRAIN, {"image": FakeImage()})}, "has no column label (its columns: image)"),
    ],
)
def test_what_the_hub_cannot_give(monkeypatch: pytest.MonkeyPatch, found: Any, part: str) -> None:
    monkeypatch.setitem(sys.modules, "datasets", fake_library(found))
    with pytest.raises(DataError) as caught:
        open_images("hf:owner/pets")
    assert part in str(caught.value)


def test_the_hubs_library_is_named_where_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'nextify\[datasets\]'"):
        open_images("hf:owner/pets")


def test_hub_images_that_stay_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(TRAIN[0][0])
    split: Any = [{"image": {"bytes": None, "path": str(tmp_path / "a.png")}}]
    assert Rows("x/y", [("train", split)], "image").read(0) == TRAIN[0][0]


def tar_of(root: Path, rows: Sequence[Sample], **fields: Sequence[object]) -> str:
    """A shard of images and JSON with their labels and further fields; None leaves a field out."""
    members = []
    for i, (data, label) in enumerate(rows):
        told = {"label": CLASSES[label]} | {name: own[i] for name, own in fields.items() if own[i] is not None}
        members += [(f"{i:02}.png", data), (f"{i:02}.json", json.dumps(told).encode())]
    write_tar(root / "all.tar", members)
    return str(root / "all.tar")


def test_json_of_tar_shards_says_splits_and_groups(tmp_path: Path) -> None:
    rows = [*TEST, *TRAIN]
    for fields in ({"split": ["Test"] * 6 + ["TRAIN"] * 6}, {"Is_Train": [False] * 6 + [True] * 6}):
        images = open_images(tar_of(tmp_path, rows, **fields))
        assert [images.test.name(i) for i in range(6)] == [f"all.tar/{i:02}.png" for i in range(6)]
        assert images.train.labels.tolist() == [label for _, label in TRAIN]
    images = open_images(tar_of(tmp_path, rows, group=[i // 4 for i in range(12)]))
    assert len({int(images.test.name(i)[8:10]) // 4 for i in range(len(images.test))}) == 1
    images = open_images(tar_of(tmp_path, rows, patient_id=[i // 4 for i in range(12)]))
    assert any("The column patient_id is not used" in note for note in images.notes)
    with pytest.raises(DataError, match=r"all\.tar/11\.png has the split '': write train, val or test"):
        open_images(tar_of(tmp_path, rows, split=["test"] * 6 + ["train"] * 5 + [None]))


def test_a_tar_of_class_folders_is_to_be_unpacked(tmp_path: Path) -> None:
    write_tar(tmp_path / "all.tar", [(f"{CLASSES[label]}/{i}.png", data) for i, (data, label) in enumerate(TRAIN)])
    with pytest.raises(DataError, match=r"unpack it \(tar xf\) and give the folder"):
        open_images(str(tmp_path / "all.tar"))


def test_a_column_of_images_without_bytes_is_named(tmp_path: Path) -> None:
    images = [{"bytes": None, "path": f"{i}.png"} for i in range(4)]
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "label": [0, 1, 0, 1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="the column image holds no bytes of images: write the images into it"):
        open_images(str(tmp_path / "a.parquet"))
