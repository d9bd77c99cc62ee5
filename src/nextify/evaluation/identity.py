"""What decides a measurement's figures, as a fingerprint, so that no measurement replaces the results of another."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nextify.system.files import UnusableFolder, parse_json
from nextify.system.text import printable


def fingerprint(request: object) -> str:
    """Of JSON-like data of everything that decides the figures of a measurement."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:12]


def digest(model: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def check_same(results: Path, fingerprint: str, kind: str) -> None:
    """Raise ``UnusableFolder`` if ``results``, a JSON file that is about to be replaced, is of another measurement.

    ``kind``: such as ``evaluation``, for the message. A damaged file may be replaced.
    """
    try:
        found: Any = parse_json(results.read_text(encoding="utf-8"))
        if found.get("fingerprint") == fingerprint:
            return
    except (FileNotFoundError, ValueError, AttributeError):
        return
    what = printable(f"{found.get('model') or 'a model'} on {found.get('data')}")
    raise UnusableFolder(
        f"{results.parent} holds another {kind} ({what}), whose results would be lost: choose another --out"
    )
