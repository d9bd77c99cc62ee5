"""From options to a trained bundle: the room between the command and the trainer.

``prepare`` makes the Trial (design and recipe fitted to the images, the user's settings on top) and says what it
changed; ``measure`` times a few steps and finds the part of a batch that fits the memory; ``run`` trains, resumes, and
leaves a bundle. Each training has a folder named by its Trial's fingerprint, so the same request goes on where it
stopped, and a finished one is not trained again::

    OUT/FINGERPRINT/recipe.json    the resolved design and recipe, and what was changed with the reason
                    preflight.json what was found of the data
                    log.jsonl      one line an epoch
                    checkpoint.pt  while it runs
                    curves.png     training loss and test accuracy
                    result.json    figures, runtime, hardware, versions
                    bundle/        the result
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from nextify.data import Images, open_images
from nextify.data.preflight import Preflight, preflight
from nextify.design import Design
from nextify.environment import cores, describe
from nextify.files import write_bytes_atomic, write_json_atomic
from nextify.fitting import Change, fit
from nextify.layout import cost
from nextify.recipe import RECIPES, RandAugment, Recipe
from nextify.scale import scale
from nextify.training.trial import FROM_SCRATCH, IMAGENET_MEAN, IMAGENET_STD, Data, Runtime, Trial
from nextify.zoo import find_design

if TYPE_CHECKING:
    from torch import Tensor

    from nextify.nn.network import ConvNet
    from nextify.training.train import Progress, Result
    from nextify.weights import About

MANY_IMAGES = 200_000
"""Training images from which the paper's recipe is taken rather than the one for small sets."""
SMALLEST_IMAGE, LARGEST_IMAGE = 16, 224
"""Side of the images, pixels, where the request names none."""
SIZE_STEP = 32
"""Images of mixed sizes are brought to a multiple of this many pixels near their median short side."""
OVERFIT_STEPS = 100
OVERFIT_TOP1 = 95.0
"""Percent of one batch that a working pipeline has learned by heart after ``OVERFIT_STEPS``."""


class RequestError(ValueError):
    """A training that cannot be; the message names the remedy."""


class UnusableFolder(OSError):
    """A folder that cannot hold a training; the message names the remedy."""


class OutOfMemory(RequestError):
    """Not even one image at a time fits."""


@dataclass(frozen=True)
class Request:
    """What decides a training's result, as the user gives it. ``None`` is "choose for me" throughout."""

    model: str
    """A name that ``nextify models`` lists."""
    recipe: str | None = None
    """A name of ``RECIPES``; by default one for small sets, or the paper's for large ones."""
    settings: tuple[str, ...] = ()
    """``field=value`` of the recipe or the design; they stand above the fit."""
    epochs: int | None = None
    minutes: float | None = None
    """Wall time to fill with epochs, by a measurement on this machine."""
    scale: str = "full"
    weights: str | None = None
    """Where to start from: whatever ``nextify.weights`` reads."""
    frozen_stages: int = 0
    image_size: int | None = None
    precision: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Prepared:
    """A training that is ready to run."""

    request: Request
    trial: Trial
    images: Images
    preflight: Preflight
    recipe_name: str
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    """What was decided on the user's behalf, a sentence each."""
    start: Mapping[str, Tensor] | None
    licence: str
    """Of the weights it starts from; ``unknown`` for one's own."""


@dataclass(frozen=True)
class Estimate:
    """From a few measured steps."""

    seconds: float
    step_seconds: float
    images_per_second: float
    memory_mib: int
    """Most memory held while measuring: the device's, or on a CPU the whole process's."""
    accumulation: int
    """Parts into which each batch has to be cut so that it fits the memory."""


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


# -- settings ------------------------------------------------------------------------------------------------------

_DESIGN_FIELDS = frozenset(f.name for f in fields(Design))
_RECIPE_FIELDS = frozenset(f.name for f in fields(Recipe))


def setting(text: str) -> tuple[str, Any]:
    """``field=value`` as name and value: numbers and tuples as Python writes them, ``rand_augment=9,0.5``, words."""
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals or not value:
        raise RequestError(f"--set needs FIELD=VALUE, got {text!r}; for example --set learning_rate=1e-3")
    if name not in _DESIGN_FIELDS | _RECIPE_FIELDS:
        from difflib import get_close_matches

        near = get_close_matches(name, _DESIGN_FIELDS | _RECIPE_FIELDS, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(sorted(_RECIPE_FIELDS))}"
        raise RequestError(f"--set {name}: neither the recipe nor the design has it; {hint}")
    try:
        parsed: Any = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        parsed = value
    if name == "rand_augment" and parsed != "off":
        numbers = parsed if isinstance(parsed, tuple) else (parsed,)
        if not 1 <= len(numbers) <= 2 or not all(isinstance(n, int | float) for n in numbers):
            raise RequestError(f"--set rand_augment needs off, MAGNITUDE or MAGNITUDE,STD, got {value!r}")
        parsed = RandAugment(*map(float, numbers))
    elif name in _RECIPE_FIELDS:
        known = getattr(RECIPES["convnext_in1k"], name)
        numeric = isinstance(known, int | float) or name in ("gradient_clip", "layer_decay", "color_jitter")
        if numeric and parsed != "off" and not (isinstance(parsed, int | float) and not isinstance(parsed, bool)):
            raise RequestError(f"--set {name} needs a number, got {value!r}")
        if isinstance(known, tuple) and not (
            isinstance(parsed, tuple) and len(parsed) == 2 and all(isinstance(n, int | float) for n in parsed)
        ):
            raise RequestError(f"--set {name} needs two numbers with a comma, got {value!r}")
    return name, parsed


def _settings(texts: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    given = dict(map(setting, texts))
    return (
        {name: value for name, value in given.items() if name in _RECIPE_FIELDS},
        {name: value for name, value in given.items() if name in _DESIGN_FIELDS},
    )


def check(request: Request) -> None:
    """What can be told of a request without looking at an image or a tensor. Raises ``RequestError`` and kin."""
    recipe_settings, _ = _settings(request.settings)
    find_design(request.model)
    scale(request.scale)
    if request.recipe is not None and request.recipe not in RECIPES:
        raise RequestError(f"no recipe {request.recipe!r}; there are {', '.join(RECIPES)}")
    named = [request.epochs is not None, request.minutes is not None, "epochs" in recipe_settings]
    if sum(named) > 1:
        raise RequestError("--epochs, --minutes and --set epochs=… decide the same thing: give one")
    if request.precision is not None and "precision" in recipe_settings:
        raise RequestError("--precision and --set precision=… decide the same thing: give one")
    for name, value in (("--epochs", request.epochs), ("--image-size", request.image_size)):
        if value is not None and value < 1:
            raise RequestError(f"{name} must be 1 or more, got {value}")
    if request.minutes is not None and not request.minutes > 0:
        raise RequestError(f"--minutes must be above 0, got {request.minutes:g}")


def runtime(device: str = "auto", threads: int | None = None, workers: int | None = None) -> Runtime:
    """Where and how fast: on a CPU all cores and no workers, beside a GPU the cores less one as workers.

    Raises:
        RequestError: a device that cannot be used.
    """
    device = usable_device(device)
    accelerated = device != "cpu"
    for name, value, least in (("--threads", threads, 1), ("--workers", workers, 0)):
        if value is not None and value < least:
            raise RequestError(f"{name} must be {least} or more, got {value}")
    if workers is None:
        workers = max(1, cores() - 1) if accelerated else 0
    return Runtime(device, threads or (1 if accelerated else cores()), workers)


def usable_device(device: str) -> str:
    """``auto`` as ``cuda`` or ``cpu``; another name as it is, once it was tried. Raises ``RequestError``."""
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise RequestError(f"--device {device} cannot be used ({first}); try --device cpu") from error
    return device


# -- preparing -----------------------------------------------------------------------------------------------------


def prepare(request: Request, images: Images, epochs: int | None = None) -> Prepared:
    """The Trial of a request, fitted to the images.

    Args:
        epochs: what ``request.minutes`` came to; ``epochs_for`` measures it.

    Raises:
        RequestError: the options contradict each other or name nothing known.
        DataError, FitError: images that no training can work on.
        WeightsError: weights to start from that cannot be read, or are of another design.
    """
    check(request)
    recipe_settings, design_settings = _settings(request.settings)
    notes: list[str] = []
    recipe_name, recipe = _recipe(request, images, notes)
    about, start = _start(request, images, notes)
    design = find_design(request.model)
    chosen_scale = scale(request.scale)
    if about is not None:
        if request.scale != "full" or design_settings:
            raise RequestError("the design comes with --weights: leave --scale and --set of the design's fields out")
        design = about.design
    else:
        design = chosen_scale.shrink(design)
    size = request.image_size or _image_size(request, images, about, notes)
    granted = recipe_settings.get("epochs", request.epochs if request.epochs is not None else epochs)
    if granted is None and request.scale != "full" and request.weights is None:
        granted = chosen_scale.epochs
    fitted = fit(design, recipe, images, image_size=size, epochs=granted, batch_size=recipe_settings.get("batch_size"))
    changes = tuple(change for change in fitted.changes if change.before != change.after)
    if about is not None:  # trained weights have the design they have
        changes = tuple(change for change in changes if change.field not in _DESIGN_FIELDS)
    elif design_settings:
        design = fitted.design.with_(**design_settings)
    else:
        design = fitted.design
    above = dict(recipe_settings)
    if request.precision is not None:
        above["precision"] = request.precision
    rate = above.get("learning_rate")
    if rate is not None and "min_learning_rate" not in above and rate < fitted.recipe.min_learning_rate:
        above["min_learning_rate"] = 0.0  # the cosine must not end above where it starts
    changes = tuple(change for change in changes if change.field not in {*above, *design_settings})
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if about is None else (about.preprocessing.mean, about.preprocessing.std)
    if len(mean) != 3 or len(std) != 3:
        raise RequestError("the weights take grayscale images, and training is on RGB: choose other weights")
    if not 0 <= request.frozen_stages <= len(design.depths):
        raise RequestError(f"--freeze must be between 0 and {len(design.depths)}, the stages of this design")
    if request.frozen_stages and about is None:
        raise RequestError("--freeze keeps stages as they are, which fresh weights must not be: give --weights too")
    final = fitted.recipe.with_(**above)
    data = Data(images.name, images.fingerprint, images.num_classes, size, mean, std)
    trial = Trial(
        design,
        final,
        data,
        request.seed,
        start=FROM_SCRATCH if start is None else _digest(start),
        frozen_stages=request.frozen_stages,
    )
    cost(design, size, images.num_classes)  # raises where the images are too small for the strides
    report = preflight(images, final, fitted=fitted.recipe, uses_batch_norm=design.norm == "batch")
    licence = "unknown" if about is None else about.licence
    return Prepared(request, trial, images, report, recipe_name, changes, tuple(notes), start, licence)


def _recipe(request: Request, images: Images, notes: list[str]) -> tuple[str, Recipe]:
    name = request.recipe
    if name is None:
        small = len(images.train) < MANY_IMAGES
        if request.weights is not None:
            name = "finetune_small" if small else "convnext_finetune_in22k"
        else:
            name = "scratch_small" if small else "convnext_in1k"
        notes.append(f"recipe {name}, for {len(images.train):,} training images; --recipe takes another")
    return name, RECIPES[name]


def _start(request: Request, images: Images, notes: list[str]) -> tuple[About | None, Mapping[str, Tensor] | None]:
    if request.weights is None:
        return None, None
    from nextify.weights import WeightsError, find, is_bundle

    own = Path(request.weights).exists() and is_bundle(request.weights)
    found = find(request.weights, None if own else request.model)
    about = found.bundle.about
    if own and about.name and about.name != request.model:
        raise WeightsError(f"{request.weights} holds {about.name}, not {request.model}: name {about.name}")
    notes.append(f"starts from {request.weights}, licence {about.licence}")
    notes += found.notes
    state = dict(found.bundle.state)
    if about.in_channels != 3:
        raise WeightsError(f"{request.weights} takes {about.in_channels} channels, and training is on 3")
    if about.classes == images.classes:
        notes.append("the classes are those of the weights: their classifier is kept")
    else:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("head.classifier.")}
        notes.append(f"the classifier is new: {images.num_classes} classes, where the weights have {about.num_classes}")
    return about, state


def _digest(state: Mapping[str, Tensor]) -> str:
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(state.items())}
    return hashlib.sha256(save(tensors)).hexdigest()[:16]


def _image_size(request: Request, images: Images, about: About | None, notes: list[str]) -> int:
    if about is not None:
        return min(about.preprocessing.size)
    native = min(images.native_size) if images.native_size else None
    sides = images.train.short_sides
    if native is None and sides is not None:
        middle = int(np.median(sides))
        native = max(1, round(middle / SIZE_STEP)) * SIZE_STEP
        if native < LARGEST_IMAGE:
            notes.append(f"images of {native} pixels, as the middle one has a short side of {middle}")
    if request.scale != "full":
        return scale(request.scale).image_size(native)
    return LARGEST_IMAGE if native is None else min(max(native, SMALLEST_IMAGE), LARGEST_IMAGE)


# -- measuring -----------------------------------------------------------------------------------------------------


def measure(prepared: Prepared, runtime: Runtime) -> Estimate:
    """Time a few steps; where a batch does not fit the memory, cut it in two until it does.

    Raises:
        OutOfMemory: a part of one image does not fit either.
    """
    import torch

    from nextify.training.train import probe

    recipe = prepared.trial.recipe
    parts = runtime.accumulation
    while True:
        try:
            found = probe(prepared.trial, prepared.images, replace(runtime, accumulation=parts), steps=6)
            break
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
        if parts >= recipe.batch_size:
            raise OutOfMemory("one image at a time does not fit the memory: take a smaller --image-size or model")
        parts = min(2 * parts, recipe.batch_size)
        if runtime.device.startswith("cuda"):
            torch.cuda.empty_cache()
    step = found["step_seconds"]
    seconds = step * found["total_steps"] + found["test_seconds"]
    return Estimate(seconds, step, recipe.batch_size / step, _peak_memory_mib(runtime.device), parts)


def _peak_memory_mib(device: str) -> int:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) // 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def epochs_for(request: Request, images: Images, runtime: Runtime) -> int:
    """Epochs that fill ``request.minutes`` here. The batch that the fit chooses depends on the epochs, so twice.

    Raises:
        RequestError: not one epoch fits.
    """
    assert request.minutes is not None
    epochs = 10
    for _ in range(2):
        prepared = prepare(request, images, epochs)
        found = measure(prepared, runtime)
        per_epoch = found.step_seconds * (len(images.train) // prepared.trial.recipe.batch_size)
        tests = max(0.0, found.seconds - per_epoch * epochs)
        exact = (60 * request.minutes * 0.97 - tests) / per_epoch
        if exact < 1:
            raise RequestError(
                f"one epoch takes about {(per_epoch + tests) / 60:.1f} minutes here, more than --minutes "
                f"{request.minutes:g}: give more minutes, a smaller --scale or a smaller --image-size"
            )
        epochs = math.floor(exact)
    return epochs


# -- running -------------------------------------------------------------------------------------------------------


def prepare_in(out: Path, request: Request, images: Images, runtime: Runtime) -> Prepared:
    """``prepare``, with the epochs that ``--minutes`` came to remembered in ``out``, so that the same request is the
    same training when it is given again."""
    try:
        out.mkdir(parents=True, exist_ok=True)  # what cannot be written is better known before anything is measured
    except OSError as error:
        raise UnusableFolder(f"cannot make {out}: {error.strerror}; choose another --out") from error
    if request.minutes is None:
        return prepare(request, images)
    key = hashlib.sha256(json.dumps([asdict(request), images.fingerprint]).encode()).hexdigest()[:12]
    path = out / f"minutes-{key}.json"
    try:
        epochs = int(json.loads(path.read_text(encoding="utf-8"))["epochs"])
    except (OSError, ValueError, KeyError, TypeError):
        epochs = epochs_for(request, images, runtime)
        write_json_atomic(path, {"minutes": request.minutes, "epochs": epochs})
    prepared = prepare(request, images, epochs)
    return replace(prepared, notes=(*prepared.notes, f"{request.minutes:g} minutes hold {epochs} epochs here"))


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
) -> Finished:
    """Train to the end and leave a bundle; go on from a checkpoint, and train nothing that is finished.

    Raises:
        TrainingStopped: ``should_stop`` said so; the same call goes on.
        TrainingDiverged: the loss is no number any more.
        OSError: something could not be written.
    """
    from nextify.evaluation.pictures import curves_picture
    from nextify.training.train import train as train_trial

    trial = prepared.trial
    done = finished(out, trial)
    if done is not None:
        return done
    folder = folder_of(out, trial)
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(folder / "preflight.json", prepared.preflight.to_dict())
    write_json_atomic(folder / "recipe.json", resolved(prepared))
    bundle = folder / "bundle"

    def keep(model: ConvNet, result: Result) -> None:
        # All of it before the trainer removes its checkpoint: a run that is killed in between goes on from there.
        _save(bundle, model, prepared, result, runtime, command)
        picture = curves_picture(result.curve, f"{prepared.request.model} on {prepared.images.name}")
        write_bytes_atomic(folder / "curves.png", picture)
        content = {"fingerprint": trial.fingerprint, **result.to_dict(), "runtime": asdict(runtime), "command": command}
        write_json_atomic(folder / "result.json", {**content, "environment": _environment(runtime)})

    with taken(folder):
        result = train_trial(
            trial, prepared.images, runtime, folder, progress, start=prepared.start, keep=keep, should_stop=should_stop
        )
    return Finished(
        bundle, result.top1, result.top5, result.test_images, result.seconds, result.images_per_second, trained=True
    )


def resolved(prepared: Prepared) -> dict[str, Any]:
    """Design and recipe as they are trained, and how they came to be; plain data."""
    trial = prepared.trial
    return {
        "model": prepared.request.model,
        "recipe_name": prepared.recipe_name,
        "request": asdict(prepared.request),
        "changes": [{**asdict(change), "text": str(change)} for change in prepared.changes],
        "notes": list(prepared.notes),
        **trial.to_dict(),
    }


def _save(bundle: Path, model: ConvNet, prepared: Prepared, result: Result, runtime: Runtime, command: str) -> None:
    from nextify.weights import About, Metric, Preprocessing, save_bundle

    trial, images = prepared.trial, prepared.images
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
    save_bundle(bundle, model.state_dict(), about)


def _environment(runtime: Runtime) -> dict[str, Any]:
    gpu = None
    if runtime.device.startswith("cuda"):
        import torch

        gpu = torch.cuda.get_device_name(torch.device(runtime.device))
    return {**describe(), "gpu": gpu}


# -- one batch by heart --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overfit:
    """What learning one batch by heart gave."""

    images: int
    steps: int
    first_loss: float
    last_loss: float
    top1: float
    """Percent of the batch that is right at the end."""

    @property
    def works(self) -> bool:
        return self.top1 >= OVERFIT_TOP1


def overfit_batch(prepared: Prepared, runtime: Runtime, steps: int = OVERFIT_STEPS) -> Overfit:
    """Learn one batch by heart, without augmentation and regularization: whatever cannot, cannot learn the rest."""
    import torch

    from nextify.training.train import Training

    images = prepared.images
    recipe = prepared.trial.recipe
    per_epoch = len(images.train) // recipe.batch_size
    bare = recipe.with_(
        epochs=max(1, math.ceil(steps / per_epoch)),
        warmup_epochs=0.0,
        schedule="cosine",
        crop="none",
        horizontal_flip=0.0,
        color_jitter="off",
        rand_augment="off",
        mixup="off",
        cutmix="off",
        random_erasing=0.0,
        label_smoothing=0.0,
        stochastic_depth=0.0,
        weight_decay=0.0,
        ema="off",
    )
    torch.set_num_threads(runtime.threads)
    training = Training(replace(prepared.trial, recipe=bare), images, runtime, prepared.start)
    pixels, labels = training.batches.batch(0)
    losses = [float(training.train_step(pixels, labels)) for _ in range(steps)]
    with torch.no_grad():
        # In training mode, as batch norm's running statistics need more steps than these to follow.
        x, y = training.prepared_test_batch(pixels, labels)
        right = float((training.model(x).argmax(-1) == y).float().mean())
    return Overfit(len(labels), steps, losses[0], losses[-1], 100 * right)


# -- in one call ---------------------------------------------------------------------------------------------------


def train(
    model: str,
    data: str | Images,
    *,
    out: str | Path,
    device: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    split_seed: int = 0,
    progress: Progress | None = None,
    settings: Mapping[str, Any] | None = None,
    **request: Any,
) -> Finished:
    """Train a named model on images and leave a bundle in ``out``; the same call goes on where it stopped.

    Args:
        data: ``digits``, ``cifar10``, a folder (``open_images``), or images that are open already.
        settings: fields of recipe and design that stand above the fit.
        request: the other fields of ``Request``: epochs or minutes, recipe, scale, weights, image_size, seed, …
    """
    out = Path(out)
    texts = tuple(f"{name}={value}" for name, value in (settings or {}).items())
    wanted = Request(model, settings=texts, **request)
    images = open_images(data, split_seed=split_seed, cache=out / "cache") if isinstance(data, str) else data
    place = runtime(device, threads, workers)
    prepared = prepare_in(out, wanted, images, place)
    return run(prepared, out, place, progress=progress)
