"""More epochs of a finished training: a new training that starts from its weights, with a schedule of its own.

The finished one has annealed its rate to almost nothing, so that more steps would change little. A new cosine
is started instead, without warm-up, as in SGDR (Loshchilov and Hutter 2017, arXiv 1608.03983), from a share of its peak
(``SHARE``). The optimizer starts afresh, as its state went with the checkpoint when the training was finished.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

from nextify.data import Images
from nextify.data.dense.annotations import DenseImages
from nextify.data.errors import DataError
from nextify.data.preflight import Preflight, preflight
from nextify.data.source import check_source
from nextify.networks.dense.design import DenseDesign
from nextify.paper.design import Design
from nextify.system import processes
from nextify.system.device import seeding
from nextify.system.files import followed, make_folder
from nextify.system.native import Mode
from nextify.system.text import plural, printable, several
from nextify.training.learned import AnyImages
from nextify.training.loop import OnProgress
from nextify.training.prepare import Prepared, digest
from nextify.training.prepare_classifier import check_for
from nextify.training.prepare_dense import DensePreflight, check_dense_settings, dense_preflight
from nextify.training.request import Request, RequestError, check_licence, split
from nextify.training.result import Result, read_object
from nextify.training.tracking import check_trackers
from nextify.training.train import Source, run_prepared
from nextify.training.trained_recipe import for_chosen_optimizer
from nextify.training.trial import Data, Trial, runtime
from nextify.weights import About, Preprocessing, is_bundle, load_bundle
from nextify.weights.bundle import DenseAbout, chosen_licence, load_dense, stated

SHARE = 0.1
"""Of the peak rate, where the new cosine starts (docs/training.md, More epochs)."""


@dataclass(frozen=True)
class Finished:
    """A finished training of ``nextify train``, as its folder tells it."""

    folder: Path
    asked: Mapping[str, Any]
    about: About | DenseAbout

    @classmethod
    def of(cls, run: str | Path) -> Self:
        """The training in a folder, for which ``latest`` may stand; no tensors are read. Raises ``RequestError`` where
        there is none, or it is not finished, and ``WeightsError`` where its bundle cannot be understood."""
        folder = followed(run)
        if folder.name == "bundle" and not (folder / "recipe.json").exists():
            folder = folder.parent
        asked = read_object(folder / "recipe.json")
        places = folder / "result.json", folder / "results.json", folder.parent / "results.json"
        if not asked and any(map(read_object, places)):
            raise RequestError(
                f"{folder} holds or belongs to several runs, and only a single run of nextify train can be "
                f"continued or trained again in folds: start a new run from its weights with --weights"
            )
        if not asked:
            raise RequestError(
                f"{run} holds no run of nextify train: give the folder of one, such as runs/NAME/latest; nextify "
                f"runs lists them"
            )
        about = stated(folder / "bundle") if is_bundle(folder / "bundle") else None
        if about is None or not read_object(folder / "result.json"):
            raise RequestError(
                f"{folder} is not finished: repeat the command that began it to resume it (--continue adds epochs to "
                f"a finished run)"
            )
        return cls(folder, asked, about)

    def source_at(self, data: str = "") -> Source:
        """Where its images are, or at ``data`` where that is given.

        Raises:
            RequestError: a training of images that Python held, or by an earlier version, does not tell, or they are
                no longer there.
        """
        reading = self.asked.get("reading") or {}
        if not data and not reading:
            raise RequestError(f"{self.folder} does not record where its images are: give them with --data")
        reading = {"data": "", **reading, **({"data": data} if data else {})}
        if not data and reading["data"]:
            try:
                check_source(reading["data"])
            except DataError:
                raise RequestError(
                    f"the images of {self.folder} are not at {printable(reading['data'])}, as seen from here: give "
                    f"them with --data"
                ) from None
        chosen = reading.get("channels")
        if chosen is None and isinstance(self.about, About):  # as the weights that it started from had them
            chosen = self.about.preprocessing.bands
        return Source(**{**reading, "channels": (chosen,) if isinstance(chosen, int) else _as_tuple(chosen)})

    @property
    def preprocessing(self) -> Preprocessing:
        """Of a classifier's bundle."""
        assert isinstance(self.about, About)
        return self.about.preprocessing

    def licence(self, chosen: str | None) -> str:
        """Of the result: the one ``chosen``, else that of this training's. Raises ``WeightsError``."""
        return chosen_licence(self.about.licence, chosen)

    def prepared(self, images: AnyImages, epochs: int, settings: Mapping[str, object] | None = None) -> Prepared:
        """The training of ``epochs`` more, with ``settings`` of the recipe above what this makes of it. Raises
        ``RequestError`` for other images, and for settings of the design, which comes with the weights."""
        model, values, about = self.asked["model"], self.asked["data"], self.about
        if values.get("task") == "masked":
            raise RequestError(
                f"{self.folder} is a pre-training run, which --continue does not support: go on from its weights with "
                f"nextify pretrain {model} --weights {self.folder} --data …"
            )
        before = about.recipe
        assert before is not None  # a training's bundle has one
        if values["fingerprint"] != images.fingerprint:
            raise RequestError(
                f"{images.name} is not what {self.folder} was trained on (different images, labels or split): give "
                f"the same --data, or start a new run from its weights: nextify train {model} --weights "
                f"{self.folder} --data …"
            )
        above, of_design = split(settings or {})
        if of_design:
            raise RequestError(f"--continue keeps the design: leave --set {next(iter(of_design))} out")
        if above.get("calibration", before.calibration) != before.calibration:
            raise RequestError(
                f"{self.folder} was trained with calibration {before.calibration}, so images held out now would "
                f"already have been trained on: leave --set calibration out"
            )
        if isinstance(images, DenseImages):
            check_dense_settings(above)
        else:
            check_for(images, above)
        suited, of_optimizer = for_chosen_optimizer(before, above)
        rate = SHARE * suited.learning_rate
        restarted: dict[str, Any] = {
            "epochs": epochs,
            "warmup_epochs": 0.0,
            "schedule": "cosine",
            "learning_rate": rate,
            "min_learning_rate": min(suited.min_learning_rate, above.get("learning_rate", rate)),
            "progressive_resizing": "off",
        }
        recipe = suited.with_(**restarted | above)
        bundle = self.folder / "bundle"
        dense = isinstance(about, DenseAbout)
        state = load_dense(bundle).state if dense else load_bundle(bundle).state
        design: Design | DenseDesign = about.design
        mean, std, canvas = (_as_tuple(values.get(name)) for name in ("mean", "std", "canvas"))
        task, side = values.get("task", "classification"), values["image_size"]
        data = Data(images.name, images.fingerprint, images.num_classes, side, mean, std, task, canvas)
        batch_norm = isinstance(design, Design) and design.norm == "batch"
        report: Preflight | DensePreflight = (
            dense_preflight(images, recipe)
            if isinstance(images, DenseImages)
            else preflight(images, recipe, uses_batch_norm=batch_norm, image_size=side)
        )
        seed = self.asked["seed"] + 1
        start = digest(state)
        share = recipe.learning_rate / suited.learning_rate
        peak = "the previous peak" if suited.learning_rate == before.learning_rate else "the peak of this optimizer"
        notes = (
            f"{plural(epochs, 'more epoch')} from {self.folder}, after {plural(before.epochs, 'epoch')}: a new "
            f"{recipe.schedule} schedule starts at {recipe.learning_rate:.3g}, {share:.3g} of {peak}",
            "the optimizer starts afresh: its state was deleted with the checkpoint when the run finished",
            f"seed {seed}, so images come in a new order with new augmentation",
        )
        new = {"settings": settings or {}, "epochs": epochs, "minutes": None, "weights": str(bundle), "seed": seed}
        request = Request(**{**self.asked["request"], **new})
        return Prepared(
            *(request, images, self.asked["recipe_name"], before, about if isinstance(about, About) else None),
            *(state, start, side),
            canvas=data.canvas,
            normalization=(data.mean, data.std),
            notes=notes,
            trial=Trial(*(design, recipe, data, seed, start), self.asked["frozen_stages"], self.asked["accumulation"]),
            preflight=report,
            changes=tuple(c for c in of_optimizer if c.field == "weight_decay" and recipe.weight_decay == c.after),
        )


def trained_before(weights: str | None) -> Finished | None:
    """The training that left ``weights``, where they are a bundle of ours for the same purpose; else None."""
    if weights is None or not Path(weights).exists():
        return None
    try:
        found = Finished.of(weights)
    except RequestError:
        return None
    return None if found.asked["data"].get("task") == "masked" else found


def _as_tuple(value: Any) -> Any:
    """A tuple that JSON made a list."""
    return None if value is None else tuple(value)


@seeding()
def continue_training(
    run: str | Path,
    epochs: int,
    *,
    data: str | Path | AnyImages | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    kernels: Mode = "auto",
    progress: OnProgress | None = None,
    settings: Mapping[str, object] | None = None,
    track: str | Sequence[str] = (),
    licence: str | None = None,
) -> Result:
    """Train for ``epochs`` more from a finished training, into a new folder; the same call resumes where it stopped.

    Args:
        run: folder of the training, such as ``runs/NAME/latest``.
        data: the images it was trained on; None opens them again from their recorded place.
        out: folder of the new training; None is the folder that holds ``run``.
        settings: fields of the recipe to override, such as ``{"learning_rate": 1e-3}``.

    The other arguments are those of ``train``.

    Raises:
        RequestError: ``run`` is not finished, or ``data`` are other images.
    """
    before, track = Finished.of(run), several(track)
    check_trackers(track)
    check_licence(licence)
    place = runtime(device, threads, workers, kernels=kernels)
    folder = before.folder.parent if out is None else Path(out)
    source = None
    if not isinstance(data, Images | DenseImages):
        source = before.source_at("" if data is None else str(data))
    with processes.joined(place.device):
        processes.from_first(lambda: make_folder(folder))
        held = cast("AnyImages", data)
        images = held if source is None else processes.first_alone(partial(source.open, folder / "cache"))
        return run_prepared(
            *(before.prepared(images, epochs, settings), folder, place),
            on_progress=progress,
            track=track,
            licence=before.licence(licence),
            source=source,
        )
