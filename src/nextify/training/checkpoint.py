"""Checkpoint files. A save that is interrupted costs nothing: the new file is written beside the last and then renamed,
the one before is kept, and a checksum exposes a damaged file."""

import hashlib
import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nextify.system.files import write_bytes_atomic

_MAGIC = b"nextify-checkpoint-1\n"


def save_checkpoint(path: Path, state: Mapping[str, object]) -> None:
    """Write ``state`` (tensors and plain data) to ``path``; the previous checkpoint becomes ``path`` + ``.before``.
    Raises ``OSError`` where the file could not be written; both earlier files are then as they were."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getvalue()
    new = path.with_name(f"{path.name}.new")
    write_bytes_atomic(new, _MAGIC + hashlib.sha256(body).digest() + body)
    # Only after a complete write, so that a failure costs neither file. If killed between the two renames, the
    # latest checkpoint is ``.before``.
    if path.exists():
        os.replace(path, before(path))
    os.replace(new, path)


def load_checkpoint(path: Path) -> Any:
    """The state at ``path``, the one before if that file is damaged or absent, or None if neither can be read."""
    for candidate in filter(Path.exists, (path, before(path))):
        data, head = candidate.read_bytes(), len(_MAGIC) + 32
        body = data[head:]
        if data.startswith(_MAGIC) and hashlib.sha256(body).digest() == data[len(_MAGIC) : head]:
            return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    return None


def before(path: Path) -> Path:
    """Where the checkpoint that ``path`` replaced is kept."""
    return path.with_name(f"{path.name}.before")


def remove_checkpoint(path: Path) -> None:
    """Remove both checkpoints and anything a killed process left half-written."""
    for candidate in (path, before(path)):
        candidate.unlink(missing_ok=True)
    remove_leftovers(path)


def remove_leftovers(path: Path) -> None:
    """Remove what a process killed while it wrote has left beside ``path``; only the one that holds the folder may."""
    for candidate in (path.with_name(f"{path.name}.new"), *path.parent.glob(".*.tmp")):
        candidate.unlink(missing_ok=True)
    for folder in path.parent.glob(".bundle.*"):
        shutil.rmtree(folder, ignore_errors=True)
