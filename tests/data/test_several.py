"""Several labels per image: every way to state them, what is recognized, and every fault in one clear line."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextify.cli import main
from nextify.data import DataError, Images, TestBatches, open_images
from nextify.data.batches import divided
from nextify.data.images import label_of
from nextify.data.preflight import MultiLabelFacts, preflight, split_csv
from nextify.data.sources.listing import split_train
from nextify.data.sources.parts import Splitting
from nextify.paper.recipe import CONVNEXT
from tests.data.test_what_is_left_out import spoil
from tests.helpers import Captured, noise, save_noise

SETS = (("cat", "dog"), ("cat",), ("dog",), ("cat", "dog", "tree"), ("tree",), (), ("cat", "tree"), ("dog",))
"""Labels of the eight images of each part."""
PLAIN = CONVNEXT.with_(batch_size=4, mixing="off", label_smoothing=0.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the images that the tables name."""
    for part in ("train", "val"):
        for i in range(len(SETS)):
            save_noise(tmp_path / part / f"{i}.png", 10 * i + len(part))
    return tmp_path


def table(path: Path, rows: Sequence[Sequence[object]], delimiter: str = ",") -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def entries() -> list[tuple[str, tuple[str, ...], str]]:
    return [(f"{part}/{i}.png", own, part) for part in ("train", "val") for i, own in enumerate(SETS)]


def joined(root: Path, sign: str, label: str = "label") -> Path:
    rows = [(path, sign.join(own), part) for path, own, part in entries()]
    return table(root / "t.csv", [("path", label, "split"), *rows])


def labels_of(images: Images, part: str) -> list[tuple[str, ...]]:
    own = images.train if part == "train" else images.test
    order = np.argsort([own.name(i) for i in range(len(own))])
    return [tuple(images.classes[k] for k in label_of(own.labels, int(i))) for i in order]


# -- every way to state them ---------------------------------------------------------------------------------------


def one_hot(root: Path) -> Path:
    classes = ("tree", "cat", "dog")
    rows = [(path, *(int(name in own) for name in classes), part, 7) for path, own, part in entries()]
    return table(root / "t.csv", [("file_name", *classes, "split", "height"), *rows])


def row_for_each(root: Path) -> Path:
    rows = [(path, name, part) for path, own, part in entries() for name in own or ("",)]
    return table(root / "t.csv", [("path", "label", "split"), *rows])


def lists(root: Path) -> Path:
    lines = [json.dumps({"path": path, "label": list(own), "split": part}) for path, own, part in entries()]
    (root / "t.jsonl").write_text("\n".join(lines))
    return root / "t.jsonl"


def lists_in_text(root: Path, write: Callable[[list[str]], str]) -> Path:
    """As pandas writes a column of lists to CSV."""
    rows = [(path, write(list(own)), part) for path, own, part in entries()]
    return table(root / "t.csv", [("path", "label", "split"), *rows])


def metadata(root: Path) -> Path:
    for part in ("train", "val"):
        rows = [(path.partition("/")[2], "|".join(own)) for path, own, there in entries() if there == part]
        table(root / part / "metadata.csv", [("file_name", "labels"), *rows])
    return root


def links(root: Path) -> Path:
    for path, own, part in entries():
        for name in own or ("none",):
            place = root / "linked" / part / name / path.replace("/", "-")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(root / path)
    return root / "linked"


def copies(root: Path) -> Path:
    for path, own, part in entries():
        for i, name in enumerate(own or ("none",)):
            place = root / "copied" / part / name / f"{i}-{path.replace('/', '-')}"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((root / path).read_bytes())
    return root / "copied"


WAYS: dict[str, tuple[Callable[[Path], Path], bool]] = {
    "bars": (lambda root: joined(root, "|"), True),
    "semicolons": (lambda root: joined(root, "; "), True),
    "commas": (lambda root: joined(root, ","), False),
    "commas in labels": (lambda root: joined(root, ", ", "labels"), True),
    "blanks": (lambda root: joined(root, " "), False),
    "blanks in tags": (lambda root: joined(root, " ", "tags"), True),
    "0 and 1": (one_hot, True),
    "a row for each": (row_for_each, False),
    "lists": (lists, True),
    "lists as Python writes them": (lambda root: lists_in_text(root, str), True),
    "lists as JSON writes them": (lambda root: lists_in_text(root, json.dumps), True),
    "arrays as NumPy writes them": (lambda root: lists_in_text(root, lambda own: str(np.array(own, str))), True),
    "metadata": (metadata, True),
    "links": (links, False),
    "copies": (copies, False),
}
"""And whether they are recognized."""


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_state_several_labels_gives_the_same(way: str, root: Path) -> None:
    write, recognized = WAYS[way]
    source = write(root)
    for task in ("multilabel", None) if recognized else ("multilabel",):
        images = open_images(source, task=task)
        assert images.multilabel
        assert images.classes == ("cat", "dog", "tree")
        for part in ("train", "val"):
            found = labels_of(images, part)
            assert sorted(found) == sorted(SETS)
            assert way in ("links", "copies") or found == list(SETS)  # those are named by their first class folder
        assert "2 of 16 images have no label: they count as showing none of the classes." in images.notes
        assert len(images.train) == len(images.test) == 8
    if recognized and way not in ("lists", "metadata"):
        assert any("multi-label" in note for note in images.notes)


@pytest.mark.parametrize("sign", ["|", ";", ",", " "])
def test_a_cell_is_one_class_where_that_is_asked_for(sign: str, root: Path) -> None:
    rows = [(f"train/{i}.png", f"a{sign}b" if i % 2 else "a") for i in range(8)]
    images = open_images(table(root / "t.csv", [("path", "label"), *rows]), task="classification")
    assert images.classes == ("a", f"a{sign}b")
    assert not images.multilabel


def test_lists_in_text_are_one_class_each_where_that_is_asked_for(root: Path) -> None:
    rows = [(f"train/{i}.png", str(["a", "b"] if i % 2 else ["a"])) for i in range(8)]
    source = table(root / "t.csv", [("path", "labels"), *rows])
    assert open_images(source, task="classification").classes == ("['a', 'b']", "['a']")
    rows[0] = (rows[0][0], "[a]")  # no list, so none is one
    assert not open_images(table(root / "t.csv", [("path", "label"), *rows])).multilabel


def test_a_folder_with_copies_stays_one_class_per_image_and_names_the_option(root: Path) -> None:
    images = open_images(copies(root))
    assert not images.multilabel
    assert "none" in images.classes
    (warning,) = images.warnings
    assert "appear in more than one class" in warning
    assert warning.endswith("correct their labels, or give --task multilabel where an image can have several")


def test_signs_in_names_are_no_separators(root: Path) -> None:
    names = ("tench; fish", "crane; bird", "goldfish; carp")
    rows = [(f"{part}/{i}.png", names[i % 3], part) for part in ("train", "val") for i in range(8)]
    images = open_images(table(root / "t.csv", [("path", "label", "split"), *rows]))
    assert images.classes == tuple(sorted(names))
    rows = [(path, ("a; b", names[0], "a")[i % 8 % 3], part) for i, (path, _, part) in enumerate(rows)]
    images = open_images(table(root / "t.csv", [("path", "label", "split"), *rows]))
    assert not images.multilabel
    assert any("--task multilabel splits them" in note for note in images.notes)


def test_one_1_in_each_row_is_one_class_per_image(root: Path) -> None:
    rows = [(f"{part}/{i}.png", i % 2, 1 - i % 2, part) for part in ("train", "val") for i in range(8)]
    path = table(root / "t.csv", [("path", "odd", "even", "split"), *rows])
    images = open_images(path)
    assert (images.classes, images.multilabel) == (("even", "odd"), False)
    assert any("--task multilabel decides each separately" in note for note in images.notes)
    assert open_images(path, task="multilabel").multilabel


def test_several_names_of_one_file_in_a_part_are_one_image(root: Path) -> None:
    folder = links(root)
    os.link(root / "train" / "1.png", folder / "train" / "tree" / "again.png")
    images = open_images(folder, task="multilabel")
    assert len(images.train) == 8
    assert labels_of(images, "train").count(("cat", "tree")) == 2
    assert any("appear in several class folders (by link or content)" in note for note in images.notes)


# -- the split -----------------------------------------------------------------------------------------------------


def test_rare_labels_are_on_both_sides_and_groups_are_not() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((500, 6)) < (0.5, 0.3, 0.2, 0.1, 0.02, 0.01)).astype(np.int64)
    everything = np.arange(len(labels))
    train, test, note = split_train(labels, Splitting(), everything)
    assert sorted([*train, *test]) == everything.tolist()
    assert (np.abs(labels[test].sum(0) - 0.2 * labels.sum(0)) <= 2 + 0.03 * labels.sum(0)).all()
    assert labels[train].any(0).all()
    assert abs((~labels[test].any(1)).sum() / (~labels.any(1)).sum() - 0.2) < 0.05
    assert "about 20% of each class, seed 0" in note
    groups = [str(i // 5) for i in everything]
    train, test, _ = split_train(labels, Splitting(), everything, groups)
    assert not {groups[i] for i in train} & {groups[i] for i in test}
    assert 50 < len(test) < 150
    again = split_train(labels, Splitting(seed=1), everything)[1]
    assert again.tolist() != split_train(labels, Splitting(), everything)[1].tolist()


def test_a_label_does_not_lose_its_last_image() -> None:
    labels = np.eye(3, dtype=np.int64)[[0, 0, 0, 1, 2, 2]]
    train, _, _ = split_train(labels, Splitting(0.5), np.arange(6))
    assert 3 in train
    assert labels[train].any(0).all()
    with pytest.raises(DataError, match="no image can be held out for testing without taking all images of some class"):
        split_train(np.eye(3, dtype=np.int64), Splitting(), np.arange(3))


def test_held_out_images_and_batches_have_several_labels(root: Path) -> None:
    images = open_images(joined(root, "|"))
    trained, held_out = divided(images.train, PLAIN.with_(calibration=0.3))
    assert sorted([*trained, *held_out]) == list(range(8))
    assert len(held_out)
    batches = [*TestBatches(images.test, PLAIN, 8, 5, rank=1, count=2)]
    assert [labels.shape for _, labels in batches] == [(3, 3)]
    (_, standing_in) = next(iter(TestBatches(images.test, PLAIN, 8, 8, rank=1, count=2)))
    assert standing_in.tolist() == [[-1, -1, -1]]


def test_preflight_counts_labels(root: Path) -> None:
    images = open_images(joined(root, "|"))
    report = preflight(images, PLAIN)
    assert isinstance(report.facts, MultiLabelFacts)
    assert report.facts.images_per_class == {"cat": 4, "dog": 4, "tree": 3}
    assert (report.facts.labels_per_image, report.facts.images_without_labels) == (11 / 8, 1)
    assert "1.38 labels per image (multi-label), 1 image without any" in report.lines()[1]
    facts = replace(report.facts, smallest_class=("a", 5), largest_class=("b", 5))
    assert " 5 training images each, " in replace(report, facts=facts).lines()[1]
    assert json.loads(json.dumps(report.to_dict()))["labels_per_image"] == 11 / 8
    digest = hashlib.sha256((root / "train/0.png").read_bytes()).hexdigest()[:16]
    assert f"train/0.png,cat|dog,train,{digest}" in split_csv(images).splitlines()
    assert not any("accuracy" in note for note in report.notes)


# -- faults --------------------------------------------------------------------------------------------------------

Rows = list[tuple[object, ...]]
HEADER = ("path", "label", "split")
GOOD: Rows = [HEADER, *((path, "|".join(own), part) for path, own, part in entries())]
COLUMNS: Rows = [
    ("path", "a", "b", "split"),
    *((path, int("cat" in own), int("dog" in own), part) for path, own, part in entries()),
]


def without(rows: Rows, place: int, *row: object) -> Rows:
    return [*rows[:place], *((row,) if row else ()), *rows[place + 1 :]]


FAULTS: dict[str, tuple[Rows, str]] = {
    "missing file": (without(GOOD, 1, "train/9.png", "cat", "train"), "1 of 16 images cannot be read: train/9.png"),
    "unknown column": (
        [("path", "kind"), *(row[:2] for row in GOOD[1:])],
        "has no column label (its columns: path, kind)",
    ),
    "no path": (
        [("file", "label"), *(row[:2] for row in GOOD[1:])],
        "t.csv has no column path (its columns: file, label)",
    ),
    "empty path": (without(GOOD, 1, "", "cat", "train"), "1 row of t.csv has no path: row 2"),
    "no rows": (GOOD[:1], "t.csv has no rows: it needs one for each image"),
    "no label at all": (
        [HEADER, *((path, "", part) for path, _, part in GOOD[1:])],
        "8 rows of t.csv have no label: row 2, 3, 4, 5, 6 and 3 more",
    ),
    "NUL": (without(GOOD, 1, "train/0.png", "cat|d\0g", "train"), "1 row of t.csv holds a NUL byte: row 2"),
    "other split": ([*GOOD, ("train/0.png", "tree", "val")], "rows 2 and 18 of t.csv name train/0.png and disagree"),
    "other group": (
        [("path", "label", "group"), ("train/0.png", "a|b", "x"), ("train/0.png", "a", "y"), ("train/1.png", "b", "y")],
        "rows 2 and 3 of t.csv name train/0.png and disagree ('x', 'y'): give an image one split and one group",
    ),
    "unknown split": (without(GOOD, 1, "train/0.png", "cat|dog", "tr"), "row 2 of t.csv has the split 'tr'"),
    "test label unknown": (
        without(GOOD, 16, "val/7.png", "cat|cow", "val"),
        "split val has class cow that split train lacks",
    ),
    "one label for all": (
        [HEADER, *((path, "cat" if part == "train" else "cat|dog", part) for path, _, part in GOOD[1:])],
        "every image of t.csv has the label cat, so there is nothing to tell apart",
    ),
    "true and True": (
        [HEADER, *((path, ("true|cat", "True", "cat")[i % 8 % 3], part) for i, (path, _, part) in enumerate(GOOD[1:]))],
        "the labels True, true differ only in spelling: write them alike",
    ),
    "neither 0 nor 1": (
        without(COLUMNS, 3, "train/2.png", -1, 1, "train"),
        "neither 0 nor 1 in the column a ('-1'): row 4",
    ),
    "blank of 0 and 1": (without(COLUMNS, 3, "train/2.png", "", 1, "train"), "neither 0 nor 1 in the column a: row 4"),
    "column twice": ([("path", "a", "a", "split"), *COLUMNS[1:]], "t.csv names a column twice"),
    "columns without one": (
        [("path", "a", "split"), *((path, 0, part) for path, _, part in GOOD[1:])],
        "every image of t.csv has no label, so there is nothing to tell apart",
    ),
    "fractions": (
        [HEADER, *((path, f"{i / 8}", part) for i, (path, _, part) in enumerate(GOOD[1:]))],
        "are numbers with fractions (0.125, 0.25, 0.375): Nextify does not support regression",
    ),
    "fractions in a column": (
        [("path", "age", "split"), *((path, i + 0.5, part) for i, (path, _, part) in enumerate(GOOD[1:]))],
        "t.csv has no labels, and its column age holds numbers with fractions: Nextify does not support regression",
    ),
    "few images": (
        [HEADER, ("train/0.png", "a|b", "train"), ("train/1.png", "b", "train"), ("val/0.png", "a", "val")],
        "too few",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_clear_line(fault: str, root: Path, capsys: Captured) -> None:
    rows, message = FAULTS[fault]
    path = table(root / "t.csv", rows)
    code = main(["train", "convnext_atto", "--data", str(path), "--out", str(root / "out"), "--scale", "tiny",
                 "--epochs", "1", "--threads", "1", "--device", "cpu", "--dry-run"])  # fmt: skip
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if "warning: " not in line]
    assert code == 2
    (line,) = lines
    assert message in line, line


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("regression", "Nextify does not support regression"),
        ("tagging", "no task 'tagging'; there are classification, multilabel, detection, segmentation"),
    ],
)
def test_other_tasks_are_refused(task: str, message: str, root: Path, capsys: Captured) -> None:
    assert main(["train", "convnext_atto", "--data", str(joined(root, "|")), "--task", task]) == 2
    assert message in capsys.readouterr().err
    with pytest.raises(DataError, match=message):
        open_images(joined(root, "|"), task=task)  # type: ignore[arg-type]


def test_numbers_with_fractions_are_classes_where_that_is_asked_for(root: Path) -> None:
    rows = [(path, f"{i % 2 + 0.5}", part) for i, (path, _, part) in enumerate(GOOD[1:])]
    path = table(root / "t.csv", [HEADER, *rows])
    assert open_images(path, task="classification").classes == ("0.5", "1.5")


def test_what_is_odd_is_said(root: Path) -> None:
    rows = [(path, "|".join((*own, "Cat") if "dog" in own else own), part) for path, own, part in entries()]
    images = open_images(table(root / "t.csv", [HEADER, *rows, rows[0]]))
    assert "Some classes differ only in case, spaces or Unicode form: Cat and cat." in images.notes
    assert "1 row repeats an image: its labels are merged." in images.notes
    rows = [(path, "|".join(own).replace("dog", "d\tog"), part) for path, own, part in entries()]
    images = open_images(table(root / "t.csv", [HEADER, *rows]))
    assert "d\tog" in images.classes
    rows = [(path, "|".join(own), part) for path, own, part in entries() if part == "train" or "tree" not in own]
    images = open_images(table(root / "t.csv", [HEADER, *rows]))
    assert any(
        note.endswith("has no images of class tree: mAP covers the other classes only.") for note in images.notes
    )
    pairs = [("train/0.png", "a|b"), ("again.png", "a"), ("train/1.png", "b"), ("train/2.png", "a|b")]
    (root / "again.png").write_bytes((root / "train/0.png").read_bytes())
    rows = [("path", "label"), *pairs, *((path, "a|b") for path, *_ in rows[8:])]
    images = open_images(table(root / "t.csv", rows))
    assert any("under several names with different labels" in warning for warning in images.warnings)


def test_an_unreadable_image_is_replaced_by_one_of_the_same_labels(root: Path) -> None:
    spoil(root / "train/7.png")
    (root / "train/7.tif").rename(root / "train/7.png")
    images = open_images(joined(root, "|"), skip_unreadable=True)
    assert len(images.train) == 8
    assert labels_of(images, "train").count(("dog",)) == 2
    assert any("1 image cannot be read and is left out" in note for note in images.notes)


@pytest.mark.parametrize("command", ["roadmap", "compare"])
def test_commands_for_one_class_refuse_several_labels(command: str, root: Path, capsys: Captured) -> None:
    assert main([command, "--data", str(joined(root, "|")), "--out", str(root / "out")]) == 2
    assert "t has several labels per image (multi-label), but this takes one class each" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["digits", "cifar10"])
def test_sources_of_one_class_refuse_several_labels(source: str) -> None:
    with pytest.raises(DataError, match=f"{source} holds one class per image"):
        open_images(source, task="multilabel")


def test_pixels_are_those_of_the_file(root: Path) -> None:
    images = open_images(links(root), task="multilabel")
    first = next(i for i in range(8) if images.train.name(i).endswith("train-0.png"))
    with Image.open(root / "train/0.png") as image:
        assert np.array_equal(images.train.load(first), np.asarray(image))
    assert noise(0).shape == (16, 16, 3)
