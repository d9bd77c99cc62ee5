"""Train what a user asks for: fit the request to the images, run its trial, and keep the decisions beside the result.

A training has a folder below ``out`` named by its trial's fingerprint, so the same request goes on where it stopped and
a finished one is not trained again (files: docs/training.md). ``out/latest`` is the bundle that was finished last.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from nextify.data import DataError, Images, open_images
from nextify.data.batches import divided
from nextify.data.dense.annotations import DenseImages, DenseTask
from nextify.data.dense.opening import open_dense, recognize
from nextify.data.opening import open_unlabelled
from nextify.data.preflight import SPLIT_FILE, split_csv
from nextify.data.source import LabelTask, check_task
from nextify.evaluation.pictures import curves_picture
from nextify.networks.masked.design import RATIO
from nextify.system import processes
from nextify.system.device import seeding
from nextify.system.files import (
    LATEST,
    link_latest,
    make_folder,
    parse_json,
    write_bytes_atomic,
    write_json_atomic,
    write_text_atomic,
)
from nextify.system.native import Mode
from nextify.system.text import plural, several
from nextify.training.checkpoint import remove_checkpoint
from nextify.training.learned import AnyImages, metric_specs
from nextify.training.loop import OnProgress, ShouldStop
from nextify.training.predictions import predictions_picture
from nextify.training.prepare import Preparation, Prepared, resolved
from nextify.training.probe import Plan, plan_for
from nextify.training.reconstructions import keep_reconstructions
from nextify.training.records import to_stderr
from nextify.training.request import Request, check_licence, check_opened
from nextify.training.result import Result, finished, fitted_otherwise, of_earlier_versions
from nextify.training.run import run_trial
from nextify.training.tracking import check_trackers
from nextify.training.trainer import Trainer
from nextify.training.trial import Runtime, Trial, runtime
from nextify.weights.bundle import JSON_FILE, chosen_bands, chosen_licence

PREDICTIONS = "predictions.png"


@dataclass(frozen=True)
class Source:
    """Where the images of a training are, and how they are read; kept, so that it can be continued."""

    data: str
    """As ``train`` takes it."""
    split_seed: int = 0
    channels: tuple[int, ...] | None = None
    skip_unreadable: bool = False
    task: LabelTask | DenseTask | None = None
    ignore_index: int | None = None
    without: str | None = None
    """A list of training images that were left out."""
    labelled: bool = True
    """Whether classes are read."""

    def open(self, cache: Path | None, weights: str | None = None, **how: Any) -> AnyImages:
        """The images, with the bands of ``weights`` where ``channels`` names none. ``how``: ``on_progress`` of
        ``open_images`` and, of images with annotations, ``to_train`` and ``tested``. Raises ``DataError`` also where
        something is asked for that the images' task does not have."""
        how |= {"split_seed": self.split_seed, "skip_unreadable": self.skip_unreadable, "cache": cache}
        labels = self.task if self.task in ("classification", "multilabel") else None
        asked = cast("DenseTask | None", None if labels else self.task)
        dense = (asked or recognize(self.data)) if self.labelled and labels is None else None
        if dense is not None:
            for name, value in (("--without", self.without), ("--channels", self.channels)):
                if value is not None:
                    raise DataError(
                        f"{name} is for classification, but {self.data} is annotated for {dense}: leave it out"
                    )
            if dense == "detection" and self.ignore_index is not None:
                raise DataError(f"--ignore-index is for masks, but {self.data} is used for its boxes: leave it out")
            return open_dense(self.data, task=asked, ignore_index=self.ignore_index, **how)
        if self.ignore_index is not None:
            raise DataError(f"--ignore-index is for masks, but {self.data} has none: leave it out")
        how["channels"] = self.channels or (chosen_bands(weights) if weights else None)
        if not self.labelled:
            return open_unlabelled(self.data, **how)
        return open_images(self.data, task=labels, without=None if self.without is None else Path(self.without), **how)


def prepare_in(
    out: Path, request: Request, images: AnyImages, runtime: Runtime, *, started: float | None = None, keep: bool = True
) -> Prepared:
    """``prepare``, with the epochs for which ``--minutes`` suffice measured, or read from where ``out`` remembers them.
    The minutes count from ``started``, a reading of ``time.monotonic``, or from now; ``keep`` remembers the epochs, so
    that the same request is the same training when it is given again."""
    began = time.monotonic() if started is None else started
    processes.from_first(lambda: make_folder(out))  # what cannot be written is better known before anything is measured
    preparation = Preparation.of(request, images)
    notes = []
    epochs = None
    if request.minutes is not None:
        path = _memory_of_minutes(out, request, images)
        plan = processes.from_first(lambda: _remembered_plan(path))
        if plan is None:
            plan = plan_for(request.minutes, began, preparation, runtime)
            if keep:
                processes.from_first(partial(_remember_plan, path, request, plan))
        epochs, preparation = plan.epochs, preparation.planned(plan.image_size, plan.precision)
        hold = "1 minute is enough for" if request.minutes == 1 else f"{request.minutes:g} minutes are enough for"
        notes.append(f"{hold} {plural(epochs, 'epoch')} here")
    prepared = preparation.fitted_to(epochs)
    if finished(folder_of(out, prepared.trial), prepared.trial) is None:
        for folder in of_earlier_versions(sorted(out.iterdir())):
            notes.append(f"{folder} was made by an earlier version of nextify: it stays as it is, and a new run starts")
        for folder in sorted(out.iterdir()):
            differing = fitted_otherwise(folder, prepared.trial, request.to_dict())
            if differing and "epochs" not in differing:
                settings = " ".join(f"--set {name}={value}" for name, value in differing.items())
                notes.append(f"{folder} is this run as an earlier version of nextify fitted it ({settings}): it "
                             f"stays as it is, and a new run starts")  # fmt: skip
    return replace(prepared, notes=(*prepared.notes, *notes))


def with_fewer_epochs(prepared: Prepared, out: Path, epochs: int, runtime: Runtime) -> Prepared:
    """Another training of the same request, which ``out`` remembers in place of one that does not fit its minutes.

    The training that was begun ends here: its checkpoints are removed.
    """
    request, images = prepared.request, prepared.images
    _remember_plan(
        _memory_of_minutes(out, request, images), request, Plan(epochs, prepared.image_size, prepared.recipe.precision)
    )
    remove_checkpoint(folder_of(out, prepared.trial) / "checkpoint.pt")
    return prepare_in(out, request, images, runtime)


def _memory_of_minutes(out: Path, request: Request, images: AnyImages) -> Path:
    key = hashlib.sha256(json.dumps([request.to_dict(), images.fingerprint]).encode()).hexdigest()[:12]
    return out / f"minutes-{key}.json"


def _remember_plan(path: Path, request: Request, plan: Plan) -> None:
    write_json_atomic(path, {"minutes": request.minutes, **asdict(plan)})


def _remembered_plan(path: Path) -> Plan | None:
    try:
        plan = parse_json(path.read_text(encoding="utf-8"))
        return Plan(plan["epochs"], plan.get("image_size"), plan.get("precision"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def folder_of(out: Path, trial: Trial) -> Path:
    """Where a training keeps what belongs to it."""
    return out / trial.fingerprint


def run_prepared(
    prepared: Prepared,
    out: Path,
    runtime: Runtime,
    *,
    command: str = "",
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
    track: Sequence[str] = (),
    licence: str | None = None,
    source: Source | None = None,
) -> Result:
    """Run a prepared training in its folder below ``out``, with its preflight, resolved recipe and curves beside it.
    ``source``: of its images, where they are not only held in memory. Raises as ``run_trial``."""
    trial, request, images = prepared.trial, prepared.request, prepared.images
    folder = folder_of(out, trial)

    def write_request() -> None:
        if finished(folder, trial) is None:
            folder.mkdir(parents=True, exist_ok=True)
            write_json_atomic(folder / "preflight.json", prepared.preflight.to_dict())
            held_out = divided(images.train, trial.recipe)[1].tolist() if isinstance(images, Images) else []
            write_text_atomic(folder / SPLIT_FILE, split_csv(images, held_out))
            write_json_atomic(folder / "recipe.json", {**resolved(prepared), "reading": source and asdict(source)})

    title = f"{request.model} on {images.name}"

    def on_epoch(trainer: Trainer) -> None:
        if request.mask_ratio is not None:
            keep_reconstructions(trainer, folder, title)

    processes.from_first(write_request)
    result = run_trial(
        *(trial, images, runtime, folder, on_progress),
        name=request.model,
        start=prepared.start,
        start_source=_chain(prepared),
        licence=chosen_licence(prepared.licence, licence),
        command=command,
        should_stop=should_stop,
        track=track,
        on_epoch=on_epoch,
    )

    def finish() -> None:
        if result.trained or not (folder / "curves.png").exists():
            write_bytes_atomic(folder / "curves.png", curves_picture(result.curve, title, metric_specs(trial)[0]))
        if isinstance(images, DenseImages) and (result.trained or not (folder / PREDICTIONS).exists()):
            write_bytes_atomic(folder / PREDICTIONS, predictions_picture(trial, images, result, runtime, title))
        try:
            link_latest(result.bundle)
        except OSError as error:
            to_stderr(f"cannot write {folder.with_name(LATEST)} ({error.strerror}): use {folder} instead")
        kept = parse_json((result.bundle / JSON_FILE).read_text(encoding="utf-8")).get("licence")
        if licence not in (None, kept) and not result.trained:
            to_stderr(
                f"{result.bundle} was finished with the licence {kept} and keeps it: to change it, write {licence} in "
                f"its {JSON_FILE}"
            )

    processes.from_first(finish)
    return result


def _chain(prepared: Prepared) -> str:
    """Where the weights that a training starts from come from, and where those came from."""
    start, about = prepared.request.weights or "", prepared.about
    before = about.source if about is not None and about.source not in ("", start) else ""
    return f"{start} ({before})" if before else start


@seeding()
def train(
    model: str,
    data: str | Path | AnyImages,
    *,
    task: LabelTask | DenseTask | None = None,
    ignore_index: int | None = None,
    without: str | Path | None = None,
    out: str | Path,
    device: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    kernels: Mode = "auto",
    compile: bool = False,
    capture: bool = False,
    split_seed: int = 0,
    progress: OnProgress | None = None,
    settings: Mapping[str, object] | None = None,
    track: str | Sequence[str] = (),
    licence: str | None = None,
    **request: Any,
) -> Result:
    """Train a named model on images and leave a bundle in ``out``; the same call resumes where it stopped.

    Under torchrun, all processes train one network together, and the first one writes the results.

    Args:
        data: ``digits``, ``cifar10``, ``scenes``, a folder (``open_images``, ``open_dense``), or images that are
            already open.
        task: ``classification``, ``multilabel``, ``detection`` or ``segmentation``, if the data allows for several;
            None detects it.
        ignore_index: value of mask pixels to ignore, as in ``open_dense``.
        without: a CSV of training images to leave out, as in ``open_images``.
        kernels: ``auto``, ``on`` or ``off``, for Nextify's own kernels.
        compile: whether to ``torch.compile`` the network.
        capture: whether to launch each step as one CUDA graph (``training/captured.py``).
        progress: called with a ``Progress`` after steps, a few times a second at most.
        settings: fields of the recipe and the design that override the fitted values, such as
            ``{"optimizer": Muon(), "optimizer.momentum": 0.9, "norm": "batch"}``.
        track: one or more of ``tensorboard``, ``wandb``, ``trackio``.
        licence: SPDX identifier of the result; by default that of the starting weights, else ``yours``.
        request: the other fields of ``Request``: epochs or minutes, recipe, scale, weights, image_size, seed, …
    """
    out, started = Path(out), time.monotonic()
    wanted = Request(model, settings={} if settings is None else settings, **request)
    place = runtime(device, threads, workers, wanted.accumulation, kernels=kernels, compile=compile, capture=capture)
    track = several(track)
    check_trackers(track)
    check_licence(licence)
    check_task(task)
    source = None
    if isinstance(data, Images | DenseImages):
        own = data.task if isinstance(data, DenseImages) else "multilabel" if data.multilabel else "classification"
        other = None if task == own else task
        check_opened(task=other, ignore_index=ignore_index, without=without, split_seed=split_seed)
    else:
        left_out = None if without is None else str(without)
        labelled = wanted.mask_ratio is None
        source = Source(
            *(str(data), split_seed), task=task, ignore_index=ignore_index, without=left_out, labelled=labelled
        )
    with processes.joined(place.device):
        held = cast("AnyImages", data)
        images = held if source is None else processes.first_alone(partial(source.open, out / "cache"))
        prepared = prepare_in(out, wanted, images, place, started=started)
        return run_prepared(*(prepared, out, place), on_progress=progress, track=track, licence=licence, source=source)


def pretrain(model: str, data: str | Path | AnyImages, *, mask_ratio: float = RATIO, **options: Any) -> Result:
    """Pre-train a named model on images without labels (FCMAE, arXiv 2301.00808) and leave its encoder in a bundle.

    ``train(model, …, weights=result.bundle)`` fine-tunes it.

    Args:
        data: as for ``train``, or a folder with images in any subfolders; labels are not read. Test images of a
            source are not trained on.
        mask_ratio: share of each image that is masked.
        options: those of ``train``.
    """
    return train(model, data, mask_ratio=mask_ratio, **options)
