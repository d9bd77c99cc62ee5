"""What a source of images is called, and whether it is there; reads no image and needs no NumPy."""

import re
from pathlib import Path
from typing import Literal

from nextify.data.errors import DataError
from nextify.system.text import printable

PREFIX = "hf:"
"""Of a data set on the Hugging Face Hub."""
EMBEDDED = ("digits", "scenes")
"""Sets that come with Nextify."""
DENSE_KINDS = "'scenes', COCO's JSON, VOC's XML files, a YOLO data.yaml, or images/ beside masks/"
KINDS = (
    "'digits', 'cifar10', hf:OWNER/NAME, a folder of images, a .csv, .jsonl or .parquet file, or .tar shards; "
    f"with boxes or masks {DENSE_KINDS} (docs/data.md)"
)

LabelTask = Literal["classification", "multilabel"]
"""What is learned from labels: one class per image, or any number of labels."""
TASKS = ("classification", "multilabel", "detection", "segmentation")
NO_REGRESSION = (
    "Nextify does not support regression, only classes, labels, boxes and masks: turn ranges of numbers into classes, "
    "or use another library"
)


def check_task(task: str | None) -> None:
    """Raise ``DataError`` for what is none of ``TASKS``."""
    if task == "regression":
        raise DataError(NO_REGRESSION)
    if task is not None and task not in TASKS:
        raise DataError(f"no task {task!r}; there are {', '.join(TASKS)}")


def is_pattern(source: str) -> bool:
    """Whether a source may name several files."""
    return any(mark in source for mark in "{*?")


def check_source(source: str) -> None:
    """Raise ``DataError`` where a source is empty, or a path that leads nowhere."""
    if not source.strip():
        raise DataError(f"the data source is empty: give {KINDS}")
    path = Path(source).expanduser()
    if source in (*EMBEDDED, "cifar10") or source.startswith(PREFIX) or path.exists():
        return
    if not (is_pattern(source) and path.suffix.lower() in (".tar", ".parquet")):
        raise DataError(f"no such folder or file: {printable(source)}; give {KINDS}")


def source_name(source: str, tested: str | None = None) -> str:
    """What to call a source: the folder's name, the file's without its ending, the data set's on the Hub; and the part
    ``tested`` on, where one was asked for.
    """
    if tested is not None:
        return f"{source_name(source)} ({tested})"
    if source in (*EMBEDDED, "cifar10"):
        return source
    if source.startswith(PREFIX):
        return source.rstrip("/").rpartition("/")[2].removeprefix(PREFIX)
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve().name
    plain = re.split(r"[{*?]", path.name)[0] if is_pattern(path.name) else path.stem
    return plain.rstrip("-_. ") or path.parent.resolve().name
