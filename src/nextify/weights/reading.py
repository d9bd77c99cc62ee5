"""Reading weight files without running anything in them.

Safetensors hold tensors and text only. Pickles (``.pth``, ``.pt``, ``.bin``, ``.tar``) go through torch's restricted
unpickler, with one harmless type added that released checkpoints contain; a pickle that asks for more is refused.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextify.weights.class_names import NAME_KEYS
from nextify.weights.naming import State, WeightsError

HARMLESS_TYPES = (argparse.Namespace,)
"""Beyond what torch itself allows: the options that training scripts save beside the weights."""

_STATE_KEYS = ("model_ema", "state_dict_ema", "model", "state_dict", "model_state_dict")
"""Where trainers put the weights. A file's averaged weights are what its authors evaluate, so they come first."""


class UnsafeFile(WeightsError):
    """A pickle that would run code; it was not run."""


@dataclass(frozen=True)
class WeightsFile:
    """The tensors of a file, and the text beside them."""

    path: Path
    state: State
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Of a safetensors file."""
    notes: tuple[str, ...] = ()
    beside: Mapping[str, Any] = field(default_factory=dict)
    """What a trainer saved beside the tensors."""


def read_weights(path: str | Path) -> WeightsFile:
    """The state dict of one file, on the CPU.

    Raises:
        FileNotFoundError: no such file.
        UnsafeFile: a pickle with anything but tensors and harmless types in it; nothing of it was run.
        WeightsError: the file is damaged, of another kind or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def _read_safetensors(path: Path) -> WeightsFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, ValueError) as error:
        raise WeightsError(
            f"{path} is truncated, or not a safetensors file ({error}); copy or download it again"
        ) from error
    return WeightsFile(path, state, metadata)


def _read_pickle(path: Path) -> WeightsFile:
    try:
        with torch.serialization.safe_globals(list(HARMLESS_TYPES)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # refused below, if it is to be
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|class|Unsupported global: GLOBAL) ([\w.]+)", str(error))
        if "Unsupported global" in str(error) or "Unsupported class" in str(error) or wanted:
            what = wanted[1] if wanted else "code"
            raise UnsafeFile(
                f"{path} is refused: loading it would run {what}, which plain weights never need. Nothing of it was "
                f"run. Ask its author for a .safetensors file"
            ) from error
        raise WeightsError(f"{path} is damaged, or not a file of torch.save: {_first_line(error)}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise WeightsError(
            f"{path} is truncated, or not a file of torch.save ({_first_line(error)}); copy or download it again"
        ) from error
    state, notes, beside = _find_state(content, path)
    return WeightsFile(path, state, notes=notes, beside=beside)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _find_state(content: Any, path: Path) -> tuple[State, tuple[str, ...], Mapping[str, Any]]:
    """The state dict in what a trainer saved, a note of what was left aside, and everything beside it."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict or a dict with one in it")
    notes: tuple[str, ...] = ()
    beside: dict[str, Any] = {}
    for key in _STATE_KEYS:
        if isinstance(content.get(key), Mapping):
            beside = {str(k): v for k, v in content.items() if k != key and k not in _STATE_KEYS}
            others = [str(k) for k in content if k != key and k not in NAME_KEYS]
            if others:
                notes = (f"took {key!r} and left {', '.join(others)} aside",)
            content = content[key]
            break
    if not content or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        keys = ", ".join(str(k) for k in list(content)[:6]) or "nothing"
        raise WeightsError(
            f"{path} holds no state dict: it has {keys}; "
            f"a state dict is needed, alone or under {', '.join(_STATE_KEYS)}"
        )
    return dict(content), notes, beside


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ``WeightsError`` for a damaged or other file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content
