"""Checkpoints that are whole or not there: written to a temporary file, flushed, then renamed over the old one; the one
before is kept, and a checksum tells a damaged file from a good one."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from nextify.files import write_bytes_atomic

_MAGIC = b"nextify-checkpoint-1\n"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain data) to ``path``; what stood there becomes ``path`` + ``.before``."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getvalue()
    if path.exists():
        before = path.with_suffix(path.suffix + ".before")
        link = path.with_suffix(path.suffix + ".link")
        link.unlink(missing_ok=True)
        os.link(path, link)  # the good file keeps its name until the new one replaces it
        os.replace(link, before)
    write_bytes_atomic(path, _MAGIC + hashlib.sha256(body).digest() + body)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state at ``path``, or the one before if that file is damaged, or None where there is neither."""
    for candidate in (path, path.with_suffix(path.suffix + ".before")):
        if not candidate.exists():
            continue
        data = candidate.read_bytes()
        head = len(_MAGIC) + 32
        body = data[head:]
        if data.startswith(_MAGIC) and hashlib.sha256(body).digest() == data[len(_MAGIC) : head]:
            state: dict[str, Any] = torch.load(io.BytesIO(body), weights_only=True)
            return state
    return None


def remove_checkpoint(path: Path) -> None:
    for candidate in (path, path.with_suffix(path.suffix + ".before")):
        candidate.unlink(missing_ok=True)
