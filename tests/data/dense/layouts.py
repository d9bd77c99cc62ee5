"""Small sets in every layout that is read: four images to train on and two to test on, each 20×16 with a box."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers import save_noise

CLASSES = ("cat", "dog")
BOX = (3, 2, 13, 10)
"""Of every image: x1, y1, x2, y2."""
SIZE = (20, 16)
PARTS = {"train": 4, "val": 2}
Build = Callable[[Path], Path]


def save_images(folder: Path, part: str) -> list[str]:
    """The names of a part's images, saved in a folder."""
    names = [f"{part}{i}.png" for i in range(PARTS[part])]
    for i, name in enumerate(names):
        save_noise(folder / name, 10 * (part == "val") + i, SIZE)
    return names


def coco(names: list[str], **of_all: Any) -> dict[str, Any]:
    """COCO's JSON of images that are cats and dogs by turns, with an outline of the box."""
    x1, y1, x2, y2 = BOX
    return {
        "images": [{"id": i, "file_name": name, "width": SIZE[0], "height": SIZE[1]} for i, name in enumerate(names)],
        "categories": [{"id": 3 * c + 1, "name": name} for c, name in enumerate(CLASSES)],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": 3 * (i % 2) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            }
            for i in range(len(names))
        ],
    } | of_all


def write(path: Path, text: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def coco_parts(root: Path) -> Path:
    """COCO's own: ``annotations/instances_train2017.json`` and ``train2017/``."""
    for part in PARTS:
        names = save_images(root / f"{part}2017", part)
        write(root / "annotations" / f"instances_{part}2017.json", coco(names))
        write(root / "annotations" / f"captions_{part}2017.json", {"images": [], "annotations": []})
    return root


def coco_beside(root: Path) -> Path:
    for part in PARTS:
        write(root / f"{part}.json", coco(save_images(root / "images", part)))
    return root


def coco_one(root: Path) -> Path:
    """One JSON whose file names say the parts."""
    names = [f"{part}/{name}" for part in PARTS for name in save_images(root / "images" / part, part)]
    return write(root / "all.json", coco(names))


def roboflow(root: Path) -> Path:
    for part in PARTS:
        folder = root / ("valid" if part == "val" else part)
        found = coco(save_images(folder, part))
        found["categories"] = [{"id": 0, "name": "pets", "supercategory": "none"}] + [
            row | {"supercategory": "pets"} for row in found["categories"]
        ]
        write(folder / "_annotations.coco.json", found)
    return root


def xml(name: str, label: str, box: tuple[float, ...] = BOX, more: str = "", first: int = 1) -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + first, box[1] + first, box[2], box[3]), strict=True)
    inner = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return (
        f"<annotation><filename>{name}</filename><size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>"
        f"<object><name>{label}</name><bndbox>{inner}</bndbox></object>{more}</annotation>"
    )


def voc_part(images: Path, annotations: Path, part: str) -> list[str]:
    names = save_images(images, part)
    for i, name in enumerate(names):
        write(annotations / f"{name[:-4]}.xml", xml(name, CLASSES[i % 2]))
    return names


def voc(root: Path) -> Path:
    for part in PARTS:
        names = voc_part(root / "JPEGImages", root / "Annotations", part)
        write(root / "ImageSets/Main" / f"{part}.txt", "".join(f"{name[:-4]}\n" for name in names))
        write(root / "ImageSets/Main" / f"cat_{part}.txt", "".join(f"{name[:-4]} -1\n" for name in names))
    return root


def voc_parts(root: Path) -> Path:
    for part in PARTS:
        voc_part(root / part, root / part, part)
    return root


def voc_own_folder(root: Path) -> Path:
    """The folder of the XML files with the lists, beside that of the images."""
    for part in PARTS:
        names = voc_part(root / "images", root / "voc", part)
        write(root / "voc" / f"{part}.txt", "".join(f"{name[:-4]}\n" for name in names))
    return root / "voc"


def line(label: int) -> str:
    (x1, y1, x2, y2), (width, height) = BOX, SIZE
    return f"{label} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} {(x2 - x1) / width} {(y2 - y1) / height}\n"


def yolo(root: Path) -> Path:
    """Roboflow's, whose paths lead out of the folder."""
    for part in PARTS:
        for i, name in enumerate(save_images(root / part / "images", part)):
            write(root / part / "labels" / f"{name[:-4]}.txt", line(i % 2))
    write(root / "data.yaml", "train: ../train/images\nval: ../val/images\nnc: 2\nnames: ['cat', 'dog']\n")
    return root


def yolo_coco8(root: Path) -> Path:
    """Ultralytics' own: ``images/train`` and ``labels/train``, names by number, outlines."""
    (x1, y1, x2, y2), (width, height) = BOX, SIZE
    corners = " ".join(f"{x / width} {y / height}" for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2)))
    for part in PARTS:
        for i, name in enumerate(save_images(root / "images" / part, part)):
            write(root / "labels" / part / f"{name[:-4]}.txt", f"{i % 2} {corners}\n")
    text = "path: ../somewhere/else\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"
    return write(root / "set.yaml", text)


def yolo_bare(root: Path) -> Path:
    """Without a data.yaml."""
    for part in PARTS:
        for i, name in enumerate(save_images(root / "images" / part, part)):
            write(root / "labels" / part / f"{name[:-4]}.txt", line(i % 2))
    write(root / "classes.txt", "cat\ndog\n")
    return root


DETECTION: list[Build] = [
    coco_parts,
    coco_beside,
    coco_one,
    roboflow,
    voc,
    voc_parts,
    voc_own_folder,
    yolo,
    yolo_coco8,
    yolo_bare,
]


def index_mask(seed: int) -> Image.Image:
    """A class in the box, 255 along the first row, background elsewhere; a palette image for even seeds."""
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 1 + seed % 2
    mask[0] = 255
    image = Image.fromarray(mask)
    if not seed % 2:
        image.putpalette([value for i in range(256) for value in (i, 255 - i, i // 2)])
    return image


def masks_inner(root: Path) -> Path:
    """``images/train`` beside ``masks/train``."""
    return _masks(root, "images/{}", "masks/{}")


def masks_outer(root: Path) -> Path:
    """``train/img`` beside ``train/labels``, whose names have an ending more."""
    return _masks(root, "{}/img", "{}/labels", "_mask")


def masks_ade(root: Path) -> Path:
    """ADE20K's names of the parts."""
    return _masks(root, "images/{}", "annotations/{}", parts={"train": "training", "val": "validation"})


def masks_voc(root: Path) -> Path:
    _masks(root, "JPEGImages", "SegmentationClass")
    for part in PARTS:
        write(root / "ImageSets/Segmentation" / f"{part}.txt", "".join(f"{part}{i}\n" for i in range(PARTS[part])))
    return root


def _masks(root: Path, images: str, masks: str, ending: str = "", parts: dict[str, str] | None = None) -> Path:
    for part in PARTS:
        shown = part if parts is None else parts[part]
        for i, name in enumerate(save_images(root / images.format(shown), part)):
            path = root / masks.format(shown) / f"{name[:-4]}{ending}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            index_mask(i).save(path)
    return root


SEGMENTATION: list[Build] = [masks_inner, masks_outer, masks_ade, masks_voc]
