"""The one way to train: a trial runs in a folder, resumes there, and leaves its network and records (docs/training.md).

``train`` runs one trial, a study many through an engine, ``compare`` many through a study. ``result.json`` is written
last, so it marks a finished trial.
"""

import contextlib
import functools
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from nextify import kernels
from nextify.evaluation.dense_intervals import ap_scores, miou_scores
from nextify.networks.dense.design import DenseDesign
from nextify.paper.design import Design
from nextify.system import native, processes
from nextify.system.device import gpu_name, out_of_memory, peak_memory_mib
from nextify.system.environment import Environment, describe
from nextify.system.files import FOREIGN_JSON, UnusableFolder, write_json_atomic
from nextify.system.lease import taken
from nextify.tasks.average_precision import DetectionMetrics
from nextify.tasks.classification import Accuracy
from nextify.tasks.multilabel_metrics import MultiLabelMetrics
from nextify.tasks.segmentation_metrics import SegmentationMetrics
from nextify.tasks.task import Metrics
from nextify.training.checkpoint import remove_checkpoint
from nextify.training.kept import Calibration, Told, keep
from nextify.training.learned import AnyImages
from nextify.training.loop import OnEpoch, OnProgress, ShouldStop, run_steps, speed
from nextify.training.records import Records, Warn, to_stderr
from nextify.training.result import Result, finished, packed, packed_scores
from nextify.training.tracking import open_trackers
from nextify.training.trainer import Start, Trainer
from nextify.training.trial import VERSION, Runtime, Trial
from nextify.weights import Metric, is_bundle


class TrainingOutOfMemory(RuntimeError):
    """The memory ran out in the middle of a training; the message says how to go on."""


def run_trial(
    trial: Trial,
    images: AnyImages,
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
    on_epoch: OnEpoch | None = None,
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
        on_epoch: as ``run_steps`` has it.
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
    with native.use_image_kernels(runtime.kernels), contextlib.ExitStack() as opened:
        done = processes.from_first(lambda: _begin(folder, trial, opened, warn))
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
            final = run_steps(trainer, records, on_progress, should_stop, on_epoch)
            calibration = Calibration(trainer.temperature(), trainer.thresholds())
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise TrainingOutOfMemory(_less_memory(trial, runtime)) from error
        records.whole_log(trainer.curve)  # in case a full disk had cost a line
        if isinstance(final, MultiLabelMetrics):
            final = final.at(calibration.thresholds)
        result = _result(trial, folder, trainer, final)
        weights = trainer.kept_weights()

        def leave() -> None:  # all of it before the checkpoint goes: a run that is killed in between goes on from there
            place = _environment(runtime.device)
            source = f"trial {trial.fingerprint}" + (f", from {start_source}" if start_source else "")
            told = Told(trial.recipe, _metrics(result, trial, images.name, place, command), licence, source)
            keep(result.bundle, weights, trial, images, calibration, name, told)
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

        processes.from_first(leave)
    return result


def _begin(folder: Path, trial: Trial, opened: contextlib.ExitStack, warn: Warn) -> Result | None:
    """The result of a training that has ended; else take its folder until ``opened`` closes."""
    done = finished(folder, trial)
    if done is None:
        folder.mkdir(parents=True, exist_ok=True)
        opened.enter_context(taken(folder))
        _clear_damaged(folder, warn)
    elif any(folder.glob("checkpoint.pt*")):  # it was killed after its result, before it had removed them
        with contextlib.suppress(UnusableFolder), taken(folder):
            remove_checkpoint(folder / "checkpoint.pt")
    return done


def _metrics(result: Result, trial: Trial, data: str, place: Environment, command: str) -> tuple[Metric, ...]:
    """What a bundle says of its test, each with its provenance."""
    provenance = (
        f"nextify {place['nextify']}, n = 1 (seed {trial.seed}), {place['gpu'] or place['cpu']}, torch "
        f"{place['torch']}, {result.seconds:.0f} s, {place['date']}" + (f": {command}" if command else "")
    )
    return tuple(Metric(key, value, data, result.test_images, provenance) for key, value in result.metrics.items())


def _result(trial: Trial, folder: Path, trainer: Trainer, final: Metrics) -> Result:
    """Of a training that has ended with these metrics."""
    loss = trainer.curve[-1]["train_loss"]
    assert loss is not None
    return Result(
        *(trial.fingerprint, folder / "bundle", final.values(), final.images, loss),
        *(round(trainer.seconds, 2), round(speed(trainer), 1), peak_memory_mib(), trainer.curve),
        # Several processes test every N-th batch each, so that their answers are not in the images' order.
        right=packed(final.right) if isinstance(final, Accuracy) and processes.count() == 1 else None,
        scores=_scores(final) if processes.count() == 1 else None,
    )


def _scores(final: Metrics) -> str | None:
    """Scores of the single test images, where their metric is no mean over them by itself."""
    match final:
        case DetectionMetrics(images=images) if images > 1:
            return packed_scores(ap_scores(final.seen, len(final.classes), final.values()["ap"]))
        case SegmentationMetrics(images=images) if images > 1 and final.each is not None:
            return packed_scores(miou_scores(final.each, final.miou))
        case _:
            return None


def _clear_damaged(folder: Path, warn: Warn) -> None:
    """Make way for a training whose result or network was found damaged."""
    if (folder / "result.json").exists():
        warn(f"the result in {folder} or its network is damaged or incomplete, so it is trained again")
        (folder / "result.json").unlink()
    bundle = folder / "bundle"
    if bundle.exists() and not is_bundle(bundle) and not (bundle / FOREIGN_JSON).exists():
        bundle.rename(folder / f"bundle-damaged-{secrets.token_hex(4)}")


def check_space(folder: Path, trainer: Trainer) -> None:
    """Compare the free space with what a bundle and, while one is replaced, three checkpoints need. Raises
    ``UnusableFolder`` where there is less."""
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
            f"{folder} has room for {free:,} bytes, but this run's bundle and checkpoints need {needed:,}: free "
            f"some space, or choose another --out"
        )


def _less_memory(trial: Trial, runtime: Runtime) -> str:
    asked = max(runtime.accumulation, trial.accumulation)
    if 2 * asked > trial.recipe.batch_size // processes.count():
        return "out of memory: choose a smaller model or image size, or close other programs on this machine"
    less = f"out of memory: the same command with --accumulation {2 * asked} needs less memory"
    if isinstance(trial.design, DenseDesign):
        return f"{less}, but starts a different run from scratch, as its losses are means over smaller micro-batches"
    if trial.accumulation > 1 or (isinstance(trial.design, Design) and trial.design.norm == "batch"):
        return f"{less}, but starts a different run from scratch, as batch norm sees smaller micro-batches"
    return f"{less}, and resumes from the last checkpoint"


@functools.cache
def _environment(device: str) -> Environment:
    return {**describe(), "gpu": gpu_name(device)}
