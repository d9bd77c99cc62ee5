"""What a study's page draws of each step: its seeds as dots, paired with those of the step before, and its curves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nextify.report import text
from nextify.study.results import StepResult, StudyResults, TrialResult

WIDTH, HEIGHT = 100.0, 44.0
"""Of a drawing, in its own units."""


@dataclass(frozen=True)
class Dot:
    """A seed's figure on the common axis, from 0 to ``WIDTH``, and that of the step before where it has one."""

    seed: int
    value: float
    x: float
    before: float | None


@dataclass(frozen=True)
class Curves:
    """One line per seed as SVG points, y from the lowest value of all steps (``HEIGHT``) to the highest (0)."""

    label: str
    lines: Sequence[str]
    low: float
    high: float
    epochs: int


@dataclass(frozen=True)
class Card:
    """One step."""

    step: StepResult
    css: str
    compared_with: str
    dots: Sequence[Dot]
    curves: Sequence[Curves]
    bundles: Sequence[tuple[int, str]]
    """(seed, address beside the page) of each network that is there."""


def axis(results: StudyResults) -> tuple[float, float] | None:
    """The lowest and highest figure of all trials, which the dots of all steps share; None without any."""
    found = [value for trial in results.trials if (value := results.main(trial)) is not None]
    return (min(found), max(found)) if found else None


def cards(results: StudyResults, folder: Path | None = None) -> list[Card]:
    """A card per step that has a finished trial; ``folder``: of the page, where networks are looked for."""
    trials: dict[str, list[TrialResult]] = {}
    for trial in results.trials:
        if results.main(trial) is not None:
            trials.setdefault(trial.step, []).append(trial)
    names = {step.step: step.name for step in results.rows}
    low, high = axis(results) or (0.0, 0.0)

    def place(value: float | None) -> float | None:
        return None if value is None else round(WIDTH * (value - low) / ((high - low) or 1.0), 1)

    made = []
    for step in results.rows:
        own = trials.get(step.step, [])
        before = {trial.seed: results.main(trial) for trial in trials.get(step.compared_with or "", [])}
        values = [(t.seed, value) for t in own if (value := results.main(t)) is not None]
        dots = [Dot(seed, value, place(value) or 0.0, place(before.get(seed))) for seed, value in values]
        bundles = [(t.seed, f"trials/{t.folder}/bundle") for t in own]
        made.append(
            Card(
                *(step, text.css(step), names.get(step.compared_with or "", ""), dots, _curves(results, own)),
                [(seed, path) for seed, path in bundles if folder and (folder / path).is_dir()],
            )
        )
    return [card for card in made if card.dots]


def _curves(results: StudyResults, trials: Sequence[TrialResult]) -> list[Curves]:
    made = []
    metric = results.metric
    for key, label in (("train_loss", "training loss"), ("test", f"test {metric.title}, {metric.unit}")):
        everything = [getattr(p, key) for t in results.trials for p in t.curve if getattr(p, key) is not None]
        epochs = max((p.epoch for t in results.trials for p in t.curve), default=0)
        if not everything or epochs < 2:
            continue
        low, high = min(everything), max(everything)

        def point(epoch: int, value: float, low: float = low, high: float = high, epochs: int = epochs) -> str:
            up = (value - low) / ((high - low) or 1.0)
            return f"{WIDTH * (epoch - 1) / (epochs - 1):.1f},{HEIGHT * (1 - up):.1f}"

        measured = ([(p.epoch, getattr(p, key)) for p in t.curve if getattr(p, key) is not None] for t in trials)
        if lines := [" ".join(point(*p) for p in points) for points in measured if len(points) > 1]:
            made.append(Curves(label, lines, low, high, epochs))
    return made
