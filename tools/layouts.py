"""Runs several libraries on the same files: ``python tools/layouts.py [--check]`` writes the table in docs/data.md.

Each layout is built in a temporary folder, and each library gets that folder alone. A library that is not installed is
shown as not run.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from generated import ROOT, write_or_check
from PIL import Image

PAGE = "docs/data.md"
START, END = "<!-- Made by tools/layouts.py; do not edit. -->", "<!-- End of the table. -->"
Found = tuple[int, int | None, Iterable[object]]
"""Images to train on, images to test on (None: the library knows no parts here), and the classes in their order."""


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


# -- the layouts: 4 images of each class to train on, 2 to test on ---------------------------------------------------


def folders(*parts: str, classes: tuple[str, ...] = ("a", "b")) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for p, part in enumerate(parts):
            for c, name in enumerate(classes):
                (root / part / name).mkdir(parents=True)
                for i in range(2 if p else 4):
                    (root / part / name / f"{i}.png").write_bytes(picture(1000 * p + 10 * c + i))

    return make


def tars(train: str, test: str, key: str = "{}") -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for p, name in enumerate((train, test)):
            with tarfile.open(root / name, "w") as archive:
                for i in range(4 if p else 8):
                    sample = key.format(i)
                    for ending, data in (("png", picture(1000 * p + i)), ("cls", b"%d" % (i % 2))):
                        member = tarfile.TarInfo(f"{sample}.{ending}")
                        member.size = len(data)
                        archive.addfile(member, io.BytesIO(data))

    return make


def parquets(train: str, test: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        for p, name in enumerate((train, test)):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            count = 4 if p else 8
            rows = {
                "image": [{"bytes": picture(1000 * p + i), "path": None} for i in range(count)],
                "label": [i % 2 for i in range(count)],
            }
            pyarrow.parquet.write_table(pyarrow.table(rows), root / name)

    return make


LAYOUTS = {
    "`train/` `val/` of class folders": folders("train", "val"),
    "`Training/` `Testing/`": folders("Training", "Testing"),
    "`seg_train/` `seg_test/`": folders("seg_train", "seg_test"),
    "`train/` `dev/`": folders("train", "dev"),
    "`train/` `val/` `test/`": folders("train", "val", "test"),
    "class folders `a/` `b/`": folders("", classes=("a", "b")),
    "class folders `bus/` `car/` `train/`": folders("", classes=("bus", "car", "train")),
    "class folders `1/` `2/` `10/`": folders("", classes=("1", "2", "10")),
    "class folders `Bee/` `ant/`": folders("", classes=("Bee", "ant")),
    "`NAME-train-0.tar` `NAME-validation-0.tar`": tars("NAME-train-0.tar", "NAME-validation-0.tar"),
    "`train-0.tar` `test-0.tar`, keys `IMG.0`, `IMG.1`": tars("train-0.tar", "test-0.tar", "IMG.{}"),
    "`train-0.parquet` `test-0.parquet`": parquets("train-0.parquet", "test-0.parquet"),
    "`data/NAME-training.parquet` `data/NAME-dev.parquet`": parquets(
        "data/NAME-training.parquet", "data/NAME-dev.parquet"
    ),
}


# -- the libraries ----------------------------------------------------------------------------------------------------


def ours(root: Path) -> Found:
    from nextify import open_images

    images = open_images(str(root))
    return len(images.train), len(images.test), images.classes


def torchvision(root: Path) -> Found:
    from torchvision.datasets import ImageFolder

    images = ImageFolder(str(root))
    return len(images), None, images.classes


def hugging_face(root: Path) -> Found:
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        found = datasets.load_dataset(str(root), cache_dir=cache)
        train = found["train"]
        column = next((name for name in ("label", "cls") if name in train.features), None)
        feature = train.features[column] if column else None
        if isinstance(feature, datasets.ClassLabel):
            names = feature.names
        else:
            names = sorted(set(train[column])) if column else []
        others = [len(rows) for name, rows in found.items() if name != "train"]
        return len(train), sum(others) if others else None, names


def webdataset(root: Path) -> Found:
    import webdataset as wds

    shards = sorted(map(str, root.glob("*.tar")))
    samples = list(wds.WebDataset(shards, shardshuffle=False).to_tuple("png", "cls"))
    return len(samples), None, sorted({int(label) for _, label in samples})


def timm(root: Path) -> Found:
    from timm.data import create_dataset

    train, test = (create_dataset("", str(root), split=split) for split in ("train", "validation"))
    paths = [{os.path.realpath(path) for path, _ in part.reader.samples} for part in (train, test)]
    names, tested = ([name or "a class without a name" for name in part.reader.class_to_idx] for part in (train, test))
    differ = [] if names == tested else [f"tested on {', '.join(tested)}"]
    return len(paths[0]), None if paths[0] == paths[1] else len(paths[1]), [*names, *differ]


LIBRARIES: dict[str, tuple[str, Callable[[Path], Found]]] = {
    "nextify": ("`open_images(root)`", ours),
    "torchvision": ("`ImageFolder(root)`", torchvision),
    "datasets": ("`load_dataset(root)`", hugging_face),
    "webdataset": ("`WebDataset(shards)`", webdataset),
    "timm": ("`create_dataset`, splits train and validation", timm),
}


def cell(library: str, root: Path) -> str:
    if library == "webdataset" and not list(root.glob("*.tar")):
        return "–"
    try:
        train, test, classes = LIBRARIES[library][1](root)
    except ImportError:
        return "not run"
    except Exception as error:  # every library refuses in its own way
        reason = (str(error).splitlines() or [type(error).__name__])[0].replace(str(root), "…").replace("|", "/")
        return f"refused: {reason if len(reason) <= 60 else reason[:59] + '…'}"
    there = sum(file.suffix == ".png" for file in root.rglob("*"))
    every = f"{train} of {there}" if train < there else f"all {train}"
    parts = every if test is None else f"{train} + {test}"
    return f"{parts}; {', '.join(map(str, classes)) or 'no labels'}"


def table() -> str:
    used = []
    for library, (call, _) in LIBRARIES.items():
        try:
            used.append(f"{call} of {library}{'' if library == 'nextify' else f' {version(library)}'}")
        except PackageNotFoundError:
            used.append(f"{call} of {library} (not installed)")
    lines = [
        "Each library is given only the folder:",
        f"{'; '.join(used)}.",
        "A cell gives the training images + the test images (`all` if the library finds no splits there, `4 of 12` if",
        "it takes only some) and the classes in their order. Each class has 4 training images and 2 in each other",
        "split; of the tar and Parquet files, the first holds 8 images and the second 4. For webdataset and datasets,",
        "a key ends at the first dot, so `IMG.0` and `IMG.1` are one sample.",
        "",
        f"| layout | {' | '.join(LIBRARIES)} |",
        "|---" * (len(LIBRARIES) + 1) + "|",
    ]
    for name, make in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "set"
            root.mkdir()
            make(root)
            lines.append(f"| {name} | {' | '.join(cell(library, root) for library in LIBRARIES)} |")
    return "\n".join(lines) + "\n"


def files() -> dict[str, str]:
    before, start, rest = (ROOT / PAGE).read_text("utf-8").partition(START)
    _, end, after = rest.partition(END)
    return {PAGE: f"{before}{start}\n{table()}{end}{after}"}


if __name__ == "__main__":
    sys.exit(write_or_check(files(), "layouts.py"))
