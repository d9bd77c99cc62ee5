"""Every layout of boxes and masks gives the same images, boxes and classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextify.data import DataError, open_images
from nextify.data.dense import DenseTask, open_dense, recognize
from nextify.data.dense.annotations import encoded_mask, mask_api, run_lengths
from tests.data.dense.layouts import (
    BOX,
    CLASSES,
    DETECTION,
    PARTS,
    SEGMENTATION,
    SIZE,
    Build,
    coco,
    coco_beside,
    coco_one,
    coco_parts,
    index_mask,
    line,
    masks_inner,
    roboflow,
    save_images,
    voc,
    voc_own_folder,
    voc_parts,
    write,
    xml,
    yolo,
    yolo_bare,
    yolo_coco8,
)
from tests.helpers import save_noise

MASK_FOLDERS = {"masks", "labels", "annotations", "SegmentationClass"}


@pytest.mark.parametrize("build", DETECTION, ids=lambda build: build.__name__)
def test_boxes(build: Build, tmp_path: Path) -> None:
    source = build(tmp_path / "set")
    assert recognize(source) == "detection"
    images = open_dense(source)
    assert (images.task, images.classes) == ("detection", CLASSES)
    assert (images.train_images, images.test_images) == (4, 2)
    assert images.middle_size == SIZE[::-1]
    for part in (images.train, images.test):
        for i in range(len(part)):
            objects = part.objects(i)
            np.testing.assert_allclose(objects.boxes, [BOX], atol=1e-5)
            assert objects.labels.tolist() == [i % 2]
            assert objects.areas == pytest.approx([80])
            assert part.load(i).shape == (16, 20, 3)
    assert not images.warnings
    assert not any("left out" in note and "pets" not in note for note in images.notes)


@pytest.mark.parametrize("build", SEGMENTATION, ids=lambda build: build.__name__)
def test_index_masks(build: Build, tmp_path: Path) -> None:
    source = build(tmp_path / "set")
    assert recognize(source) == "segmentation"
    images = open_dense(source)
    assert (images.task, images.classes) == ("segmentation", ("0", "1", "2"))
    assert (images.train_images, images.test_images) == (4, 2)
    for part in (images.train, images.test):
        for i in range(len(part)):
            np.testing.assert_array_equal(part.mask(i), np.asarray(index_mask(i)))


def test_masks_with_a_text_beside_them_are_no_yolo(tmp_path: Path) -> None:
    root = masks_inner(tmp_path)
    (root / "masks" / "README.txt").write_text("who drew them")
    assert recognize(root) == "segmentation"


@pytest.mark.parametrize(("build", "folder"), [(yolo_bare, "labels"), (masks_inner, "masks")])
def test_annotations_may_lie_in_linked_folders(build: Build, folder: str, tmp_path: Path) -> None:
    source = build(tmp_path / "set")
    there = open_dense(source).fingerprint
    for part in PARTS:
        (source / folder / part).rename(tmp_path / part)
        (source / folder / part).symlink_to(tmp_path / part)
    (source / folder / "again").symlink_to(source)
    assert open_dense(source).fingerprint == there


@pytest.mark.parametrize("build", [*DETECTION, *SEGMENTATION], ids=lambda build: build.__name__)
def test_the_fingerprint_is_of_the_content(build: Build, tmp_path: Path) -> None:
    source = build(tmp_path / "one")
    moved = tmp_path / "deeper" / "two"
    shutil.copytree(tmp_path / "one", moved)
    prints = {open_dense(path).fingerprint for path in (source, moved / source.relative_to(tmp_path / "one"))}
    image = next(path for path in moved.rglob("train0.png") if not {*path.parts} & MASK_FOLDERS)
    save_noise(image, 77, SIZE)
    changed = open_dense(moved / source.relative_to(tmp_path / "one")).fingerprint
    assert len(prints) == 1
    assert changed not in prints


@pytest.mark.parametrize("build", DETECTION + SEGMENTATION, ids=lambda build: build.__name__)
def test_a_classifier_is_told_the_command(build: Build, tmp_path: Path) -> None:
    source = build(tmp_path / "set")
    with pytest.raises(DataError, match="nextify train MODEL --data") as caught:
        open_images(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("build", [coco_beside, yolo_coco8], ids=["coco", "yolo"])
def test_outlines_are_painted(build: Build, tmp_path: Path) -> None:
    images = open_dense(build(tmp_path / "set"), task="segmentation")
    assert images.classes == ("background", *CLASSES)
    assert images.train.mask(1)[5, 5] == 2
    assert images.train.mask(1)[13, 13] == 0
    assert open_dense(build(tmp_path / "set")).has_masks


def test_a_class_named_background_is_the_background(tmp_path: Path) -> None:
    for part in ("train", "val"):
        found = coco(save_images(tmp_path / "images", part))
        found["categories"].append({"id": 0, "name": "background"})
        found["annotations"][1]["category_id"] = 0
        write(tmp_path / f"{part}.json", found)
    images = open_dense(tmp_path, task="segmentation")
    assert images.classes == ("background", *CLASSES)
    assert [sorted(np.unique(images.train.mask(i))) for i in range(4)] == [[0, 1], [0], [0, 1], [0, 2]]


def test_yolo_labels_lie_in_the_folder_of_the_image(tmp_path: Path) -> None:
    """Images of one name in two folders have labels of their own."""
    for part in PARTS:
        for inner, label in (("", 0), ("night", 1)):
            for name in save_images(tmp_path / "img" / part / inner, part):
                write(tmp_path / "labels" / part / inner / f"{name[:-4]}.txt", line(label))
    images = open_dense(tmp_path)
    labels = {images.train.name(i): images.train.objects(i).labels.tolist() for i in range(8)}
    assert labels["train/train1.png"] == [0]
    assert labels["train/night/train1.png"] == [1]


def test_keypoints_are_no_outlines(tmp_path: Path) -> None:
    source = yolo(tmp_path)
    (source / "data.yaml").write_text((source / "data.yaml").read_text() + "kpt_shape: [2, 2]\n")
    for path in source.rglob("labels/*.txt"):
        path.write_text(f"{path.read_text().strip()} 0.1 0.9 0 0\n")
    images = open_dense(source)
    np.testing.assert_allclose(images.train.objects(1).boxes, [BOX], atol=1e-5)
    assert not images.has_masks
    assert "The objects have keypoints (kpt_shape), which are left out: only boxes are used." in images.notes


def test_voc_takes_the_image_that_the_xml_names(tmp_path: Path) -> None:
    source = voc(tmp_path)
    save_noise(source / "JPEGImages/train1.jpg", 9, SIZE)
    assert open_dense(source).train.name(1) == "train1.png"


@pytest.mark.parametrize("kind", ["yolo", "outline", "runs", "compressed"])
def test_objects_without_an_area_have_their_masks(kind: str, tmp_path: Path) -> None:
    """By which COCO tells small objects from large ones: half of the box, for a triangle."""
    (x1, y1, x2, y2), (width, height) = BOX, SIZE
    if kind == "yolo":
        source = yolo(tmp_path)
        corners = " ".join(f"{x / width} {y / height}" for x, y in ((x1, y1), (x2, y1), (x2, y2)))
        write(source / "train/labels/train0.txt", f"0 {corners}\n")
        assert open_dense(source).train.objects(0).areas == pytest.approx([40])
        return
    mask = np.zeros(SIZE[::-1], bool)
    mask[y1:y2, x1 : x1 + 5] = True
    runs = encoded_mask(mask)
    compressed = {**runs, "counts": mask_api().encode(np.asfortranarray(mask, np.uint8))["counts"].decode()}
    shape = {
        "outline": [[x1, y1, x1 + 5, y1, x1 + 5, y1 + 4, x1, y1 + 4], [x1, y1 + 4, x1 + 5, y1 + 4, x1 + 5, y2, x1, y2]],
        "runs": runs,
        "compressed": compressed,
    }[kind]
    for part in PARTS:
        found = coco(save_images(tmp_path / "images", part))
        for row in found["annotations"]:
            del row["area"]
            row["segmentation"] = shape
        write(tmp_path / f"{part}.json", found)
    assert open_dense(tmp_path).train.objects(0).areas == pytest.approx([40])


def test_run_lengths_and_crowds(tmp_path: Path) -> None:
    found = coco(save_images(tmp_path / "images", "train") + save_images(tmp_path / "images", "val"))
    mask = np.zeros((16, 20), np.uint8)
    mask[4:9, 2:7] = 1
    runs = [2 * 16 + 4, *[5, 11] * 4, 5]
    runs.append(16 * 20 - sum(runs))
    found["annotations"][0] |= {"segmentation": {"size": [16, 20], "counts": runs}, "iscrowd": 1}
    images = open_dense(write(tmp_path / "train.json", found))
    sets = [part for part in (images.train, images.test) if any("train0" in part.name(i) for i in range(len(part)))]
    index = next(i for i in range(len(sets[0])) if "train0" in sets[0].name(i))
    objects = sets[0].objects(index)
    np.testing.assert_array_equal(objects.mask(0, 16, 20), mask == 1)
    assert objects.crowd.tolist() == [True]
    assert any("1 box marks an area to ignore" in note for note in images.notes)
    painted = open_dense(tmp_path / "train.json", task="segmentation")
    masks = [part.mask(i) for part in (painted.train, painted.test) for i in range(len(part))]
    assert sum(int((mask == 255).sum()) for mask in masks) == 25


def test_compressed_run_lengths_are_those_that_were_compressed() -> None:
    rng = np.random.default_rng(0)
    for size in ((1, 1), (16, 20), (300, 700)):
        for share in (0.0, 0.02, 0.5, 1.0):
            mask = rng.random(size) < share
            text = mask_api().encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
            assert run_lengths(text) == encoded_mask(mask)["counts"]


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of pycocotools
def test_masks_agree_with_coco(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    from pycocotools import mask as api

    images = open_dense(coco_beside(tmp_path))
    outline = [[3.5, 2.2, 12.1, 3.3, 9.7, 11.9]]
    objects = images.train.objects(0)
    odd = type(objects)(objects.boxes, objects.labels, objects.crowd, objects.areas, (outline,))
    expected = api.decode(api.merge(api.frPyObjects(outline, 16, 20))).astype(bool)
    np.testing.assert_array_equal(odd.mask(0, 16, 20), expected)
    runs = api.encode(np.asfortranarray(expected))
    compressed = {"size": [16, 20], "counts": runs["counts"].decode()}
    odd = type(objects)(objects.boxes, objects.labels, objects.crowd, objects.areas, (compressed,))
    np.testing.assert_array_equal(odd.mask(0, 16, 20), expected)


def test_voc_counts_from_0_where_a_box_begins_there(tmp_path: Path) -> None:
    source = voc(tmp_path)
    write(source / "Annotations/train0.xml", xml("train0.png", "cat", (0, 0, 5, 5), first=0))
    images = open_dense(source)
    assert images.train.objects(0).boxes.tolist() == [[0, 0, 5, 5]]
    assert images.train.objects(1).boxes.tolist() == [[4, 3, 13, 10]]
    assert any("pixels from 0" in note for note in images.notes)


@pytest.mark.parametrize("build", [voc, voc_parts, voc_own_folder], ids=lambda build: build.__name__)
def test_voc_is_read_alike_whatever_part_is_used(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARTS, "test", 2)
    source = build(tmp_path)
    (path,) = tmp_path.rglob("test0.xml")
    assert open_dense(source).train.objects(0).boxes.tolist() == [[*BOX]]
    write(path, xml("test0.png", "cat", (0, 0, 5, 5), first=0))
    for tested in (None, "test"):
        images = open_dense(source, tested=tested)
        assert images.train.objects(0).boxes.tolist() == [[BOX[0] + 1, BOX[1] + 1, *BOX[2:]]]
        assert "Boxes count pixels from 0, since some begin there." in images.notes
    write(path, "<annotation>")
    assert open_dense(source).train.objects(0).boxes.tolist() == [[*BOX]]
    with pytest.raises(DataError, match=r"test0\.xml is not valid XML"):
        open_dense(source, tested="test")


def test_cocos_ids_are_kept(tmp_path: Path) -> None:
    source = coco_one(tmp_path / "one")
    images = open_dense(source)
    assert images.category_ids == (1, 4)
    assert (images.train.ids, images.test.ids) == ([0, 1, 2, 3], [4, 5])
    assert images.train.selected(np.array([2, 0])).ids == [2, 0]
    assert open_dense(source, task="segmentation").category_ids == ()
    others = open_dense(voc(tmp_path / "voc"))
    assert (others.category_ids, others.test.ids) == ((), None)


def test_a_json_that_is_not_cocos_is_named(tmp_path: Path) -> None:
    save_images(tmp_path / "images", "train")
    path = write(tmp_path / "train.json", {"images": [], "labels": []})
    lacking = r'train\.json is not COCO\'s JSON, since it has no "annotations", "categories"'
    for source in (tmp_path, path):
        with pytest.raises(DataError, match=lacking):
            open_images(source)
        with pytest.raises(DataError, match=lacking):
            open_dense(source, task="detection")
    write(tmp_path / "val.json", coco(save_images(tmp_path / "images", "val")))
    with pytest.raises(DataError, match=r"train\.json has no list of annotations, which COCO files need"):
        open_dense(tmp_path)


@pytest.mark.parametrize("source", ["coco", "scenes"])
def test_only_index_masks_have_an_index_to_ignore(source: str, tmp_path: Path) -> None:
    data = coco_beside(tmp_path) if source == "coco" else source
    with pytest.raises(DataError, match=r"ignore_index is for index masks, and .* has none: leave it out"):
        open_dense(data, task="segmentation", ignore_index=1)


def test_difficult_objects_are_ignored(tmp_path: Path) -> None:
    source = voc(tmp_path)
    path = source / "Annotations/train0.xml"
    path.write_text(path.read_text().replace("<bndbox>", "<difficult>1</difficult><bndbox>"))
    assert open_dense(source).train.objects(0).crowd.tolist() == [True]


@pytest.mark.parametrize(("part", "purpose"), [("train", "train"), ("val", "test")])
def test_areas_to_ignore_are_no_objects(part: str, purpose: str, tmp_path: Path) -> None:
    source = coco_beside(tmp_path)
    path = source / f"{part}.json"
    found = json.loads(path.read_text())
    found["annotations"].append(found["annotations"][0] | {"id": 9, "bbox": [1, 1, 4, 4], "iscrowd": 1})
    write(path, found)
    assert "4 objects to train on and 2 to test on, of 2 classes." in open_dense(source).notes
    for row in found["annotations"]:
        row["iscrowd"] = 1
    write(path, found)
    with pytest.raises(DataError, match=f"has no objects to {purpose} on"):
        open_dense(source)


def test_part_of_a_set_without_parts_is_tested_on(tmp_path: Path) -> None:
    names = save_images(tmp_path / "images", "train") + save_images(tmp_path / "images", "val")
    source = write(tmp_path / "pets.json", coco(names))
    images = open_dense(source, split_seed=1)
    assert (images.train_images, images.test_images) == (5, 1)
    assert "1 of 6 images (20%, seed 1) are held out for testing." in images.notes
    tested = {open_dense(source, split_seed=seed).test.name(0) for seed in range(8)}
    assert len(tested) > 1


@pytest.mark.parametrize("build", [*DETECTION, *SEGMENTATION], ids=lambda build: build.__name__)
def test_a_test_part_alone_can_be_evaluated(build: Build, tmp_path: Path) -> None:
    if build in (coco_one, yolo, yolo_coco8):
        pytest.skip("one file names all parts")
    source = build(tmp_path / "set")
    for path in [*tmp_path.rglob("*")]:
        if path.exists() and path.name in ("train", "training", "train.json", "instances_train2017.json", "train.txt"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    images = open_dense(source, to_train=False)
    assert (images.train_images, images.test_images) == (0, 2)
    with pytest.raises(DataError, match="add"):
        open_dense(source)


def test_a_part_by_its_own_name(tmp_path: Path) -> None:
    images = open_dense(coco_beside(tmp_path) / "val.json", to_train=False)
    assert (images.train_images, images.test_images) == (0, 2)


@pytest.mark.parametrize(
    "build", [coco_parts, coco_beside, coco_one, roboflow, voc, voc_parts, voc_own_folder, yolo, masks_inner]
)
def test_the_part_to_test_on_can_be_chosen(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARTS, "test", 3)
    source = build(tmp_path / "set")
    if build is yolo:
        (source / "data.yaml").write_text((source / "data.yaml").read_text() + "test: test/images\n")
    images = open_dense(source)
    assert len(images.test) == 2
    assert "nextify evaluate --split test measures a bundle on the split named test." in images.notes
    chosen = open_dense(source, to_train=False, tested="test")
    assert (len(chosen.test), chosen.name) == (3, f"{images.name} (test)")
    assert all("test" in chosen.test.name(i) for i in range(3))
    assert len(open_dense(source, to_train=False, tested="val").test) == 2


def test_a_part_that_is_not_there_is_refused(tmp_path: Path) -> None:
    lacking = r"--split test asks for a split that .* does not have \(only val\.json\)"
    with pytest.raises(DataError, match=lacking):
        open_dense(coco_beside(tmp_path / "set"), to_train=False, tested="test")
    with pytest.raises(DataError, match="scenes has no val"):
        open_dense("scenes", to_train=False, tested="val")


def test_class_names_of_masks(tmp_path: Path) -> None:
    source = masks_inner(tmp_path)
    write(source / "classes.txt", "unlabelled\ncat\ndog\n")
    images = open_dense(source)
    assert images.classes == ("cat", "dog")
    assert sorted(np.unique(images.train.mask(1))) == [1, 255]
    assert "Pixels of index 0 (unlabelled) are ignored." in images.notes
    assert any("move down to close the gap" in note for note in images.notes)
    further = open_dense(source, ignore_index=99)
    assert further.classes == ("cat", "dog")
    other = open_dense(source, ignore_index=2)
    assert other.classes == ("cat",)
    assert sorted(np.unique(other.train.mask(1))) == [255]


def test_an_index_to_ignore_is_no_class(tmp_path: Path) -> None:
    source = masks_inner(tmp_path)
    for path in source.glob("masks/*/*.png"):
        values = np.asarray(Image.open(path)).copy()
        values[1] = 200
        Image.fromarray(values).save(path)
    images = open_dense(source, ignore_index=200)
    assert images.classes == ("0", "1", "2")
    assert (images.train.mask(0)[1] == 255).all()
    assert "Pixels of index 200 are ignored." in images.notes


def test_white_is_foreground_where_masks_are_black_and_white(tmp_path: Path) -> None:
    for i, name in enumerate(save_images(tmp_path / "images", "train")):
        mask = np.zeros(SIZE[::-1], np.uint8)
        mask[i:9, 4:8] = 255
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / name)
    images = open_dense(tmp_path)
    assert images.classes == ("background", "foreground")
    assert (images.train.mask(0) == 1).any()


def test_a_cache_is_used_again(tmp_path: Path) -> None:
    source = coco_beside(tmp_path / "set")
    first, second = (open_dense(source, cache=tmp_path / "cache") for _ in range(2))
    assert first.fingerprint == second.fingerprint
    np.testing.assert_array_equal(first.train.load(2), second.train.load(2))
    chosen = first.train.selected(np.array([2, 0]))
    np.testing.assert_array_equal(chosen.load(0), first.train.load(2))
    assert chosen.name(1) == first.train.name(0)
    assert chosen.objects(0) is first.train.objects(2)


def test_boxes_are_told_from_labels() -> None:
    with pytest.raises(
        DataError, match="scenes has boxes and masks but no labels: train on them with nextify train MODEL"
    ):
        open_images("scenes")


@pytest.mark.parametrize("source", ["digits", "cifar10", "hf:a/b"])
def test_labels_are_told_from_boxes(source: str) -> None:
    with pytest.raises(DataError, match=f"{source} has labels but no boxes or masks: give 'scenes', COCO's JSON"):
        open_dense(source, task="detection")


@pytest.mark.parametrize(("source", "task"), [("scenes", "detection"), ("digits", None), ("hf:a/b", None)])
def test_names_are_recognized(source: str, task: DenseTask | None) -> None:
    assert recognize(source) == task


def test_class_folders_are_not_taken_for_annotations(tmp_path: Path) -> None:
    for name in ("train/cat", "train/labels", "val/cat", "val/labels"):
        save_noise(tmp_path / name / "0.png", 1)
    write(tmp_path / "results.json", {"images": 1})
    assert recognize(tmp_path) is None
