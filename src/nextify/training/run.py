"""From a training that is prepared to a bundle: it runs, resumes, and leaves its records.

Each training has a folder named by its Trial's fingerprint, so the same request goes on where it stopped, and a
finished one is not trained again::

    OUT/FINGERPRINT/recipe.json    the resolved design and recipe, and what was changed with the reason
                    preflight.json what was found of the data
                    log.jsonl      one line an epoch
                    checkpoint.pt  while it runs
                    curves.png     training loss and test accuracy
                    result.json    figures, runtime, hardware, versions
                    bundle/        the result
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from nextify.data import Images, open_images
from nextify.paper.design import Design
from nextify.system import processes
from nextify.system.environment import describe
from nextify.system.files import write_bytes_atomic, write_json_atomic
from nextify.system.several import several
from nextify.training.device import runtime
from nextify.training.prepare import Prepared, prepare, resolved
from nextify.training.probe import epochs_for
from nextify.training.request import Request
from nextify.training.tracking import check_trackers, open_trackers
from nextify.training.trial import Runtime, Trial

if TYPE_CHECKING:
    from torch import Tensor

    from nextify.training.loop import Progress, Result


class UnusableFolder(OSError):
    """A folder that cannot hold a training; the message names the remedy."""


@dataclass(frozen=True)
class Finished:
    """A training's outcome."""

    bundle: Path
    top1: float
    top5: float
    test_images: int
    seconds: float
    images_per_second: float
    trained: bool
    """False where an earlier run had finished it."""


def prepare_in(out: Path, request: Request, images: Images, runtime: Runtime) -> Prepared:
    """``prepare``, with the epochs that ``--minutes`` came to remembered in ``out``, so that the same request is the
    same training when it is given again."""
    processes.from_first(lambda: _make(out))  # what cannot be written is better known before anything is measured
    if request.minutes is None:
        return prepare(request, images)
    key = hashlib.sha256(json.dumps([request.to_dict(), images.fingerprint]).encode()).hexdigest()[:12]
    path = out / f"minutes-{key}.json"
    epochs = processes.from_first(lambda: _remembered_epochs(path))
    if epochs is None:
        measured = epochs_for(request, images, runtime)
        processes.from_first(lambda: write_json_atomic(path, {"minutes": request.minutes, "epochs": measured}))
        epochs = measured
    prepared = prepare(request, images, epochs)
    return replace(prepared, notes=(*prepared.notes, f"{request.minutes:g} minutes hold {epochs} epochs here"))


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnusableFolder(f"cannot make {out}: {error.strerror}; choose another --out") from error


def _remembered_epochs(path: Path) -> int | None:
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["epochs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def taken(folder: Path) -> Iterator[None]:
    """The folder for this process alone; the system frees it when the process dies.

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
            message = f"{folder} is being trained by another run; wait for it, or choose another --out"
            raise UnusableFolder(message) from error
        yield


def folder_of(out: Path, trial: Trial) -> Path:
    """Where a training keeps what belongs to it."""
    return out / trial.fingerprint


def finished(out: Path, trial: Trial) -> Finished | None:
    """The outcome of a training that is done, or None."""
    from nextify.weights import is_bundle

    folder = folder_of(out, trial)
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if result.get("fingerprint") != trial.fingerprint or not is_bundle(folder / "bundle"):
        return None
    kept = ("top1", "top5", "test_images", "seconds", "images_per_second")
    return Finished(folder / "bundle", **{name: result[name] for name in kept}, trained=False)


def run(
    prepared: Prepared,
    out: Path,
    runtime: Runtime,
    *,
    command: str = "",
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
    track: Sequence[str] = (),
) -> Finished:
    """Train to the end and leave a bundle; go on from a checkpoint, and train nothing that is finished.

    Args:
        track: names of ``tracking.TRACKERS`` that are told of each epoch.

    Raises:
        TrainingStopped: ``should_stop`` said so; the same call goes on.
        TrainingDiverged: the loss is no number any more.
        TrainingOutOfMemory: in the middle of the training.
        OSError: the bundle or its records could not be written.
    """
    from nextify.evaluation.pictures import curves_picture
    from nextify.training.loop import train as train_trial

    trial = prepared.trial
    folder = folder_of(out, trial)
    bundle = folder / "bundle"

    def begin() -> Finished | None:
        done = finished(out, trial)
        if done is None:
            folder.mkdir(parents=True, exist_ok=True)
            lock.enter_context(taken(folder))
            write_json_atomic(folder / "preflight.json", prepared.preflight.to_dict())
            write_json_atomic(folder / "recipe.json", resolved(prepared))
        return done

    def keep(weights: Mapping[str, Tensor], result: Result) -> None:
        # All of it before the trainer removes its checkpoint: a run that is killed in between goes on from there.
        _save(bundle, weights, prepared, result, runtime, command)
        picture = curves_picture(result.curve, f"{prepared.request.model} on {prepared.images.name}")
        write_bytes_atomic(folder / "curves.png", picture)
        content = {"fingerprint": trial.fingerprint, **result.to_dict(), "runtime": asdict(runtime), "command": command}
        write_json_atomic(folder / "result.json", {**content, "environment": _environment(runtime)})

    with contextlib.ExitStack() as lock:
        done = processes.from_first(begin)
        if done is not None:
            return done
        result = train_trial(
            trial,
            prepared.images,
            runtime,
            folder,
            progress,
            start=prepared.start,
            keep=keep,
            should_stop=should_stop,
            trackers=lambda step: open_trackers(track, folder, trial.fingerprint, resolved(prepared), step),
        )
    return Finished(
        bundle, result.top1, result.top5, result.test_images, result.seconds, result.images_per_second, trained=True
    )


def _save(
    bundle: Path, weights: Mapping[str, Tensor], prepared: Prepared, result: Result, runtime: Runtime, command: str
) -> None:
    from nextify.weights import About, Metric, Preprocessing, save_bundle

    trial, images = prepared.trial, prepared.images
    assert isinstance(trial.design, Design)  # a bundle is a network of ours
    place = _environment(runtime)
    provenance = (
        f"nextify {place['nextify']}, n = 1 (seed {trial.seed}), {place['gpu'] or place['cpu']}, "
        f"torch {place['torch']}, {result.seconds:.0f} s, {place['date']}"
    )
    if command:
        provenance += f": {command}"
    about = About(
        design=trial.design,
        num_classes=images.num_classes,
        name=prepared.request.model,
        classes=images.classes,
        preprocessing=Preprocessing.from_crop_ratio(
            trial.data.image_size, trial.recipe.test_crop_ratio, mean=trial.data.mean, std=trial.data.std
        ),
        recipe=trial.recipe,
        metrics=(
            Metric("top1", result.top1, images.name, result.test_images, provenance),
            Metric("top5", result.top5, images.name, result.test_images, provenance),
        ),
        licence=prepared.licence,
        source=f"nextify train, trial {trial.fingerprint}"
        + (f", from {prepared.request.weights}" if prepared.request.weights else ""),
    )
    save_bundle(bundle, weights, about)


def _environment(runtime: Runtime) -> dict[str, Any]:
    gpu = None
    if runtime.device.startswith("cuda"):
        import torch

        gpu = torch.cuda.get_device_name(torch.device(runtime.device))
    return {**describe(), "gpu": gpu}


def train(
    model: str,
    data: str | Path | Images,
    *,
    out: str | Path,
    device: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    split_seed: int = 0,
    progress: Progress | None = None,
    settings: Mapping[str, Any] | None = None,
    track: str | Sequence[str] = (),
    **request: Any,
) -> Finished:
    """Train a named model on images and leave a bundle in ``out``; the same call goes on where it stopped.

    Under torchrun all processes train one network together; the first one writes.

    Args:
        data: ``digits``, ``cifar10``, a folder (``open_images``), or images that are open already.
        settings: values of the recipe's and the design's fields that stand above the fit, such as
            ``{"optimizer": Muon(), "optimizer.momentum": 0.9, "norm": "batch"}``.
        track: one or several of ``tensorboard``, ``wandb``, ``trackio``.
        request: the other fields of ``Request``: epochs or minutes, recipe, scale, weights, image_size, seed, …
    """
    out = Path(out)
    wanted = Request(model, settings={} if settings is None else settings, **request)
    place = runtime(device, threads, workers)
    track = several(track)
    check_trackers(track)
    with processes.joined(place.device):

        def read() -> Images:
            if isinstance(data, Images):
                return data
            return open_images(data, split_seed=split_seed, cache=out / "cache")

        prepared = prepare_in(out, wanted, processes.first_alone(read), place)
        return run(prepared, out, place, progress=progress, track=track)
