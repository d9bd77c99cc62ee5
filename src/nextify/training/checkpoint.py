"""Checkpoints that are whole or not there. A new one is written beside the last and then takes its name; the one before
is kept, and a checksum tells a damaged file from a good one."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from nextify.system.files import write_bytes_atomic

_MAGIC = b"nextify-checkpoint-1\n"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain data) to ``path``; what stood there becomes ``path`` + ``.before``.

    Raises:
        OSError: it could not be written; both files are as they were.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getvalue()
    new = path.with_name(f"{path.name}.new")
    write_bytes_atomic(new, _MAGIC + hashlib.sha256(body).digest() + body)
    # Only now, so that a write that fails costs neither of the two. Killed between these, ``.before`` is the last.
    if path.exists():
        os.replace(path, before(path))
    os.replace(new, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state at ``path``, or the one before if that file is damaged, or None where there is neither."""
    for candidate in (path, before(path)):
        if not candidate.exists():
            continue
        data = candidate.read_bytes()
        head = len(_MAGIC) + 32
        body = data[head:]
        if data.startswith(_MAGIC) and hashlib.sha256(body).digest() == data[len(_MAGIC) : head]:
            state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
            return state
    return None


def before(path: Path) -> Path:
    """The checkpoint that ``path`` replaced."""
    return path.with_name(f"{path.name}.before")


def remove_checkpoint(path: Path) -> None:
    for candidate in (path, before(path)):
        candidate.unlink(missing_ok=True)
    remove_leftovers(path)


def remove_leftovers(path: Path) -> None:
    """Remove what a process that was killed in the middle of a save has left. Only the folder's owner may."""
    for candidate in (path.with_name(f"{path.name}.new"), *path.parent.glob(f".{path.name}.*.tmp")):
        candidate.unlink(missing_ok=True)
