"""The runs in a folder: trainings, studies, comparisons and so on, read from their small JSON files.

Nothing here needs torch, so that hundreds of runs are listed at once.
"""

import collections
import fnmatch
import math
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from nextify.evaluation.metrics import wilson
from nextify.study.results import Json, StudyResults
from nextify.study.statistics import confidence_interval
from nextify.system.files import FOREIGN_JSON, JSON_FILE, check_regular, followed, parse_json
from nextify.system.text import plural, valid_unicode
from nextify.tasks.metric_specs import SPECS

Kind = Literal["training", "study", "comparison", "folds", "search", "attribution"]
State = Literal["finished", "running", "stopped", "broken"]
Sort = Literal["date", "folder", "kind", "data", "model", "recipe", "result", "time", "state"]
FILTERS = ("folder", "kind", "state", "data", "model", "task", "recipe")
DEPTH = 3
"""Folders below the one that is listed: ``runs/NAME/FINGERPRINT`` and one more."""
_TRAINING, _SEVERAL = {"recipe.json", "result.json", "checkpoint.pt"}, {"results.json", "trials"}


class RunError(ValueError):
    """A folder that holds no run, or none of the kind asked for; the message names the remedy."""


@dataclass(frozen=True)
class Run:
    """One training, study, cross-validation, comparison, search or attribution.

    Times are seconds, accuracies percent; None is unknown.
    """

    folder: Path
    kind: Kind
    state: State = "stopped"
    model: str = ""
    data: str = ""
    task: str = ""
    recipe: str = ""
    seed: int | None = None
    epochs: int | None = None
    metric: str = ""
    """Key of the task's main metric, such as ``top1``."""
    value: float | None = None
    """Of that metric; of a study its last step's mean, of a comparison the best network's."""
    low: float | None = None
    high: float | None = None
    """Ends of its 95 % interval: of a training's accuracy for other test images (Wilson), of the mean of a study for
    other seeds (Student), of a cross-validation's for other images (Nadeau and Bengio)."""
    seconds: float | None = None
    """Spent on training, or of a comparison altogether."""
    step: int | None = None
    """The optimizer step from which a training that is not finished goes on."""
    detail: str = ""
    """More about the state; of a broken run, what is wrong and the remedy."""
    date: str = ""
    """Of the last change, ISO 8601 in UTC."""

    @property
    def status(self) -> str:
        """The state in words: ``stopped at step 120``, ``finished``."""
        at = f" at step {self.step:,}" if self.step is not None and self.state == "stopped" else ""
        return f"{self.state}{at}" + (f", {self.detail}" if self.detail else "")

    def to_dict(self) -> dict[str, object]:
        return {**asdict(self), "folder": valid_unicode(str(self.folder))}


def runs(
    folder: str | Path = "runs", *, sort: Sort = "date", reverse: bool = False, where: Mapping[str, str] | None = None
) -> list[Run]:
    """Every run in ``folder`` or up to three folders below; a folder that cannot be understood is a ``broken`` run.

    The trainings of a study are not listed beside it; name its ``trials`` folder for them.

    Args:
        sort: the newest and the best come first, names in alphabetical order, and times and states likewise ascending.
        reverse: the other way round.
        where: ``{field: pattern}`` of ``FILTERS``, such as ``{"data": "digits", "model": "convnext_*"}``; all must fit.

    Raises:
        RunError: there is no such folder, or a field or an order that does not exist.
    """
    root, wanted = followed(folder), dict(where or {})
    if unknown := sorted(wanted.keys() - set(FILTERS)):
        raise RunError(f"runs have no {unknown[0]} to choose by; there are {', '.join(FILTERS)}")
    if sort not in get_args(Sort):
        raise RunError(f"runs are not sorted by {sort!r}; there are {', '.join(get_args(Sort))}")
    if not root.is_dir():
        raise RunError(
            f"no folder {folder}: name one that holds runs, by its whole path, such as runs/ or runs/NAME/latest"
        )
    found = [
        run
        for run in _below(root, DEPTH)
        if all(fnmatch.fnmatchcase(str(getattr(run, name)), pattern) for name, pattern in wanted.items())
    ]
    found.sort(key=lambda run: str(run.folder))
    found.sort(key=lambda run: _key(run, sort), reverse=sort == "date")
    return found[::-1] if reverse else found


def _key(run: Run, sort: Sort) -> Any:
    if sort == "result":
        if run.value is None:
            return math.inf
        spec = SPECS.get(run.metric)
        return -run.value if spec is None or spec.higher_is_better else run.value
    if sort == "time":
        return math.inf if run.seconds is None else run.seconds
    return str(getattr(run, sort))


def read_run(folder: str | Path) -> Run:
    """The run in a folder, for which ``latest`` or its ``bundle`` may stand. Raises ``RunError``."""
    place = followed(folder)
    if place.name == "bundle" and (place / JSON_FILE).exists():
        place = place.parent
    run = _at(place) if place.is_dir() else None
    if run is None:
        raise RunError(
            f"there is no run in {folder}: name a run's folder by its whole path, such as runs/NAME/latest; "
            f"nextify runs lists them"
        )
    return run


def _below(folder: Path, depth: int) -> Iterator[Run]:
    try:
        if (run := _at(folder)) is not None:
            yield run
            return
        with os.scandir(folder) as entries:
            inner = [e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
    except OSError as error:
        yield Run(folder, "training", "broken", detail=f"{error.strerror or error}: check its permissions")
        return
    for name in inner if depth else ():
        yield from _below(folder / name, depth - 1)


def _at(folder: Path) -> Run | None:
    """The run of a folder; None where it holds none. Raises ``OSError``."""
    with os.scandir(folder) as entries:
        names = {entry.name for entry in entries}
    is_training = bool(names & _TRAINING)
    if not is_training and not names & _SEVERAL:
        return None
    files = [folder / name for name in names & (_TRAINING | _SEVERAL | {"log.jsonl"})]
    date = datetime.fromtimestamp(max(path.stat().st_mtime for path in files), UTC).isoformat(timespec="seconds")
    try:
        run = _training(folder) if is_training else _several(folder)
    except (ArithmeticError, AttributeError, LookupError, OSError, StopIteration, TypeError, ValueError) as error:
        said = str(error) if isinstance(error, RunError | OSError) else "its JSON is of another form"
        remedy = "" if isinstance(error, OSError) else "; the command that made it, given again, mends it"
        run = Run(folder, "training" if is_training else "study", "broken", detail=" ".join(said.split()) + remedy)
    return run and replace(run, date=date)


# -- one training --------------------------------------------------------------------------------------------------


def object_in(path: Path) -> Json:
    """The JSON object in a file; empty where there is no file. Raises ``RunError`` and ``OSError``."""
    try:
        check_regular([path])
        content = parse_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError:
        raise RunError(f"{path.name} is damaged") from None
    if not isinstance(content, dict):
        raise RunError(f"{path.name} is damaged")
    return content


def _training(folder: Path) -> Run:
    asked, found = object_in(folder / "recipe.json"), object_in(folder / "result.json")
    bundle = {}
    if not asked:  # of a study's trials: what the network says of itself
        bundle = object_in(folder / "bundle" / JSON_FILE) or object_in(folder / "bundle" / FOREIGN_JSON)
    data, recipe = asked.get("data", {}), (asked or bundle).get("recipe") or {}
    metrics = bundle.get("metrics") or [{}]
    run = Run(
        folder,
        "training",
        model=_text(asked.get("model", bundle.get("name", ""))),
        data=_text(data.get("name", metrics[0].get("dataset", ""))),
        task=_text(data.get("task", "classification" if asked or bundle else "")),
        recipe=_text(asked.get("recipe_name", "")),
        seed=asked.get("seed"),
        epochs=recipe.get("epochs"),
    )
    if not found:
        state: State = "running" if in_use(folder) else "stopped"
        return replace(run, state=state, step=_checkpoint_step(folder) or 0)
    metric = next(key.removeprefix("test_") for key in found["curve"][-1] if key.startswith("test_"))
    value, images = _number(found[metric]), found["test_images"]
    low, high = wilson(round(value * images / 100), images) if metric == "top1" else (None, None)
    return replace(
        run, state="finished", metric=metric, value=value, low=low, high=high, seconds=_number(found["seconds"])
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError
    return value


def in_use(folder: Path) -> bool:
    """Whether a process trains in ``folder``, by the lock that it holds there; False where the system has no locks."""
    try:
        import fcntl

        with open(folder / ".lock") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    except (ImportError, OSError):
        pass
    return False


class _Numbers(pickle.Unpickler):
    """Reads the plain values of a pickle and puts None for everything else; runs none of its code."""

    def find_class(self, module: str, name: str) -> Any:
        return collections.OrderedDict if name == "OrderedDict" else lambda *given: None

    def persistent_load(self, pid: object) -> None:
        return None


def _checkpoint_step(folder: Path) -> int | None:
    """Optimizer steps in a training's checkpoint (of torch's format: a ZIP file with a pickle), without its tensors."""
    for name in ("checkpoint.pt", "checkpoint.pt.before"):
        with suppress(Exception), zipfile.ZipFile(folder / name) as archive:  # whatever a cut file makes of them
            pickled = next(member for member in archive.namelist() if member.endswith("data.pkl"))
            with archive.open(pickled) as file:
                return int(_Numbers(file).load()["step"])
    return None


# -- several trainings ---------------------------------------------------------------------------------------------


def _several(folder: Path) -> Run | None:
    content = object_in(folder / "results.json")
    unfinished: State = "running" if in_use(folder) else "stopped"
    if "study" in content:
        return _study(folder, StudyResults.from_dict(content), unfinished)
    if "folds" in content:
        return _folds(folder, content, unfinished)
    if "models" in content and "settings" in content:
        return _comparison(folder, content, unfinished)
    if not (folder / "trials").is_dir():
        return None  # a results.json of somebody else's
    if (folder / "designs.json").exists() or (folder / "search.json").exists():
        return _ledger(folder, "search", unfinished)
    if (folder / "values.json").exists() or (folder / "attribution.json").exists():
        return _ledger(folder, "attribution", unfinished)
    trials = list((folder / "trials").iterdir())
    if not trials and unfinished == "stopped":
        return None  # what --dry-run leaves
    done = sum((trial / "result.json").exists() for trial in trials)
    return Run(folder, "study", unfinished, detail=f"{plural(done, 'training run')} finished")


def _ledger(folder: Path, kind: Literal["search", "attribution"], unfinished: State) -> Run:
    """A search or an attribution. Of most trainings only the figures are kept; a search keeps its final networks."""
    kept = {path.parent.name: object_in(path) for path in (folder / "trials").glob("*/result.json")}
    seconds = {name: _number(result["seconds"]) for name, result in kept.items() if result}  # none: just deleted
    found, known = object_in(folder / f"{kind}.json"), object_in(folder / "values.json")
    seconds |= {name: _number(took) for name, (_, took) in known.items()}
    return Run(
        folder,
        kind,
        "finished" if found and unfinished == "stopped" else unfinished,
        data=found.get("data", {}).get("name", ""),
        task="classification",
        seconds=sum(seconds.values()) or None,
        detail=f"{kind}, {plural(len(seconds), 'training run')}",
    )


def _within_percent(ends: tuple[float, float] | None) -> tuple[float | None, float | None]:
    """The ends of Student's interval of a percentage, which few seeds make wider than can be."""
    return (None, None) if ends is None else (max(ends[0], 0.0), min(ends[1], 100.0))


def _study(folder: Path, results: StudyResults, unfinished: State) -> Run:
    study, trained = results.study, [row for row in results.rows if row.trained]
    last = next((row for row in reversed(trained) if row.adopted), None)
    figures = [results.main(t) for t in results.trials if last and t.step == last.step]
    values = [figure for figure in figures if figure is not None]
    low, high = _within_percent(confidence_interval(values))
    done = sum(trial.status == "finished" for trial in results.trials)
    finished = done == len(results.trials)
    return Run(
        folder,
        "study",
        "finished" if finished else unfinished,
        model=study.regime,
        data=study.data.name,
        task=study.task,
        recipe="the paper's",
        epochs=study.recipes.get("modern", {}).get("epochs"),
        metric=results.metric.key,
        value=last.mean if last else None,
        low=low,
        high=high,
        seconds=sum(trial.seconds or 0.0 for trial in results.trials),
        detail=f"{plural(len(trained), 'step')}, {plural(done, 'training run')}"
        + ("" if finished else f" of {len(results.trials)}"),
    )


def _folds(folder: Path, content: Json, unfinished: State) -> Run:
    done = [fold for fold in content["folds"] if fold["seconds"] is not None]
    whole = len(done) == len(content["folds"])
    return Run(
        folder,
        "folds",
        "finished" if whole else unfinished,
        model=_text(content["model"]),
        data=_text(content["data"]),
        task="classification",
        recipe=_text(content["recipe_name"]),
        seed=content["seed"],
        epochs=content["epochs"],
        metric="top1",
        value=content["top1_mean"],
        low=content["top1_low"],
        high=content["top1_high"],
        seconds=sum(fold["seconds"] for fold in done),
        detail=("" if whole else f"{len(done)} of ") + plural(len(content["folds"]), "fold"),
    )


def _comparison(folder: Path, content: Json, unfinished: State) -> Run:
    settings, accuracy = content["settings"], content.get("accuracy")
    rows = [row for row in accuracy["rows"] if row.get("top1_mean") is not None] if accuracy else []
    networks = plural(len(content["models"]), "network")
    best: Json = max(rows, key=lambda row: _number(row["top1_mean"]), default={})
    ends = best.get("top1_low"), best.get("top1_high")
    low, high = _within_percent(None if None in ends else (_number(ends[0]), _number(ends[1])))
    return Run(
        folder,
        "comparison",
        "finished" if settings.get("complete", True) else unfinished,
        model=networks,
        data=_text(accuracy["data"]["name"]) if accuracy else "",
        task="classification",
        recipe=_text(accuracy["recipe_name"]) if accuracy else "",
        metric="top1" if best else "",
        value=best.get("top1_mean"),
        low=low,
        high=high,
        seconds=_number(settings["seconds"]),
        detail=networks + (f", best {best['model']}" if best else ""),
    )
