"""The one way to train: a trial runs in a folder, resumes there, and leaves its network and records.

``train`` runs one trial, a study many through an engine, ``compare`` many through a study. The folder holds::

    log.jsonl      one line per epoch
    checkpoint.pt  while the training runs
    bundle/        the network; for timm's networks, which have no Design, their weights and timm.json
    result.json    accuracy, speed, runtime, kernels, hardware and versions; written last, so it marks a finished trial
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nextify import kernels
from nextify.data import Images
from nextify.paper.design import Design
from nextify.system import processes
from nextify.system.device import gpu_name, peak_memory_mib
from nextify.system.environment import Environment, describe
from nextify.system.files import UnusableFolder, parse_json, write_bytes_atomic, write_json_atomic
from nextify.training.loop import OnProgress, ShouldStop, TrainingDiverged, TrainingStopped, run_steps, speed
from nextify.training.probe import is_out_of_memory
from nextify.training.records import Entry, Records, Warn, to_stderr
from nextify.training.tracking import open_trackers
from nextify.training.trainer import Start, Trainer, metric_specs
from nextify.training.trial import VERSION, Runtime, Trial
from nextify.weights import About, Metric, Preprocessing, WeightsError, is_bundle, save_bundle
from nextify.weights.bundle import JSON_FILE, WEIGHTS_FILE, belongs, from_json

FOREIGN_JSON = "timm.json"
"""Beside the weights of a network that has no Design: what ``nextify.json`` is in a bundle."""


class TrainingOutOfMemory(RuntimeError):
    """The memory ran out in the middle of a training; the message says how to go on."""


@dataclass(frozen=True)
class Result:
    """The outcome of a training."""

    fingerprint: str
    bundle: Path
    """The network: a bundle that can be evaluated, predicted with and exported; of a network of timm's, its weights."""
    metrics: Mapping[str, float]
    """Of the final (averaged, where the recipe averages) weights on the test images, by the keys of the task."""
    test_images: int
    final_train_loss: float
    """Mean over the last epoch."""
    seconds: float
    """Time spent training and evaluating, over all its runs."""
    images_per_second: float
    """Batch size over the median time of a step: forward, backward, update and the preparation of the batch."""
    peak_memory_mib: int | None
    """Peak memory of the training's process."""
    curve: list[Entry]
    """One entry per epoch: epoch, train_loss, learning_rate, and the main test metric (None where not measured)."""
    trained: bool = True
    """False where an earlier run had finished it."""

    @property
    def top1(self) -> float:
        """Of a classification, percent."""
        return self.metrics["top1"]

    @property
    def top5(self) -> float:
        """Of a classification, percent."""
        return self.metrics["top5"]

    def to_dict(self) -> dict[str, object]:
        """The figures as plain data, as ``result.json`` has them."""
        others = {name: value for name, value in asdict(self).items() if name not in ("bundle", "metrics", "trained")}
        return {"fingerprint": self.fingerprint, **self.metrics, **others}


def finished(folder: Path, trial: Trial) -> Result | None:
    """The result of a training that is done, or None where its result or its network is missing, cut or another's."""
    content = _read_object(folder / "result.json")
    figures = {f: content.get(f) for f in Result.__dataclass_fields__ if f not in ("bundle", "metrics", "trained")}
    metrics = {spec.key: content.get(spec.key) for spec in metric_specs(trial)}
    if (
        figures["fingerprint"] != trial.fingerprint
        or not _plausible(figures, metrics, trial)
        or not _whole_network(folder / "bundle")
    ):
        return None
    return Result(bundle=folder / "bundle", metrics=cast("Any", metrics), trained=False, **cast("Any", figures))


def _plausible(figures: Mapping[str, object], metrics: Mapping[str, object], trial: Trial) -> bool:
    """Whether the figures of a result are of the right types and within their ranges."""
    percent = {spec.key for spec in metric_specs(trial) if spec.unit == "%"}
    main, curve, memory = metric_specs(trial)[0].key, figures["curve"], figures["peak_memory_mib"]
    in_curve = {"train_loss", "learning_rate", f"test_{main}"}

    def metric(key: str, value: object) -> bool:
        return _number(value, 0, 100) if key in percent else _number(value)

    def entry(value: object) -> bool:
        return (
            isinstance(value, dict)
            and in_curve <= value.keys()
            and _whole_number(value.get("epoch"), 1)
            and all(value[key] is None or _number(value[key]) for key in in_curve)
            and (value[f"test_{main}"] is None or metric(main, value[f"test_{main}"]))
        )

    return (
        all(metric(*item) for item in metrics.items())
        and _whole_number(figures["test_images"], 1)
        and _number(figures["final_train_loss"])
        and all(_number(figures[f], 0) for f in ("seconds", "images_per_second"))
        and (memory is None or _whole_number(memory, 0))
        and isinstance(curve, list)
        and all(map(entry, curve))
    )


def _number(value: object, least: float = -sys.float_info.max, most: float = sys.float_info.max) -> bool:
    """Whether it is a finite number of this range, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _whole_number(value: object, least: int) -> bool:
    return isinstance(value, int) and _number(value, least)


def of_earlier_versions(folders: Iterable[Path]) -> list[Path]:
    """Those of ``folders`` that hold a training of another version of nextify, whose results are not reused."""
    contents = {f: _read_object(f / "result.json") or _read_object(f / "recipe.json") for f in folders}
    return [folder for folder, content in contents.items() if content and content.get("version") != VERSION]


def _read_object(path: Path) -> dict[str, object]:
    """The JSON object in a file; empty where there is none."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _whole_network(bundle: Path) -> bool:
    """Whether a bundle, or the weights of a network of timm's, is as it was written."""
    try:
        content = _read_object(bundle / (JSON_FILE if is_bundle(bundle) else FOREIGN_JSON))
        if is_bundle(bundle):
            from_json(content, bundle)
        with safe_open(bundle / WEIGHTS_FILE, framework="pt"):  # raises where bytes are missing
            return bool(content) and belongs(bundle / WEIGHTS_FILE, content)
    except (OSError, WeightsError, SafetensorError):
        return False


def run_trial(
    trial: Trial,
    images: Images,
    runtime: Runtime,
    folder: Path,
    on_progress: OnProgress | None = None,
    *,
    name: str = "",
    start: Start | None = None,
    start_source: str = "",
    licence: str = "yours",
    command: str = "",
    should_stop: ShouldStop | None = None,
    track: Sequence[str] = (),
    warn: Warn = to_stderr,
) -> Result:
    """Train to the end and leave the network in ``folder``; resume from a checkpoint there, repeat nothing finished.

    Args:
        on_progress: called after steps, a few times a second at most.
        name: of the design, for the bundle.
        start: weights to begin with, in our names; ``trial.start`` must be their digest.
        start_source: where they come from.
        licence: of those weights, and so of the result.
        command: the command line that asked for the training.
        should_stop: asked after a step; True, in any process, saves a checkpoint and raises ``TrainingStopped``.
        track: names of ``tracking.TRACKERS`` that are told of each epoch.
        warn: called with a line about anything that could not be written or read; the training goes on.

    Raises:
        TrainingStopped: ``should_stop`` returned True; the same call resumes.
        TrainingDiverged: the loss became NaN or infinite; the last good checkpoint stays.
        TrainingOutOfMemory: in the middle of the training; likewise.
        UnusableFolder: another process trains in ``folder``.
        OSError: the network or its records could not be written.
    """
    torch.set_num_threads(runtime.threads)
    with contextlib.ExitStack() as opened:

        def begin() -> Result | None:
            done = finished(folder, trial)
            if done is None:
                folder.mkdir(parents=True, exist_ok=True)
                opened.enter_context(taken(folder))
                _clear_damaged(folder, warn)
            return done

        done = processes.from_first(begin)
        if done is not None:
            return done
        records = Records(folder if processes.is_first() else None, warn)
        opened.callback(records.close)
        try:
            trainer = Trainer(trial, images, runtime, start)
            processes.from_first(lambda: check_space(folder, trainer))
            state = processes.from_first(lambda: records.load(trial.fingerprint, runtime.threads))
            if state is not None:
                trainer.load_state(state)
            records.whole_log(trainer.curve)
            processes.from_first(
                lambda: records.track(open_trackers(track, folder, trial.fingerprint, trial.to_dict(), trainer.step))
            )
            final = run_steps(trainer, records, on_progress, should_stop)
        except (TrainingStopped, TrainingDiverged):
            raise
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingOutOfMemory(_less_memory(trial, runtime)) from error
        records.whole_log(trainer.curve)  # in case a full disk had cost a line
        loss = trainer.curve[-1]["train_loss"]
        assert loss is not None
        result = Result(
            *(trial.fingerprint, folder / "bundle", final.values(), final.images, loss),
            *(round(trainer.seconds, 2), round(speed(trainer), 1), peak_memory_mib(), trainer.curve),
        )
        weights = trainer.kept_weights()

        def keep() -> None:  # all of it before the checkpoint goes: a run that is killed in between goes on from there
            place = _environment(runtime.device)
            source = f"trial {trial.fingerprint}" + (f", from {start_source}" if start_source else "")
            provenance = (
                f"nextify {place['nextify']}, n = 1 (seed {trial.seed}), {place['gpu'] or place['cpu']}, torch "
                f"{place['torch']}, {result.seconds:.0f} s, {place['date']}" + (f": {command}" if command else "")
            )
            _save_network(weights, trial, images, result, name, source, licence, provenance)
            content = {
                "version": VERSION,
                **result.to_dict(),
                "runtime": asdict(runtime),
                "kernels": kernels.describe(trainer.model),
                "command": command,
                "environment": place,
            }
            write_json_atomic(folder / "result.json", content)
            records.remove_checkpoint()

        processes.from_first(keep)
    return result


def _clear_damaged(folder: Path, warn: Warn) -> None:
    """Make way for a training whose result or network was found damaged."""
    if (folder / "result.json").exists():
        warn(f"the result in {folder} or its network is damaged or incomplete: it is trained again")
        (folder / "result.json").unlink()
    bundle = folder / "bundle"
    if bundle.exists() and not is_bundle(bundle) and not (bundle / FOREIGN_JSON).exists():
        bundle.rename(folder / f"bundle-damaged-{secrets.token_hex(4)}")


def check_space(folder: Path, trainer: Trainer) -> None:
    """Compare the free space with what a bundle and, while one is replaced, three checkpoints need.

    Raises:
        UnusableFolder: there is less.
    """
    weights = sum(value.numel() * value.element_size() for value in trainer.model.state_dict().values())
    moments = sum(
        (2 if isinstance(optimizer, torch.optim.AdamW) else 1) * parameter.numel() * parameter.element_size()
        for optimizer in trainer.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
    needed = weights + 3 * (weights * (1 if trainer.average is None else 2) + moments)
    there = sum(path.stat().st_size for path in folder.glob("checkpoint.pt*"))
    free = shutil.disk_usage(folder).free + there
    if free < needed:
        raise UnusableFolder(
            f"{folder} has room for {free:,} bytes, and this training's bundle and checkpoints need {needed:,}: free "
            f"some, or choose another --out"
        )


def _less_memory(trial: Trial, runtime: Runtime) -> str:
    asked = max(runtime.accumulation, trial.accumulation)
    if 2 * asked > trial.recipe.batch_size // processes.count():
        return "the memory ran out: take a smaller model or image size, or end other programs on this machine"
    less = f"the memory ran out: the same command with --accumulation {2 * asked} needs less of it"
    if trial.accumulation > 1 or (isinstance(trial.design, Design) and trial.design.norm == "batch"):
        return f"{less}, but is another training, from the beginning, as batch norm then sees smaller parts of a batch"
    return f"{less}, and goes on from the last checkpoint"


@contextlib.contextmanager
def taken(folder: Path) -> Iterator[None]:
    """Hold the folder for this process alone; the system frees it when the process dies.

    Raises:
        UnusableFolder: another process has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows: no lock, the user's care
        yield
        return
    file: IO[str]
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = f"{folder} is in use by another run; wait for it, or choose another --out"
            raise UnusableFolder(message) from error
        yield


# -- the network that is left --------------------------------------------------------------------------------------


@functools.cache
def _environment(device: str) -> Environment:
    return {**describe(), "gpu": gpu_name(device)}


def _save_network(
    weights: Mapping[str, Tensor],
    trial: Trial,
    images: Images,
    result: Result,
    name: str,
    source: str,
    licence: str,
    provenance: str,
) -> None:
    """Write a bundle or, for a network of timm's, its weights and a JSON that says the same about them."""
    preprocessing = Preprocessing.from_crop_ratio(
        trial.data.image_size,
        trial.recipe.test_crop_ratio,
        mean=trial.data.mean,
        std=trial.data.std,
        bands=images.bands,
    )
    metrics = tuple(
        Metric(key, value, images.name, result.test_images, provenance) for key, value in result.metrics.items()
    )
    if isinstance(trial.design, Design):
        about = About(
            *(trial.design, images.num_classes, 3, name, images.classes, preprocessing, trial.recipe, metrics),
            licence=licence,
            source=source,
        )
        save_bundle(result.bundle, weights, about)
        return
    data = save({key: tensor.detach().cpu().contiguous().clone() for key, tensor in weights.items()})
    content = {
        "network": trial.design.to_dict(),
        "num_classes": images.num_classes,
        "classes": images.classes,
        "preprocessing": preprocessing.to_dict(),
        "recipe": trial.recipe.to_dict(),
        "metrics": [asdict(metric) for metric in metrics],
        "source": source,
        "weights_sha256": hashlib.sha256(data).hexdigest(),
    }
    result.bundle.mkdir(exist_ok=True)
    write_bytes_atomic(result.bundle / WEIGHTS_FILE, data)
    write_json_atomic(result.bundle / FOREIGN_JSON, content)
