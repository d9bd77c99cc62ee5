"""Reading weight files without running anything in them.

Safetensors hold tensors and text only. Pickles (``.pth``, ``.pt``, ``.bin``, ``.tar``) go through torch's restricted
unpickler, with one harmless type added that released checkpoints contain; a pickle that asks for more is refused.
"""

import argparse
import codecs
import contextlib
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextify.system import files
from nextify.weights.class_names import NAME_KEYS
from nextify.weights.naming import State, WeightsError

_numpy_multiarray = import_module("numpy._core.multiarray")  # private, but what pickles of NumPy name
HARMLESS_TYPES: tuple[Any, ...] = (
    argparse.Namespace,
    codecs.encode,
    np.dtype,
    *(kind for kind in vars(np.dtypes).values() if isinstance(kind, type)),
    *(
        (getattr(_numpy_multiarray, name), f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
    np.ndarray,
)
"""Beyond what torch itself allows: the options and figures that training scripts save beside the weights."""

_AVERAGED_KEYS = ("model_ema", "state_dict_ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "ema")
_STATE_KEYS = (*_AVERAGED_KEYS, "model", "state_dict", "model_state_dict")
"""Where trainers put the weights. A file's averaged weights are what its authors evaluate, so they come first."""

_RUNTIMES = (".onnx", ".xml", ".pt2", ".pte")
"""Extensions of the model files of ``nextify export``."""


class UnsafeFile(WeightsError):
    """A pickle that would run code; it was not run."""


class ExportError(WeightsError):
    """A folder of ``nextify export`` that is damaged, or cannot be used in this way."""


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
    """The state dict of one file, on the CPU. Raises ``FileNotFoundError``; ``UnsafeFile`` for a pickle with anything
    but tensors and harmless types in it, of which nothing was run; and ``WeightsError`` for a file that is damaged, of
    another kind, or without a state dict."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    safetensors = path.suffix == ".safetensors"
    _refuse_other_kinds(path, "a safetensors file" if safetensors else "a file of torch.save")
    return _read_safetensors(path) if safetensors else _read_pickle(path)


def _read_safetensors(path: Path) -> WeightsFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, ValueError) as error:
        raise _damaged(path, "a safetensors file", error) from error
    return WeightsFile(path, state, metadata)


def _read_pickle(path: Path) -> WeightsFile:
    try:
        with torch.serialization.safe_globals(list(HARMLESS_TYPES)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # refused below, if it is to be
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        if wanted or "Unsupported global" in str(error) or "Unsupported class" in str(error):
            what = wanted[1] if wanted else "code"
            raise UnsafeFile(
                f"{path} is refused: it holds {what}, which is not a tensor and could run code when loaded. None of "
                f"it was run. Ask its author for a .safetensors file, or for the state dict alone"
            ) from error
        raise _damaged(path, "a file of torch.save") from error
    except (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise _damaged(path, "a file of torch.save", error) from error
    state, notes, beside = _find_state(content, path)
    return WeightsFile(path, state, notes=notes, beside=beside)


def _refuse_other_kinds(path: Path, kind: str) -> None:
    """Refuse what is downloaded or given in place of weights; binary formats hold a NUL or no UTF-8 at their start."""
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        raise WeightsError(f"{path} is empty, not {kind}; copy or download it again")
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a Git LFS pointer, not {kind}; fetch the file itself with git lfs pull")
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise WeightsError(f"{path} is a web page (HTML), not {kind}; download the file itself, not its page")
    if path.suffix in _RUNTIMES:
        raise WeightsError(
            f"{path} is a model for another runtime, not {kind}; give the whole folder that nextify export wrote, or "
            f"the bundle"
        )
    with contextlib.suppress(UnicodeDecodeError):
        if "\0" not in codecs.getincrementaldecoder("utf-8")().decode(start):
            raise WeightsError(f"{path} is a text file, not {kind}; give the file with the weights")


def _damaged(path: Path, kind: str, error: Exception | None = None) -> WeightsError:
    reason = "" if error is None else (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    detail = f" ({reason})" if reason and "weights_only" not in reason else ""
    return WeightsError(f"{path} is truncated, damaged, or not {kind}{detail}; copy or download it again")


def _find_state(content: object, path: Path) -> tuple[State, tuple[str, ...], Mapping[str, object]]:
    """The state dict in what a trainer saved, a note of what was left aside, and everything beside it."""
    notes: tuple[str, ...] = ()
    beside: dict[str, Any] = {}
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict or a dict with one in it")
    for key in _STATE_KEYS:
        if (inner := _tensors(content.get(key))) is not None:
            beside = {str(k): v for k, v in content.items() if k != key and k not in _STATE_KEYS}
            others = [str(k) for k in content if k != key and k not in NAME_KEYS]
            averaged = ", the averaged weights," if key in _AVERAGED_KEYS else ""
            if others or averaged:
                left = f" and ignored {', '.join(others)}" if others else ""
                notes = (f"took {key!r}{averaged}{left}",)
            return inner, notes, beside
    state = _tensors(content)
    if state is None:
        keys = ", ".join(str(k) for k in list(content)[:6]) or "nothing"
        others = [f"{k} ({type(v).__name__})" for k, v in content.items() if not isinstance(v, Tensor)]
        mixed = f"; these entries are not tensors: {', '.join(others[:6])}" if len(others) < len(content) else ""
        raise WeightsError(
            f"{path} holds no state dict: it has {keys}{mixed}; "
            f"a state dict is needed, alone or under {', '.join(_STATE_KEYS)}"
        )
    return state, notes, beside


def _tensors(content: object) -> State | None:
    """A state dict: alone, or under the key of a wrapper that keeps its decay and counts beside it."""
    if not isinstance(content, Mapping) or not content:
        return None
    for key in ("module", "state_dict", "model", "shadow"):
        if isinstance(content.get(key), Mapping):
            return _tensors(content[key])
    state = {k: v for k, v in content.items() if k != "n_averaged"}
    return state if state and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()) else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ``WeightsError`` for a damaged or other file."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


def parse_json(text: str) -> Any:
    """JSON without NaN and infinities, which the standard does not have. Raises ``ValueError``."""

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not a number")

    return files.parse_json(text, refuse)
