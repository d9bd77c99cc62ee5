"""Data of the shapes that people have: parts by any name, files of other kinds, labels that say there is none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextify.data import DataError, Images, open_images
from nextify.data.decode import UnreadableImage, decode, read_header
from nextify.data.preflight import preflight
from nextify.data.sources.parts import is_part_folder, kind_of, looks_like_part
from nextify.paper.recipe import Recipe
from tests.helpers import encoded, noise, write_tar


def picture(seed: int) -> bytes:
    return encoded(Image.fromarray(noise(seed, 9, 8)))


def folder(root: Path, *classes: str, count: int = 4, seed: int = 0) -> Path:
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes(picture(seed + 100 * c + i))
    return root


def names(images: Images) -> tuple[set[str], set[str]]:
    train, test = ({part.name(i) for i in range(len(part))} for part in (images.train, images.test))
    return train, test


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[(name, "train") for name in ("train", "Training", "seg_train", "train_set", "train2017", "NAME-train-0000")],
        *[(name, "val") for name in ("val", "VALID", "validation", "dev", "val1", "imagenet1k-validation-07")],
        *[(name, "test") for name in ("test", "testing", "eval", "seg_test", "test_set")],
        *[(name, None) for name in ("trainer", "valley", "testament", "data", "trainval", "train_val")],
    ],
)
def test_one_table_of_part_names(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize("name", ["trainval", "train_val", "testA", "holdout", "minival", "unlabeled"])
def test_what_looks_like_a_part_is_told(name: str, tmp_path: Path) -> None:
    assert looks_like_part(name)
    assert not is_part_folder(name)
    folder(tmp_path / "train", "a", "b")
    folder(tmp_path / name, "a", "b", seed=50)
    with pytest.raises(DataError, match=f"{name}/, which may be a training or a test split"):
        open_images(str(tmp_path))


@pytest.mark.parametrize("name", ["train_station", "test_tube", "devil"])
def test_a_class_may_hold_a_parts_word(name: str, tmp_path: Path) -> None:
    assert open_images(str(folder(tmp_path, "bus", name))).num_classes == 2


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("seg_train", "seg_test"),
        ("training", "validation"),
        ("train_set", "test_set"),
        ("train", "dev"),
        ("train", "val1"),
        ("cats_train", "cats_test"),
    ],
)
def test_folders_of_parts(train: str, test: str, tmp_path: Path) -> None:
    folder(tmp_path / train, "a", "b")
    folder(tmp_path / test, "a", "b", seed=50)
    images = open_images(str(tmp_path))
    assert images.classes == ("a", "b")
    assert all(name.startswith(f"{test}/") for name in names(images)[1])


@pytest.mark.parametrize(
    ("within", "said"),
    [
        (("a", "b", "a", "b"), "test tube/, training shoes/, which may be splits or classes: if they are splits"),
        (("nike", "puma", "glass", "steel"), None),
    ],
)
@pytest.mark.parametrize("bus", [True, False])
def test_names_of_a_part_and_more_may_be_classes(
    within: tuple[str, ...], said: str | None, bus: bool, tmp_path: Path
) -> None:
    folder(tmp_path / "training shoes", *within[:2])
    folder(tmp_path / "test tube", *within[2:], seed=500)
    if bus:
        folder(tmp_path, "bus", seed=900)
    (tmp_path / "test tube" / "@eaDir").mkdir()
    (tmp_path / "training shoes" / "@eaDir").mkdir()
    if said is not None:
        with pytest.raises(DataError, match=said):
            open_images(str(tmp_path))
        return
    images = open_images(str(tmp_path))
    assert images.classes == (*["bus"] * bus, "test tube", "training shoes")
    assert any(
        "test tube/, training shoes/ have no class folders in common, so they are taken as classes" in n
        for n in images.notes
    )


@pytest.mark.parametrize(("train", "test"), [("cats_train", "cats_test"), ("train", "cats_val")])
def test_parts_by_longer_names_are_said(train: str, test: str, tmp_path: Path) -> None:
    folder(tmp_path / train, "a", "b")
    folder(tmp_path / test, "a", "b", seed=500)
    images = open_images(str(tmp_path))
    assert {name.split("/")[0] for name in names(images)[1]} == {test}
    assert any("are taken as splits, not classes" in note and f"{test}/" in note for note in images.notes)


def test_parts_within_class_folders(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        folder(tmp_path / name, "train", "test", "val", seed=1000 * seed)
    images = open_images(str(tmp_path))
    train, test = names(images)
    assert (images.classes, len(train), len(test)) == (("a", "b"), 8, 8)
    assert {name.split("/")[1] for name in train} == {"train"}
    assert {name.split("/")[1] for name in test} == {"val"}
    assert {r: len(n) for r, n in images.left_out.items()} == {"in */test/, which is not used": 8}
    assert "The class folders hold splits: */train/, */val/." in images.notes
    measured = open_images(str(tmp_path), to_train=False)
    assert {name.split("/")[1] for name in names(measured)[1]} == {"val"}
    folder(tmp_path, "c")
    with pytest.raises(DataError, match=r"splits in them \(a/, b/\) and 4 images outside them \(c/0.png, "):
        open_images(str(tmp_path))


def test_several_sets_beside_each_other_are_refused(tmp_path: Path) -> None:
    for name in ("pets", "cars"):
        for part in ("train", "test"):
            folder(tmp_path / name / part, "a", "b")
    with pytest.raises(DataError, match="several data sets, cars/, pets/, each with splits of class folders: give one"):
        open_images(str(tmp_path))


def test_class_folders_that_no_part_fills_are_said(tmp_path: Path) -> None:
    folder(tmp_path / "test", "a", "b")
    (tmp_path / "test" / "c").mkdir()
    (tmp_path / "test" / "d").mkdir()
    images = open_images(str(tmp_path / "test"), to_train=False)
    assert "There are no images in c/, d/." in images.notes


def test_two_spellings_of_a_part(tmp_path: Path) -> None:
    for seed, part in enumerate(("train", "Val", "val")):
        folder(tmp_path / part, "a", "b", seed=1000 * seed)
    images = open_images(str(tmp_path))
    assert any("Val/ is not used" in note for note in images.notes)
    folder(tmp_path / "Train", "a", "b")
    with pytest.raises(DataError, match="several training splits"):
        open_images(str(tmp_path))


def test_a_class_named_train(tmp_path: Path) -> None:
    images = open_images(str(folder(tmp_path, "bus", "car", "train")))
    assert images.classes == ("bus", "car", "train")
    assert any("train/ holds images but no class folders" in note for note in images.notes)


def samples(seed: int, image: str = "{}.png", label: str = "{}.cls") -> list[tuple[str, bytes]]:
    members = []
    for i in range(6):
        members += [(image.format(i), picture(seed + i)), (label.format(i), b"%d" % (i % 2))]
    return members


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar"),
        ("my_train_0.tar", "my_val_0.tar"),
        ("training-0.tar", "testing-0.tar"),
        ("shards/train/0.tar", "shards/test/0.tar"),
        ("plain_text/train-0.tar", "plain_text/test-0.tar"),
    ],
)
def test_shards_keep_their_parts(train: str, test: str, tmp_path: Path) -> None:
    write_tar(tmp_path / train, samples(0))
    write_tar(tmp_path / test, samples(50))
    (tmp_path / "README.md").write_text("x")
    images = open_images(str(tmp_path))
    assert (len(images.train), len(images.test)) == (6, 6)
    assert all(name.startswith(test) for name in names(images)[1])


def test_several_data_sets_in_a_folder_are_refused(tmp_path: Path) -> None:
    for config in ("fine", "coarse"):
        write_tar(tmp_path / config / "train-0.tar", samples(0))
    with pytest.raises(DataError, match=r"several data sets, .*/coarse, .*/fine: give one"):
        open_images(str(tmp_path))


@pytest.mark.parametrize(
    ("image", "label"),
    [("IMG.{}.png", "IMG.{}.cls"), ("shot 2.{} raw.png", "shot 2.{} raw.cls"), ("{}.image.png", "{}.label.cls")],
)
def test_keys_may_have_dots(image: str, label: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", samples(0, image, label))
    images = open_images(str(tmp_path / "a.tar"))
    assert images.train_images + images.test_images == 6


def table(root: Path, header: str, rows: list[str]) -> str:
    for i in range(8):
        (root / f"{i}.png").write_bytes(picture(i))
    (root / "m.csv").write_text("\n".join([header, *rows]) + "\n")
    return str(root / "m.csv")


@pytest.mark.parametrize(
    ("column", "test", "train"),
    [
        ("is_valid", "True", "False"),
        ("is_test", "1", "0"),
        ("subset", "test", "train"),
        ("phase", "val", "train"),
        ("set", "Testing", "Training"),
        ("partition", "dev", "train"),
        ("split", "evaluation", "train"),
    ],
)
def test_split_columns(column: str, test: str, train: str, tmp_path: Path) -> None:
    rows = [f"{i}.png,{'ab'[i % 2]},{test if i >= 6 else train}" for i in range(8)]
    images = open_images(table(tmp_path, f"path,label,{column}", rows))
    assert names(images)[1] == {"6.png", "7.png"}
    assert (column == "split") != any(f"The column {column}" in note for note in images.notes)


@pytest.mark.parametrize("column", ["patient_id", "Subject", "plant_id", "camera", "PatientID", "video name"])
@pytest.mark.parametrize("split", [True, False])
def test_a_column_of_what_an_image_shows_is_hinted_at(column: str, split: bool, tmp_path: Path) -> None:
    rows = [f"{i}.png,{'ab'[i % 2]},p{i // 4}" for i in range(8)]
    rows = [f"{row},{'val' if i > 5 else 'train'}" for i, row in enumerate(rows)] if split else rows
    header = f"path,label,{column}{',split' if split else ''}"
    (said,) = [note for note in open_images(table(tmp_path, header, rows)).notes if "group" in note]
    assert said == (
        f"The column {column} is not used, so images of one {column} may be both trained on and tested on: "
        f"name the column group to keep them on one side."
    )
    grouped = open_images(
        table(
            tmp_path,
            header.replace("label,", "label,group,", 1),
            [row.replace(",p", f",g{i % 3},p", 1) for i, row in enumerate(rows)],
        )
    )
    assert not any("name the column group" in note for note in grouped.notes)


@pytest.mark.parametrize("mark", ["", "NaN", "NA", "None", "-1"])
def test_an_empty_group_is_no_group(mark: str, tmp_path: Path) -> None:
    rows = [f"{i}.png,{'ab'[i % 2]},{mark}" for i in range(8)]
    images = open_images(table(tmp_path, "path,label,group", rows))
    assert any("8 of 8 images have no group" in note for note in images.notes)
    assert (len(images.train), len(images.test)) == (6, 2)


def test_missing_columns_are_named_with_those_that_would_do(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"path \(or file_name, filename, image_path\) and label \(or class, target, labels, tags, classes\)",
    ):
        open_images(table(tmp_path, "image,kind", ["0.png,a"]))


@pytest.mark.parametrize("source", ["", " "])
def test_an_empty_name_is_not_the_current_folder(source: str) -> None:
    with pytest.raises(DataError, match="the data source is empty: give 'digits'"):
        open_images(source)


def test_folds_are_not_used_and_named(tmp_path: Path) -> None:
    images = open_images(table(tmp_path, "path,label,fold", [f"{i}.png,{'ab'[i % 2]},{i % 3}" for i in range(8)]))
    assert any("The column fold (0, 1, 2) is not used" in note for note in images.notes)


@pytest.mark.parametrize("mark", ["NaN", "nan", "NA", "None", "null", "-1", " "])
def test_no_label_is_no_class(mark: str, tmp_path: Path) -> None:
    rows = [f"{i}.png,{mark if i == 3 else 'ab'[i % 2]}" for i in range(8)]
    with pytest.raises(DataError, match=r"1 row of m.csv has no label.*: row 5; fill them in or leave"):
        open_images(table(tmp_path, "path,label", rows))


def test_a_test_part_without_labels_is_left_out(tmp_path: Path) -> None:
    rows = [f"{i}.png,{'ab'[i % 2]},train" for i in range(6)] + ["6.png,,test", "7.png,NA,test"]
    images = open_images(table(tmp_path, "path,label,split", rows))
    assert images.train_images + images.test_images == 6
    assert any("split test has no labels, so it cannot be used for testing" in note for note in images.notes)
    assert list(images.left_out.values()) == [["6.png", "7.png"]]


@pytest.mark.parametrize("labels", [("1", "1.0", "2"), ("caf\u00e9", "cafe\u0301", "x")])
def test_labels_that_are_one_class(labels: tuple[str, str, str], tmp_path: Path) -> None:
    images = open_images(table(tmp_path, "path,label", [f"{i}.png,{labels[i % 3]}" for i in range(8)]))
    assert images.num_classes == 2


def test_whole_numbers_may_be_stored_as_floats(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table(tmp_path, "path", [f"{i}.png" for i in range(8)])  # and the images
    paths, labels, groups = [f"{i}.png" for i in range(8)], [float(i % 2) for i in range(8)], [2.0, None] * 4
    pq.write_table(pa.table({"path": paths, "label": labels, "group": groups}), tmp_path / "t.parquet")
    rows = zip(paths, labels, groups, strict=True)
    lines = [json.dumps({"path": path, "label": label, "group": group}) for path, label, group in rows]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    (tmp_path / "shards").mkdir()
    of_labels = [(f"{i}.json", json.dumps({"label": label}).encode()) for i, label in enumerate(labels)]
    write_tar(tmp_path / "shards" / "train.tar", [(path, picture(i)) for i, path in enumerate(paths)] + of_labels)
    encoded = [{"bytes": picture(i), "path": None} for i in range(8)]
    (tmp_path / "p").mkdir()
    pq.write_table(pa.table({"image": encoded, "label": labels}), tmp_path / "p" / "train.parquet")
    for source in ("t.parquet", "t.jsonl", "shards", "p"):
        assert open_images(tmp_path / source).classes == ("0", "1"), source
    lines[0] = json.dumps({"path": "0.png", "label": 0.5})
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"holds 0\.5: write text or whole numbers; Nextify does not support regr"):
        open_images(tmp_path / "t.jsonl")


def test_labels_that_may_be_one_class(tmp_path: Path) -> None:
    rows = [f"{i}.png,{('true', 'True', 'false')[i % 3]}" for i in range(8)]
    with pytest.raises(DataError, match="the labels True, false, true differ only in spelling"):
        open_images(table(tmp_path, "path,label", rows))
    images = open_images(str(folder(tmp_path / "f", "Cat", "cat", "dog")))
    assert any("Some classes differ only in case, spaces or Unicode form: Cat and cat" in note for note in images.notes)


@pytest.mark.parametrize("header", ["path,label,,", "file_name,class,,"])
def test_blank_columns(header: str, tmp_path: Path) -> None:
    images = open_images(table(tmp_path, header, [f"{i}.png,{'ab'[i % 2]},," for i in range(8)]))
    assert images.train_images + images.test_images == 8
    (tmp_path / "t").mkdir()
    assert (
        open_images(table(tmp_path / "t", "path,label", [f"{i}.png,{'ab'[i % 2]}," for i in range(8)])).num_classes == 2
    )


def test_a_stray_quote_swallows_no_rows(tmp_path: Path) -> None:
    rows = [f"{i}.png,{chr(34) + '5 nail' if i in (3, 6) else 'ab'[i % 2]}" for i in range(8)]
    with pytest.raises(DataError, match=r"row 5 of m.csv has a cell that spans several lines, as after a stray quote"):
        open_images(table(tmp_path, "path,label", rows))


def test_used_and_left_out_are_all_that_is_on_the_disk(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for seed, part in enumerate(("train", "val", "test")):
        folder(root / part, "a", "b", seed=1000 * seed)
    for name in ("train/a/x.HEIC", "train/b/notes.txt", "train/b/@eaDir/0.png", "train/readme", "val/.DS_Store"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(picture(7))
    for name in ("runs/first/preflight.json", "runs/first/mistakes.png", "docs/plan.png", "LICENSE", "train/loose.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(8))
    images = open_images(str(root))
    train, test = names(images)
    facts = preflight(images, Recipe(batch_size=4)).facts
    left = [name for of_reason in facts.left_out.values() for name in of_reason]
    on_disk = {Path(at, file).relative_to(root).as_posix() for at, _, files in os.walk(root) for file in files}
    assert sorted([*train, *test, *left]) == sorted(on_disk)
    (said,) = [note for note in images.notes if "left out" in note]
    for part in ("1 .heic files, which need pip install pillow-heif", "2 results of nextify", "1 in docs/, next to"):
        assert part in said
    assert "thumbnail" in said
    assert "hidden" not in said


def test_our_own_results_are_no_class(tmp_path: Path) -> None:
    before = open_images(str(folder(tmp_path, "a", "b")))
    run = tmp_path / "runs" / "convnext_tiny-photos" / "0123456789abcdef"
    run.mkdir(parents=True)
    (run / "checkpoint.pt").write_bytes(b"x")
    (run / "mistakes.png").write_bytes(picture(0))
    assert open_images(str(tmp_path)).fingerprint == before.fingerprint


def masks(root: Path) -> None:
    folder(root / "images" / "train", "a")
    folder(root / "masks" / "train", "a")


def boxes(root: Path) -> None:
    for part in ("train", "valid"):
        folder(root / part, "images")
        (root / part / "labels").mkdir()
        (root / part / "labels" / "0.txt").write_text("0 .5 .5 1 1")


def archive(root: Path) -> None:
    (root / "photos.zip").write_bytes(b"PK")


def other_format(root: Path) -> None:
    for name in "ab":
        (root / name).mkdir()
        (root / name / "0.heic").write_bytes(b"x")


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (masks, "laid out as a segmentation set"),
        (boxes, "laid out as a detection set"),
        (archive, "photos.zip: unpack it"),
        (other_format, "pip install pillow-heif"),
    ],
)
def test_the_remedy_harms_no_good_file(make: Callable[[Path], None], part: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(DataError) as caught:
        open_images(str(tmp_path))
    assert part in str(caught.value)
    assert not {"delete", "remove"} & set(str(caught.value).split())


@pytest.mark.parametrize("name", ["x.zip", "x.7z", "x.tar.gz", "x.tgz"])
def test_archives_are_to_be_unpacked(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match="is an archive: unpack it"):
        open_images(str(tmp_path / name))


def test_what_is_there_to_test_on_only(tmp_path: Path) -> None:
    folder(tmp_path / "away" / "test", "a", "b")
    for source in (tmp_path / "away", tmp_path / "away" / "test"):
        images = open_images(str(source), to_train=False)
        assert (len(images.train), len(images.test)) == (0, 8)
    with pytest.raises(DataError, match="add train/"):
        open_images(str(tmp_path / "away"))
    one = open_images(str(folder(tmp_path / "one", "a")), to_train=False)
    assert len(one.train) + len(one.test) == 4
    rows = [f"{i}.png,{'ab'[i % 2]},test" for i in range(8)]
    assert open_images(table(tmp_path, "path,label,split", rows), to_train=False).test_images == 8


def test_test_images_of_one_class(tmp_path: Path) -> None:
    folder(tmp_path / "train", "a", "b", "c")
    folder(tmp_path / "val", "a", seed=50)
    (tmp_path / "val" / "b").mkdir()
    images = open_images(str(tmp_path))
    assert images.test_images == 4
    assert any("no images of 2 classes b, c" in note for note in images.notes)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0\0\x18ftypheic" + b"\0" * 99, "HEIC, which needs a plug-in: pip install pillow-heif"),
        (b"\xff\x0a" + b"\0" * 99, "JPEG XL"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ],
)
def test_other_formats_are_named(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        decode(data)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "BMP", "PPM", "WEBP", "PNG", "JPEG"])
def test_a_file_that_is_cut_off_does_not_pass_the_check(kind: str) -> None:
    data = encoded(Image.fromarray(noise(0, 90, 80)), kind)
    read_header(data)
    with pytest.raises(UnreadableImage):
        read_header(data[: len(data) // 2])


def test_twelve_bits_in_sixteen_are_told(tmp_path: Path) -> None:
    folder(tmp_path, "a", "b")
    dark = np.random.default_rng(0).integers(0, 4096, (9, 8), np.uint16)
    Image.fromarray(dark).save(tmp_path / "a" / "dark.png")
    assert any(
        "nearly black (12-bit values stored in 16 bits?)" in warning for warning in open_images(str(tmp_path)).warnings
    )


def test_pictures_that_are_transparent_everywhere_are_told(tmp_path: Path) -> None:
    folder(tmp_path, "a", "b")
    ghost = Image.open(tmp_path / "a" / "0.png")
    ghost.putalpha(0)
    ghost.save(tmp_path / "a" / "ghost.png")
    assert any("fully transparent" in warning for warning in open_images(str(tmp_path)).warnings)


@pytest.mark.parametrize(
    ("header", "said"), [("path,label,class", "label, not from class"), ("path,Target,class", "class, not from Target")]
)
def test_of_two_columns_of_labels_the_one_that_counts_is_named(header: str, said: str, tmp_path: Path) -> None:
    images = open_images(table(tmp_path, header, [f"{i}.png,{'ab'[i % 2]},{'dc'[i % 2]}" for i in range(8)]))
    assert images.classes == (("a", "b") if "label" in header else ("c", "d"))
    assert f"The labels come from the column {said}." in images.notes
