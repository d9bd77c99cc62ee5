"""Two trainings beside each other: what differed between them, and by how much the result did.

A paired test on the same test images tells whether the difference may be chance (McNemar 1947, in the exact form: among
the images that only one of two networks gets right, each is as likely to win as to lose).
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from nextify.data.preflight import read_split
from nextify.evaluation.metrics import unpacked
from nextify.study.results import Json
from nextify.study.runs import Run, RunError, object_in, read_run
from nextify.study.statistics import McNemar, mcnemar
from nextify.system.files import JSON_FILE

_NOT_VERSIONS = ("date", "memory_gib")
_NAMED = {"weights": "start", "minutes": "epochs", "mask_ratio": "ratio"}
"""Fields of a request by the names that they have in a trial, where these differ."""
_AROUND = ("backbone.", "encoder.")
"""Where a design lies in that of a detector, a segmenter or a masked autoencoder."""


class Difference(NamedTuple):
    """One setting that is not the same; None where one of the two does not have it."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True)
class RunDifferences:
    """What differed between two training runs, and their results."""

    before: Run
    after: Run
    settings: tuple[Difference, ...]
    """Of design, recipe, seed and starting weights: what was asked for, where that is known."""
    followed: tuple[Difference, ...]
    """What the fit made of these settings, or of other data."""
    data: tuple[Difference, ...]
    versions: tuple[Difference, ...]
    """Of packages, and of the machine."""
    runtime: tuple[Difference, ...]
    images: str
    """Whether the test images were the same, in words."""
    paired: McNemar | None
    """On the same test images; None where they are not, or where it is not known which each gets right."""

    @property
    def change(self) -> float | None:
        """Of the main metric, ``after`` minus ``before``; None where either has none."""
        a, b = self.before, self.after
        return None if a.value is None or b.value is None or a.metric != b.metric else b.value - a.value

    def to_dict(self) -> dict[str, object]:
        parts = ("settings", "followed", "data", "versions", "runtime")
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            **{part: [one._asdict() for one in getattr(self, part)] for part in parts},
            "change": self.change,
            "images": self.images,
            "paired": self.paired and asdict(self.paired),
        }


@dataclass(frozen=True)
class _Training:
    run: Run
    asked: Json
    found: Json
    trial: Json
    """Everything that decides the result but the images, flat but for settings with parts."""
    data: Json

    @classmethod
    def of(cls, folder: str | Path) -> Self:
        run = read_run(folder)
        if run.state == "broken":
            raise RunError(f"{folder} is broken: {run.detail}")
        if run.kind != "training":
            kind = "cross-validation" if run.kind == "folds" else run.kind
            raise RunError(f"{folder} is a {kind}, but diff compares training runs: name one in {folder}/trials")
        asked = object_in(run.folder / "recipe.json")
        trial = asked or object_in(run.folder / "bundle" / JSON_FILE)
        data = dict(asked["data"]) if "data" in asked else _of_several(run.folder)
        network = {key: data.pop(key) for key in ("image_size", "canvas", "mean", "std") if key in data}
        others = {key: asked.get(key) for key in ("seed", "start", "frozen_stages", "accumulation")}
        decided = {**_object(trial, "design"), **_object(trial, "recipe"), **network, **others}
        return cls(run, asked, object_in(run.folder / "result.json"), decided, data)

    def part(self, name: str, without: tuple[str, ...] = ()) -> Json:
        return {key: value for key, value in _object(self.found, name).items() if key not in without}


def diff_runs(before: str | Path, after: str | Path) -> RunDifferences:
    """Return what differed between two training runs, by their folders (or ``runs/NAME/latest``), and by how much.

    Raises:
        RunError: a folder without a training run.
    """
    a, b = _Training.of(before), _Training.of(after)
    decided = {one.name: one for one in _differences(a.trial, b.trial)}
    known = bool(a.data and b.data)
    same_data = known and a.data.get("fingerprint") == b.data.get("fingerprint")
    data = () if same_data else tuple(_differences(a.data, b.data))
    if not known:
        data = (Difference("images", *(one.data.get("name", "unknown") for one in (a, b))),)
    settings = list(_asked(a, b, decided))
    if not settings and (same_data or not known):
        settings = list(decided.values())
    names = {one.name for one in settings}
    images, paired = _on_the_same_images(a, b, same_data)
    return RunDifferences(
        *(a.run, b.run, tuple(settings), tuple(one for one in decided.values() if one.name not in names)),
        data,
        tuple(_differences(a.part("environment", _NOT_VERSIONS), b.part("environment", _NOT_VERSIONS)))
        if a.found and b.found
        else (),
        tuple(_differences(a.part("runtime"), b.part("runtime"))) if a.found and b.found else (),
        images,
        paired,
    )


def _of_several(folder: Path) -> Json:
    """The images of a study's or a cross-validation's training, which the files of all of them tell."""
    content = object_in(folder.parent.parent / "results.json") if folder.parent.name == "trials" else {}
    for fold in content.get("folds", ()):
        if folder.name.startswith(f"fold{fold['fold']}-") and "fingerprint" in fold:
            number = f"{fold['fold']} of {len(content['folds'])}"
            return {"name": content["data"], "fold": number, "fingerprint": fold["fingerprint"]}
    return _object(_object(content, "study"), "data")


def _object(content: Json, key: str) -> Json:
    found = content.get(key)
    return found if isinstance(found, dict) else {}


def _differences(a: Json, b: Json, within: str = "") -> Iterator[Difference]:
    """Setting by setting; one of another kind (another optimizer, mixing off) is one difference as a whole."""
    for key in dict.fromkeys((*a, *b)):
        one, other, name = a.get(key), b.get(key), f"{within}{key}"
        if isinstance(one, dict) and isinstance(other, dict) and one.get("kind") == other.get("kind"):
            yield from _differences(one, other, f"{name}.")
        elif one != other:
            yield Difference(name, one, other)


def _asked(a: _Training, b: _Training, decided: Mapping[str, Difference]) -> Iterator[Difference]:
    """What the two requests ask for differently, as far as it made a difference."""
    requests = [_object(one.asked, "request") for one in (a, b)]
    if not all(requests):
        return
    named = {"model", "recipe", "scale", "settings"}
    stated = [{k: v for k, v in {**r, **_object(r, "settings")}.items() if k not in named} for r in requests]
    given = dict.fromkeys(one.name for one in _differences(stated[0], stated[1]))
    found: dict[str, Difference] = {}
    for name in (_NAMED.get(name, name) for name in given):
        found |= {n: d for n, d in decided.items() if _is_part(_within_design(n), name)}
    for name, key in (("model", "model"), ("scale", "scale"), ("recipe", "recipe_name")):
        one, other = ((t.asked if key in t.asked else r).get(key) for t, r in zip((a, b), requests, strict=True))
        if name == "scale" and any(r.get("weights") for r in requests):
            continue  # weights bring their own design, whatever it was scaled to
        if one != other and decided:
            yield Difference(name, one, other)
    yield from found.values()


def _within_design(name: str) -> str:
    """The name of a setting as it is given, whatever the design lies in."""
    return next((name.removeprefix(around) for around in _AROUND if name.startswith(around)), name)


def _is_part(name: str, given: str) -> bool:
    """Whether a setting is one that was given, a part of it, or what it is a part of."""
    return name == given or name.startswith(f"{given}.") or given.startswith(f"{name}.")


def _on_the_same_images(a: _Training, b: _Training, same_data: bool) -> tuple[str, McNemar | None]:
    if not a.found or not b.found:
        unfinished = " and ".join(str(t.run.folder) for t in (a, b) if not t.found)
        return f"no result of {unfinished} yet", None
    matched = "" if same_data or a.found["test_images"] != b.found["test_images"] else _matched(a, b)
    if not same_data and not matched:
        unknown = "" if a.data and b.data else " as far as their folders tell"
        return f"the test images are not the same{unknown}, so the results cannot be compared image by image", None
    count = a.found["test_images"]
    told = f"the same {count:,} test images" + (f" (matched by {matched}; other training data)" if matched else "")
    if a.run.metric != "top1" or b.run.metric != "top1":
        return f"{told}; the paired test is for classification only", None
    rights = [unpacked(t.found.get("right"), count, t.run.value or 0.0) for t in (a, b)]
    if rights[0] is None or rights[1] is None:
        lacking = [str(t.run.folder) for t, right in zip((a, b), rights, strict=True) if right is None]
        return f"{told}, but it was not recorded which of them {' and '.join(lacking)} gets right", None
    return told, mcnemar(rights[0], rights[1])


def _matched(a: _Training, b: _Training) -> str:
    """By what the test images of two split.csv are known to be the same ones in one order; empty where they are not."""
    one, other = (read_split(training.run.folder).get("test", []) for training in (a, b))
    named = a.run.metric in ("ap", "miou")  # split.csv has no boxes or masks
    if not one or [row.label for row in one] != [row.label for row in other]:
        return ""
    if all(row.digest for row in (*one, *other)):
        same = [row.digest for row in one] == [row.digest for row in other]
        return ("content" if named else "content and label") if same else ""
    if [row.path for row in one] != [row.path for row in other]:
        return ""
    return "name" if named else "name and label"
