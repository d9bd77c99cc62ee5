"""One way to run a classifier, whatever it was saved as: ``open_runner`` opens a bundle or an exported folder.

An exported folder holds a model file and ``nextify.json``, which has the fields of a bundle's JSON and, under
``export``, those of ``Exported`` and, as ``files``, the SHA-256 of every file. Runtimes that take any memory order and
compute something else (AOTInductor, ExecuTorch) make it necessary to check each input before it reaches them.
"""

import contextlib
import hashlib
import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, assert_never, get_args

import numpy as np
import torch

from nextify.evaluation.predict import Prediction, Predictor, Source
from nextify.evaluation.runner import Floats, Network, Runner
from nextify.system.device import torch_defaults, usable_device
from nextify.system.environment import version
from nextify.system.native import Mode
from nextify.system.text import printable
from nextify.weights.bundle import JSON_FILE, from_json, sha256
from nextify.weights.class_names import ClassOrder, given_names
from nextify.weights.reading import ExportError, read_json
from nextify.weights.sources import check_place

Format = Literal["onnx", "openvino", "torch", "aotinductor", "executorch"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
Run = Callable[[np.ndarray[Any, Any]], Floats]

FILES: dict[Format, str] = {
    "onnx": "model.onnx",
    "openvino": "model.xml",
    "torch": "model.pt2",
    "aotinductor": "model.pt2",
    "executorch": "model.pte",
}
RUNTIMES: dict[Format, str] = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "torch": "torch",
    "aotinductor": "torch",
    "executorch": "executorch",
}

_QUIET = threading.RLock()
# OpenVINO and NNCF tell Google Analytics of imports and conversions, each time from a fork of the process that may have
# threads; without the package that does it they are silent.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


class MissingExtra(ImportError):
    """A format whose packages are not installed; the message says what to install."""


def needs(package: str, extra: str) -> None:
    """Raises ``MissingExtra`` where a package of an extra is not installed."""
    if version(package) is None:
        raise MissingExtra(f"{package} is not installed: pip install 'nextify[{extra}]'")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters and runtimes print, log and warn about from the user: what they write is verified, and an
    error says where they fail. Threads take turns, since each puts back what it found."""
    with _QUIET:
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.disable(before)


@dataclass(frozen=True)
class Exported:
    """What a model file is, as the JSON beside it has it under ``export``."""

    format: Format
    precision: Precision
    size: tuple[int, int] | None
    """Height and width of its input; None takes any that the network can."""
    with_preprocessing: bool = False
    """Takes uint8 ``(N, H, W, 3)`` of any size in place of normalized ``(N, C, H, W)``."""
    bf16: bool = False
    """Whether OpenVINO computes in bfloat16 what is not int8."""

    @property
    def file(self) -> str:
        return FILES[self.format]

    @property
    def name(self) -> str:
        rest = " and bf16" if self.bf16 and self.precision == "int8" else ""
        runtime = RUNTIMES[self.format]
        return f"{self.format} {self.precision}{rest}, {runtime} {version(runtime)}"


def is_export(path: str | Path) -> bool:
    """Whether a folder was written by ``nextify export``."""
    file = Path(path).expanduser() / JSON_FILE
    return file.is_file() and "export" in read_json(file)


def open_runner(
    path: str | Path,
    *,
    device: str = "cpu",
    threads: int | None = None,
    kernels: Mode = "auto",
    class_order: ClassOrder | None = None,
) -> Runner:
    """Open a bundle, other weights that ``nextify.weights.load`` reads, or a folder that ``nextify export`` wrote.

    Args:
        device: of a bundle, where ``auto`` takes a GPU if there is one; exported files run on the CPU.
        threads: CPU threads. None leaves the choice to the runtime.
        kernels: ours, for bundles.
        class_order: for weights without class names.

    Raises:
        WeightsError, FileNotFoundError: it cannot be read, or takes images instead of normalized inputs.
        MissingExtra: its runtime is not installed.
    """
    check_place(path)
    device = device_for(path, device)
    if not is_export(path):
        return Network(path, device=usable_device(device), threads=threads, kernels=kernels, class_order=class_order)
    check_device(device)
    return ExportedRunner(Path(path).expanduser(), threads, class_order)


def check_device(device: str) -> None:
    """Raise ``ExportError`` where an exported file is to run on something else than the CPU."""
    if device != "cpu":
        raise ExportError(f"exported files run on the CPU: leave --device {device} out, or give the bundle")


def device_for(path: str | Path, device: str) -> str:
    """``device``, or the CPU where it is ``auto`` and an exported file is to run."""
    return "cpu" if device == "auto" and is_export(path) else device


@torch_defaults()
def predict(
    weights: str | Path,
    sources: Source | Iterable[Source],
    *,
    top: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    kernels: Mode = "auto",
    class_order: ClassOrder | None = None,
    channels: Sequence[int] | int | None = None,
) -> list[Prediction]:
    """Classify one source or several: files, folders (searched recursively), patterns, Pillow images and uint8 arrays.

    Args:
        weights: a bundle, other weights, or a folder that ``nextify export`` wrote.
        top: the number of classes; None is 5, or of several labels per image those at or above their thresholds.

    Raises what ``open_runner``, ``Predictor`` and its call raise.
    """
    runner = open_runner(weights, device=device, threads=threads, kernels=kernels, class_order=class_order)
    return list(Predictor(runner, channels=channels)(sources, top))


class ExportedRunner:
    """A folder that ``nextify export`` wrote, in its own runtime."""

    def __init__(self, folder: Path, threads: int | None = None, class_order: ClassOrder | None = None) -> None:
        content, self.exported = read_export(folder)
        self.about = from_json(content, folder / JSON_FILE)
        if (names := given_names(class_order)) is not None:
            self.about = replace(self.about, classes=names)
        self.preprocessing = self.about.preprocessing
        if self.exported.with_preprocessing:
            raise ExportError(
                f"{folder} prepares images itself and takes pixels, in a program without nextify: give the bundle, or "
                f"export it without --with-preprocessing"
            )
        self.name, self._files = self.exported.name, files_checksum(content)
        self._run = start(folder / self.exported.file, self.exported, threads)

    def __call__(self, inputs: Floats) -> Floats:
        size = self.exported.size
        fits = inputs.ndim == 4 and inputs.shape[1] == self.about.in_channels
        if not fits or (size is not None and inputs.shape[2:] != size):
            wanted = f"{self.about.in_channels}, {'H, W' if size is None else f'{size[0]}, {size[1]}'}"
            raise ValueError(f"inputs must be (N, {wanted}), got {inputs.shape}")
        # Reshaped, because NumPy calls any stride of an axis of length one contiguous, and AOTInductor goes by it.
        return self._run(np.require(inputs, np.float32, ["C", "W"]).reshape(-1).reshape(inputs.shape))

    def checksum(self) -> str:
        return self._files


def read_export(folder: Path) -> tuple[dict[str, Any], Exported]:
    """The JSON of an exported folder, whose files are those that were written. Raises ``ExportError``."""
    content = read_json(folder / JSON_FILE)
    exported = _exported(content["export"], folder / JSON_FILE)
    _check_files(folder, content["export"]["files"])
    return content, exported


def files_checksum(content: dict[str, Any]) -> str:
    """Of all the files that an exported folder's JSON names."""
    return hashlib.sha256(json.dumps(content["export"]["files"], sort_keys=True).encode()).hexdigest()


def _exported(values: Any, path: Path) -> Exported:
    """Raises ``ExportError`` for what no ``nextify export`` of this version wrote."""
    try:
        known = {field.name: values[field.name] for field in fields(Exported)}
        if FILES[known["format"]] not in dict(values["files"]):
            raise ValueError("no checksum of its file")
        if known["format"] not in get_args(Format) or known["precision"] not in get_args(Precision):
            raise ValueError(f"{known['format']} {known['precision']}")
        return Exported(**known | {"size": known["size"] and tuple(known["size"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(
            f"{path} describes no export that this version of nextify knows ({error}): export again"
        ) from None


def _check_files(folder: Path, files: dict[str, str]) -> None:
    """Raises ``ExportError`` for a file that is missing or is not the one whose checksum was written."""
    for name, expected in files.items():
        path = folder / name
        if not path.is_file() or sha256(path) != expected:
            what = "was changed or is damaged" if path.is_file() else "is missing"
            raise ExportError(f"{path} {what}: copy the whole folder again, or export again")


def start(path: Path, exported: Exported, threads: int | None = None) -> Run:
    """Load a model file: a function of one contiguous array of what it takes, to logits ``(N, K)``. Raises
    ``MissingExtra`` where its runtime is not installed, and ``ExportError`` where it cannot load the file."""
    try:
        with quiet():
            return _load(path, exported, threads)
    except MissingExtra:
        raise
    except Exception as error:  # of a runtime's own classes, some of which derive from nothing else
        said = printable((str(error).strip() or type(error).__name__).splitlines()[-1])
        raise ExportError(
            f"{exported.name} cannot load {path} ({said}): export again with the versions that are installed here"
        ) from error


def _load(path: Path, exported: Exported, threads: int | None) -> Run:
    match exported.format:
        case "onnx":
            return _onnx(path, threads)
        case "openvino":
            return _openvino(path, exported, threads)
        case "torch":
            return _torch(torch.export.load(path).module(), threads)
        case "aotinductor":
            from torch._inductor import aoti_load_package

            return _torch(aoti_load_package(str(path)), threads)
        case "executorch":
            return _executorch(path)
        case _:
            assert_never(exported.format)


def _onnx(path: Path, threads: int | None) -> Run:
    needs("onnxruntime", "onnx")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    # Its threads would go on spinning after a run and slow down whatever else the process does.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: np.asarray(session.run(None, {name: inputs})[0], np.float32)


def _openvino(path: Path, exported: Exported, threads: int | None) -> Run:
    needs("openvino", "openvino")
    import openvino

    # Left to itself, OpenVINO computes in bfloat16 on processors that have it.
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if exported.bf16 else "f32"}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(path, "CPU", config)
    request = compiled.create_infer_request()
    return lambda inputs: np.array(request.infer([inputs], share_inputs=True)[0], np.float32)


def _torch(model: Callable[[torch.Tensor], torch.Tensor], threads: int | None) -> Run:
    if threads is not None:
        torch.set_num_threads(threads)

    def run(inputs: np.ndarray[Any, Any]) -> Floats:
        with torch.inference_mode():
            found: Floats = model(torch.from_numpy(inputs)).float().numpy()
        return found

    return run


def _executorch(path: Path) -> Run:
    """Its file takes one image at a time, since its memory is planned for one shape."""
    needs("executorch", "executorch")
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")

    def run(inputs: np.ndarray[Any, Any]) -> Floats:
        images = torch.from_numpy(inputs)
        return np.concatenate([method.execute([images[i : i + 1]])[0].numpy().copy() for i in range(len(images))])

    return run
