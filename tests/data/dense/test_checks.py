"""Bad annotations: each kind is said in one line that names the place and the remedy, or handled by a rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nextify.data import DataError
from nextify.data.dense import open_dense
from tests.data.dense.layouts import (
    SIZE,
    coco_beside,
    masks_inner,
    masks_voc,
    roboflow,
    voc,
    write,
    xml,
    yolo,
    yolo_bare,
    yolo_coco8,
)

Change = Callable[[Any], object]


def changed(change: Change) -> Callable[[Path], Path]:
    """A COCO set whose train.json was changed."""

    def build(root: Path) -> Path:
        source = coco_beside(root)
        found = json.loads((source / "train.json").read_text())
        change(found)
        write(source / "train.json", found)
        return source

    return build


def with_box(*box: object) -> Callable[[Path], Path]:
    return changed(lambda found: found["annotations"][0].update(bbox=[*box]))


def with_row(**row: object) -> Callable[[Path], Path]:
    return changed(lambda found: found["annotations"].append(found["annotations"][0] | row))


def with_first(key: str, **row: object) -> Callable[[Path], Path]:
    return changed(lambda found: found[key][0].update(row))


def with_runs(counts: object) -> Callable[[Path], Path]:
    return with_row(bbox=[1, 1, 5, 5], id=7, segmentation={"size": [16, 20], "counts": counts})


def with_text(name: str, text: str) -> Callable[[Path], Path]:
    """A COCO set, one of whose files holds this text."""

    def build(root: Path) -> Path:
        write(coco_beside(root) / name, text)
        return root

    return build


def cut(share: float, build: Callable[[Path], Path] = coco_beside, name: str = "train.json") -> Callable[[Path], Path]:
    """A set of whose JSON only the first part was copied."""

    def of(root: Path) -> Path:
        path = build(root) / name
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        return root

    return of


def broken_xml(root: Path) -> Path:
    write(voc(root) / "Annotations/train1.xml", "<annotation><object>")
    return root


def same_stem(root: Path) -> Path:
    text = (voc(root) / "Annotations/train1.xml").read_text()
    (root / "Annotations/deeper").mkdir()
    write(root / "Annotations/deeper/train1.xml", text)
    return root


def broken_yaml(root: Path) -> Path:
    (yolo(root) / "data.yaml").write_text("names: [a, b\n")
    return root


def text_box(root: Path) -> Path:
    path = voc(root) / "Annotations/train1.xml"
    path.write_text(path.read_text().replace("<xmin>4", "<xmin>four"))
    return root


def no_xml(root: Path) -> Path:
    (voc(root) / "Annotations/train1.xml").unlink()
    return root


def no_image(root: Path) -> Path:
    (voc(root) / "JPEGImages/train1.png").unlink()
    return root


def yolo_class(root: Path) -> Path:
    write(yolo(root) / "train/labels/train1.txt", "7 .5 .5 .1 .1\n")
    return root


def yolo_line(text: str) -> Callable[[Path], Path]:
    return lambda root: write(yolo(root) / "train/labels/train1.txt", f"{text}\n").parents[2]


def yolo_unnamed(root: Path) -> Path:
    (yolo_bare(root) / "classes.txt").unlink()
    write(root / "labels/train/train1.txt", "3000000 .5 .5 .1 .1\n")
    return root


def yolo_count(root: Path) -> Path:
    path = yolo(root) / "data.yaml"
    path.write_text(path.read_text().replace("nc: 2", "nc: 3"))
    return root


def mask(change: Callable[[np.ndarray[Any, Any]], Image.Image | None]) -> Callable[[Path], Path]:
    def build(root: Path) -> Path:
        path = masks_inner(root) / "masks/train/train1.png"
        made = change(np.asarray(Image.open(path)).copy())
        path.unlink()
        if made is not None:
            made.save(path)
        return root

    return build


def jpeg_mask(root: Path) -> Path:
    path = masks_inner(root) / "masks/train/train1.png"
    Image.open(path).convert("L").save(path.with_suffix(".jpg"))
    path.unlink()
    return root


def negative_mask(root: Path) -> Path:
    path = masks_inner(root) / "masks/train/train1.png"
    Image.fromarray(np.full(SIZE[::-1], -2, np.int32)).save(path.with_suffix(".tif"))
    path.unlink()
    return root


def second(name: str, build: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """A set with a JPEG beside one of its PNG files."""

    def of(root: Path) -> Path:
        path = build(root) / name
        Image.open(path).convert("L").save(path.with_suffix(".jpg"))
        return root

    return of


def unnamed_second(root: Path) -> Path:
    path = second("JPEGImages/train1.png", voc)(root) / "Annotations/train1.xml"
    path.write_text(path.read_text().replace("<filename>train1.png</filename>", ""))
    return root


def yolo_twice(root: Path) -> Path:
    names = [f"train/images/train{i}.png" for i in (0, 1, 2, 3, 1)]
    write(yolo(root) / "train.txt", "".join(f"{name}\n" for name in names))
    path = root / "data.yaml"
    path.write_text(path.read_text().replace("../train/images", "train.txt"))
    return root


def masks_twice(root: Path) -> Path:
    path = masks_voc(root) / "ImageSets/Segmentation/val.txt"
    path.write_text(path.read_text() + "val1\n")
    return root


def odd_index(values: np.ndarray[Any, Any]) -> Image.Image:
    values[5] = 9
    return Image.fromarray(values)


def all_masks(value: int, part: str = "*") -> Callable[[Path], Path]:
    """Masks of one value, of all images or those of one part."""

    def build(root: Path) -> Path:
        for path in masks_inner(root).glob(f"masks/{part}/*.png"):
            Image.fromarray(np.full(SIZE[::-1], value, np.uint8)).save(path)
        return root

    return build


def named(build: Callable[[Path], Path], names: str = "sky\ncat\ndog\n") -> Callable[[Path], Path]:
    def of(root: Path) -> Path:
        write(build(root) / "classes.txt", names)
        return root

    return of


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no JSON": (
        with_text("train.json", '{"images": [], "annotations": [, "categories": []}'),
        r"train\.json is not valid JSON \(Expecting value: line 1 column 32 \(char 31\)\): write it again",
    ),
    "JSON cut in its annotations": (
        cut(0.8),
        r"train\.json is truncated and not valid JSON \(.*line 1 column \d+ .*\): write it",
    ),
    "JSON cut in its images": (
        cut(0.1),
        r"train\.json is truncated and not valid JSON \(.*line 1 column \d+ .*\): write it again",
    ),
    "JSON cut before its images": (
        with_text("train.json", '{"info": {"ye'),
        r"train\.json is truncated and not valid JSON \(Unt",
    ),
    "JSON cut to nothing": (
        with_text("train.json", ""),
        r"train\.json is truncated and not valid JSON \(Expecting value: line 1",
    ),
    "JSON cut, one per folder": (
        cut(0.2, roboflow, "train/_annotations.coco.json"),
        r"train/_annotations\.coco\.json is truncated and not valid JSON \(.*line 1",
    ),
    "number of 5,000 digits": (
        with_text("train.json", f'{{"images": {"9" * 5000}, "annotations": [], "categories": []}}'),
        r"train\.json is not valid JSON",
    ),
    "image's id a list": (with_first("images", id=[0]), r"train\.json has images whose id is neither .* text: \[0\]"),
    "category's id a list": (with_first("categories", id=[1]), r"has categories whose id is neither .* text: \[1\]"),
    "annotation's image a list": (
        with_first("annotations", image_id=[0]),
        r"train\.json has annotations whose image_id is neither a number nor text: \[0\] \(id 0\); correct it",
    ),
    "annotation's category an object": (
        with_first("annotations", category_id={"a": 1}),
        r"train\.json has annotations whose category_id is neither a number nor text: \{'a': 1\} \(id 0\)",
    ),
    "id of 400 digits": (
        with_first("annotations", image_id=10**400),
        r"image_id is neither a number .* 1000.*… \(id 0\)",
    ),
    "id not finite": (
        with_first("images", id=float("nan")),
        r"train\.json has images whose id is neither .* text: nan",
    ),
    "no categories": (changed(lambda f: f.update(categories=3)), "no list of categories"),
    "no file name": (changed(lambda f: f["images"][0].pop("file_name")), "images without file_name: add it"),
    "file name a list": (
        with_first("images", file_name=["a"]),
        r"images whose file_name is not text: \['a'\] \(id 0\);",
    ),
    "file name that no file has": (
        with_first("images", file_name="a\0b"),
        r"file_name is not text: 'a\\x00b' \(id 0\)",
    ),
    "class name that is no Unicode": (with_first("categories", name="\ud800"), r"name is not text: '\\ud800' \(id 1\)"),
    "unknown class": (with_row(category_id=99), "unknown classes, category_id 99: add them"),
    "other categories": (changed(lambda f: f["categories"].pop()), "different categories in its splits train, val"),
    "two of one id": (
        changed(lambda f: f["categories"].append({"id": 1, "name": "emu"})),
        "has several categories with the id 1: give each its own id",
    ),
    "two of one name": (
        changed(lambda f: f["categories"][1].update(name="cat")),
        "different categories in its splits|several categories named cat",
    ),
    "unknown image": (with_row(image_id=99), "images that it does not list, image_id 99"),
    "image listed twice": (
        changed(lambda f: f["images"].append(f["images"][0] | {"id": 50})),
        "lists 1 image more than once: train0.png",
    ),
    "box of three numbers": (with_box(1, 2, 3), "train.json, train0.png has an annotation whose bbox is not"),
    "box not finite": (with_box(1, 2, float("nan"), 3), "bbox is not x, y, width and height|is not valid JSON"),
    "box infinite": (
        with_box(1, 2, float("inf"), 3),
        r"train\.json, train0\.png has an annotation whose bbox is not .*: \[1, 2, inf, 3\] \(id 0\); correct it",
    ),
    "box of 400 digits": (with_box(1, 2, 10**400, 3), r"train0\.png has an annotation whose bbox is not .*… \(id 0\);"),
    "area not finite": (
        with_first("annotations", area=float("nan")),
        r"train0\.png has .* area is not a number: nan \(id 0",
    ),
    "area of words": (
        with_first("annotations", area="4"),
        r"train0\.png has .* whose area is not a number: '4' \(id 0\)",
    ),
    "crowd of words": (with_first("annotations", iscrowd="0"), r"iscrowd is neither 0 nor 1: '0' \(id 0\)"),
    "size of 400 digits": (
        with_first("images", width=10**400),
        r"train0\.png has a height or width that is not a positive number of pixels",
    ),
    "size not finite": (
        with_first("images", height=float("inf")),
        r"train0\.png has a height .* not a positive number of pixels: inf and 20",
    ),
    "outline not finite": (
        with_row(segmentation=[[1, 2, 3, 4, 5, float("nan")]], id=7),
        r"train0\.png has a segmentation that is neither outlines nor run lengths: \[\[1, 2, .* nan\]\] \(id 7\)",
    ),
    "outline far away": (
        with_row(segmentation=[[0, 0, 1e9, 0, 1, 1]]),
        r"train0\.png has an outline that reaches beyond",
    ),
    "run lengths of words": (
        with_runs([300, "20"]),
        r"train\.json, train0\.png has a mask whose run lengths are not whole numbers from 0: \[300, '20'\] \(id 7\)",
    ),
    "run lengths of fractions": (
        with_runs([300.5, 19.5]),
        r"run lengths are not whole numbers from 0: \[300\.5, 19\.5\]",
    ),
    "run lengths of nothing": (
        with_runs([300, None]),
        r"run lengths are not whole numbers from 0: \[300, None\] \(id 7",
    ),
    "run lengths below 0": (with_runs([330, -10]), r"run lengths are not whole numbers from 0: \[330, -10\] \(id 7\)"),
    "run lengths of 400 digits": (with_runs([10**400]), r"run lengths do not add up to its size: .*… \(id 7\)"),
    "run lengths compressed, too short": (with_runs("04"), r"run lengths do not add up to its size: '04' \(id 7\)"),
    "run lengths compressed, cut": (with_runs("o"), r"run lengths are not whole numbers from 0: 'o' \(id 7\)"),
    "run lengths of other characters": (with_runs("né"), r"run lengths are not whole numbers from 0: 'né' \(id 7\)"),
    "outline of an odd number": (
        with_row(segmentation=[[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7]], id=7),
        r"train0\.png has an outline whose last point has no y: \[1, 2, 3, 4, 5, 6, 7\] \(id 7\); correct it",
    ),
    "YOLO's image listed twice": (yolo_twice, r"lists 1 image more than once: train1\.png; list each once"),
    "a mask's image listed twice": (masks_twice, r"lists 1 image more than once: val1\.png; list each once"),
    "segmentation of words": (with_row(segmentation="none"), "neither outlines nor run lengths: 'none'"),
    "run lengths too short": (
        with_row(segmentation={"size": [16, 20], "counts": [3, 4]}),
        "run lengths do not add up to its size",
    ),
    "run lengths of another size": (
        with_row(bbox=[1, 1, 5, 5], segmentation={"size": [4, 5], "counts": [3, 17]}),
        r"train0\.png is 20×16 but its mask is 5×4",
    ),
    "size of another image": (
        changed(lambda f: f["images"][1].update(width=40)),
        r"1 image is not the size given .*train1\.png is 20×16 but annotated as 40×16",
    ),
    "image is missing": (
        changed(lambda f: f["images"][1].update(file_name="gone.png")),
        r"1 of 6 images cannot be read: images/gone\.png \(No such file or directory\)|gone\.png",
    ),
    "all images are missing": (
        changed(lambda f: [image.update(file_name=f"x/{image['file_name']}") for image in f["images"]]),
        r"none of the images that train\.json lists is in",
    ),
    "no XML": (broken_xml, r"train1\.xml is not valid XML .*: write it again"),
    "two XML of one name": (same_stem, r"have the same name, and VOC finds images by name: rename one"),
    "a broken data.yaml": (broken_yaml, r"data\.yaml is not valid YAML .*: correct it"),
    "box of words": (text_box, r"train1\.xml has an object whose bndbox is not four numbers"),
    "image without XML": (no_xml, r"train\.txt lists 1 image that has no \.xml file: train1"),
    "XML without image": (no_image, r"1 image is annotated but missing from .*: train1\.png"),
    "class beyond the names": (yolo_class, r"names 2 classes but has objects of class 7 .* in train1\.png"),
    "pixels for shares": (yolo_line("1 10 8 6 4"), r"train1\.txt, line 1: .* is not in fractions"),
    "outline in pixels": (yolo_line("1 .1 .1 .5 .1 9 9"), r"train1\.txt, line 1: .* is not in fractions"),
    "too few numbers": (yolo_line("1 .5 .5 .1"), r"train1\.txt, line 1: .* is neither a class and a box"),
    "share not finite": (
        yolo_line("1 .5 .5 inf .1"),
        r"train1\.txt, line 1: .* must begin .* and hold finite numbers: correct it",
    ),
    "class of 300 digits": (yolo_line("1e300 .5 .5 .1 .1"), r"train1\.txt, line 1: .* must begin with a class number"),
    "class 3,000,000 without names": (
        yolo_unnamed,
        r"has objects of class 3,000,000 but names no classes, in train1\.png: correct the number, or name the classes",
    ),
    "class named twice": (named(yolo_bare, "cat\ndog\ncat\n"), r"classes\.txt names cat more than once"),
    "class of masks named twice": (named(masks_inner, "sky\ncat\ncat\n"), r"classes\.txt names cat more than once"),
    "no class named": (named(masks_inner, "\n"), r"classes\.txt names no class: write one name per line"),
    "count beside names": (yolo_count, "nc: 3 and names 2 classes"),
    "mask is missing": (mask(lambda values: None), r"1 image of 4 in .* no mask of the same name .*: train1\.png"),
    "mask of another size": (
        mask(lambda values: Image.fromarray(values[:, :10])),
        r"the mask train1\.png is 10×16 but its image .*train1\.png is 20×16",
    ),
    "mask of colours": (
        mask(lambda values: Image.new("RGB", SIZE)),
        r"the mask train1\.png holds colours \(RGB\), not class indices",
    ),
    "mask that is a JPEG": (jpeg_mask, r"the mask train1\.jpg is a JPEG, .* store them as PNG"),
    "mask of negative values": (negative_mask, r"the mask train1\.tif holds the value -2, .* to ignore as 255"),
    "two masks of one name": (
        second("masks/train/train1.png", masks_inner),
        r"masks/train has 1 file named like another but for the ending: train1\.(jpg|png); keep one of each name",
    ),
    "two images of one name": (
        second("images/train/train1.png", masks_inner),
        r"images/train has 1 file named like another but for the ending: train1\.(jpg|png); keep one of each name",
    ),
    "two images of one name for an XML": (
        unnamed_second,
        r"JPEGImages has several images of one name: train1\.jpg, train1\.png; keep the one that was annotated",
    ),
    "masks of 255 only": (all_masks(255), r"all 4 masks to train on hold only ignored pixels \(255\): store the index"),
    "test masks of 255 only": (all_masks(255, "val"), r"all 2 masks to test on hold only ignored pixels \(255\)"),
    "unknown index": (
        named(mask(odd_index)),
        r"1 mask holds indices outside the 3 classes \(0 to 2\): train1\.png \(9\); .* --ignore-index 9",
    ),
}


def test_a_data_yaml_without_parts(tmp_path: Path) -> None:
    source = yolo(tmp_path)
    (source / "data.yaml").write_text("path: .\nnames: [cat, dog]\n")
    with pytest.raises(DataError, match=r"[^ ] has no train: of data\.yaml: add train: of data\.yaml"):
        open_dense(source)
    with pytest.raises(DataError, match="has no images: add some"):
        open_dense(source, to_train=False)


@pytest.mark.parametrize("name", REFUSED)
def test_bad_annotations_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    build, message = REFUSED[name]
    with pytest.raises(DataError, match=message) as caught:
        open_dense(build(tmp_path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


RULES: dict[str, tuple[Callable[[Path], Path], str, int]] = {
    "beyond the image": (with_box(15, 2, 10, 4), "1 box reaches beyond the image and is clipped, in", 1),
    "outside the image": (with_row(bbox=[30, 2, 10, 4]), "1 box lies outside the image and is left out, in", 1),
    "no area": (with_row(bbox=[3, 2, 0, 4]), "1 box has no area and is left out, in", 1),
    "a negative side": (with_row(bbox=[3, 2, -4, 4]), "1 box has no area and is left out, in", 1),
    "twice": (with_row(id=77), "1 box repeats another of the same class and is left out, in", 1),
    "crowd": (with_row(bbox=[1, 1, 9, 9], iscrowd=1), "1 box marks an area to ignore", 2),
    "nothing": (changed(lambda f: f["annotations"].pop(0)), "1 image has no objects: kept as background", 0),
}


@pytest.mark.parametrize("name", RULES)
def test_handled_by_a_rule_that_is_said(name: str, tmp_path: Path) -> None:
    build, message, kept = RULES[name]
    images = open_dense(build(tmp_path))
    assert any(message in said for said in (*images.notes, *images.warnings))
    assert len(images.train.objects(0)) == kept
    boxes = images.train.objects(0).boxes
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= SIZE).all()


def test_objects_of_one_box_with_different_masks_are_both_kept(tmp_path: Path) -> None:
    images = open_dense(with_row(id=77, segmentation=[[3, 2, 13, 2, 13, 10]])(tmp_path))
    assert not images.warnings
    objects = images.train.objects(0)
    assert [objects.mask(i, 16, 20).sum() for i in range(2)] == [80, pytest.approx(40, abs=8)]


def test_masks_of_ignored_pixels_are_named(tmp_path: Path) -> None:
    build = mask(lambda values: Image.fromarray(np.full_like(values, 255)))
    images = open_dense(build(tmp_path))
    assert images.warnings == (
        "1 mask holds only ignored pixels, so nothing is learned or measured from its image: train1.png.",
    )


def test_masks_of_one_class_are_named(tmp_path: Path) -> None:
    warnings = open_dense(all_masks(0)(tmp_path)).warnings
    assert warnings == ("The masks hold one class only (0), so there is nothing to tell apart.",)


def test_classes_that_no_mask_holds_are_named(tmp_path: Path) -> None:
    images = open_dense(named(masks_inner, "sky\ncat\ndog\nowl\n")(tmp_path))
    assert {f"No mask to {purpose} on has pixels of class owl." for purpose in ("train", "test")} <= {*images.notes}


def test_scores_in_labels_are_named(tmp_path: Path) -> None:
    images = open_dense(yolo_line("1 .5 .5 .1 .1 .93")(tmp_path))
    (said,) = images.warnings
    assert said.startswith("The labels of 1 image have a sixth number, such as a network's score")
    assert said.endswith("(train1.png).")
    assert len(images.train.objects(1)) == 1


def test_a_path_that_leads_elsewhere_is_named(tmp_path: Path) -> None:
    images = open_dense(yolo_coco8(tmp_path / "one"))
    assert (
        "set.yaml says path: ../somewhere/else, but its images are not there: those next to the file are used."
        in images.notes
    )
    path = write(tmp_path / "two/set.yaml", (tmp_path / "one/set.yaml").read_text().replace("somewhere/else", "one"))
    notes = open_dense(path).notes
    assert f"set.yaml says path: ../one: its images are those in {(tmp_path / 'one').resolve()}." in notes
    path = write(tmp_path / "one/set.yaml", path.read_text().replace("../one", "."))
    assert not any("path:" in note for note in open_dense(path).notes)


def test_boxes_without_area_in_voc(tmp_path: Path) -> None:
    source = voc(tmp_path)
    more = "<object><name>dog</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>5</xmax><ymax>9</ymax></bndbox></object>"
    write(source / "Annotations/train0.xml", xml("train0.png", "cat", more=more))
    images = open_dense(source)
    assert len(images.train.objects(0)) == 1
    assert images.left_out["boxes without area"] == ["train0.png"]


def test_unreadable_images_are_left_out_on_request(tmp_path: Path) -> None:
    source = coco_beside(tmp_path)
    path = source / "images/train0.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"1 of 6 images cannot be read: train0\.png"):
        open_dense(source)
    images = open_dense(source, skip_unreadable=True)
    assert any("left out: train0.png" in note for note in images.notes)
    assert all(images.train.load(i).shape == (16, 20, 3) for i in range(len(images.train)))


def test_test_images_that_are_training_images_too(tmp_path: Path) -> None:
    source = coco_beside(tmp_path)
    (source / "images/val0.png").write_bytes((source / "images/train0.png").read_bytes())
    images = open_dense(source)
    assert images.test_images_also_in_training == 1
    assert any("also a training image" in note for note in images.notes)


def test_a_class_that_only_the_test_images_have(tmp_path: Path) -> None:
    build = changed(lambda f: [row.update(category_id=1) for row in f["annotations"]])
    with pytest.raises(DataError, match=r"val\.json has class dog that train\.json lacks"):
        open_dense(build(tmp_path))
