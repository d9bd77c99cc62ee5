"""Numbers, facts and findings as words: tables, figures and pages all take their wording from here.

Numbers are rounded only here. An absent one is an en dash, a minus is a minus sign.
"""

import itertools
from collections.abc import Mapping

from nextify.paper.roadmap import ROADMAPS
from nextify.study.looks import LOOKS
from nextify.study.results import CLASSIFICATION, StepResult, StudyResults, StudySettings
from nextify.study.statistics import binomial_standard_error, holm, seeds_needed, smallest_possible_p
from nextify.system.text import plural

ABSENT = "–"
PAPER = "Liu et al., “A ConvNet for the 2020s”, CVPR 2022, arXiv 2201.03545v2"


def percent(value: float | None, decimals: int = 2) -> str:
    """``95.12``: percent without its sign."""
    return ABSENT if value is None else f"{value:.{decimals}f}"


def signed(value: float | None, decimals: int = 2) -> str:
    """``+0.20`` or ``−0.20``; a change that rounds to nothing has no sign."""
    if value is None:
        return ABSENT
    text = f"{abs(value):.{decimals}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else "−") + text


def mean_std(mean: float | None, std: float | None) -> str:
    """``95.12 ± 0.40``; only the mean where there is no spread."""
    return percent(mean) if mean is None or std is None else f"{percent(mean)} ± {percent(std)}"


def interval(low: float | None, high: float | None) -> str:
    """``[−0.50, +0.90]``, or nothing."""
    return "" if low is None or high is None else f"[{signed(low)}, {signed(high)}]"


def count(value: float | None) -> str:
    """``25.6 M``: three significant digits with k, M or G."""
    if value is None:
        return ABSENT
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f}{unit}"
    return f"{value:.0f}"


def whole(value: float | None) -> str:
    """``1,234``."""
    return ABSENT if value is None else f"{value:,.0f}"


def three_digits(value: float) -> str:
    """``9,221``, ``18.3`` or ``0.153``: at least three significant digits."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def rate(per_second: float) -> str:
    """``1,234`` or, below ten, with two significant digits: ``0.15``."""
    return f"{per_second:,.0f}" if per_second >= 9.95 else f"{per_second:.2g}"


def duration(seconds: float | None) -> str:
    """``1 h 02 min``, ``3 min 20 s``, ``26.0 s``."""
    if seconds is None:
        return ABSENT
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def sentence(words: str) -> str:
    """As a sentence begins: ``Accuracy``, ``mIoU``."""
    return words[0].upper() + words[1:] if words.split()[0].islower() else words


def pixels(study: StudySettings) -> str:
    """What the networks see, width by height: ``32×32``; empty where it is not known."""
    if study.canvas is not None:
        height, width = study.canvas
        return f"{width}×{height}"
    return f"{study.image_size}×{study.image_size}" if study.image_size else ""


def listing(parts: list[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def cell(value: str | float | bool | None) -> str:
    """A value of any type as it stands in a table."""
    match value:
        case None | "":
            return ABSENT
        case bool():
            return "yes" if value else "no"
        case int():
            return whole(value)
        case float():
            return percent(value)
        case _:
            return value


def marked(step: StepResult) -> str:
    """The title, with ○ before a step that is only explored."""
    return step.name if step.adopted else f"○ {step.name}"


def css(step: StepResult) -> str:
    """CSS class of a step's line."""
    return "" if step.adopted else "explored"


def accuracy(step: StepResult) -> str:
    """``95.12 ± 0.40`` of the main metric, or that there is none yet."""
    return mean_std(step.mean, step.std) if step.trained else "not trained"


def change(step: StepResult) -> str:
    """``+0.20 [−0.50, +0.90]``."""
    return f"{signed(step.change)} {interval(*step.interval)}".strip()


def crossed(results: StudyResults) -> bool:
    """Whether the verdicts are for new seeds and new images (``study.crossed``)."""
    return any(step.p_crossed is not None for step in results.rows)


def verdicts(results: StudyResults) -> list[str]:
    """A sentence about each step that was compared; none of results of earlier versions, whose notes sum them up."""
    return [step.conclusion for step in results.rows if step.conclusion] if crossed(results) else []


def groups(results: StudyResults) -> list[tuple[str, list[StepResult]]]:
    """Neighbouring steps of the same section of the paper's Figure 2, in order."""
    return [(name, list(steps)) for name, steps in itertools.groupby(results.rows, lambda step: step.group)]


def path_title(results: StudyResults) -> str:
    """``ResNet-50 → ConvNeXt-T``: the roadmap of the study."""
    regime = results.study.regime
    return ROADMAPS[regime].title if regime in ROADMAPS else regime or "ResNet → ConvNeXt"


def study_title(results: StudyResults) -> str:
    """The roadmap and the images, and what is learned of them other than their classes."""
    task = results.study.task
    learned = "" if task == CLASSIFICATION else f", {task}"
    return f"{path_title(results)} on {results.study.data.name}{learned}"


def _planned(results: StudyResults) -> list[int]:
    """The seeds planned for each step."""
    return [len(results.study.seeds) if step.seeds is None else step.seeds for step in results.rows]


def n_seeds(results: StudyResults) -> str:
    """``6 seeds``, or ``6 to 14 seeds`` where not every step has as many."""
    planned = _planned(results)
    if len(set(planned)) > 1:
        return f"{min(planned)} to {max(planned)} seeds"
    return plural(len(results.study.seeds), "seed")


def _seeds_phrase(results: StudyResults) -> str:
    seeds, planned = results.study.seeds, _planned(results)
    if len(set(planned)) > 1:
        return f"{min(planned)} to {max(planned)} times each (seeds {seeds[0]} to {seeds[-1]})"
    if len(seeds) == 1:
        return f"once (seed {seeds[0]})"
    return f"{len(seeds)} times each (seeds {listing([str(s) for s in seeds])})" if seeds else ABSENT


def what_was_trained(results: StudyResults) -> str:
    """One sentence: how many networks, how often, on which images, at which size."""
    s, d = results.study, results.study.data
    facts = [f"{whole(d.classes)} classes"] if d.classes else []
    facts += [f"{size} pixels"] if (size := pixels(s)) else []
    described = f" ({', '.join(facts)})" if facts else ""
    planned, finished = sum(_planned(results)), sum(step.n for step in results.rows)
    progress = f"; {finished} of {planned} runs are finished" if finished < planned else ""
    networks = plural(len(results.rows), "network")
    if s.head is not None:
        networks = f"{len(results.rows)} {s.head} {s.task} heads on networks"
    return (
        f"{networks} from {path_title(results)} at scale “{s.scale or ABSENT}”, trained "
        f"{_seeds_phrase(results)} on {whole(d.train_images)} images of {d.name}"
        f"{described} and tested on {whole(d.test_images)} others{progress}."
    )


def outcome(results: StudyResults) -> str:
    """The first adopted step against the last one, or an empty string while either is missing."""
    path = [step for step in results.rows if step.adopted]
    if len(path) < 2 or not (path[0].trained and path[-1].trained):
        return ""
    first, last = path[0], path[-1]
    title, unit = sentence(results.metric.title), results.metric.unit
    return f"{title} went from {accuracy(first)} {unit} ({first.name}) to {accuracy(last)} {unit} ({last.name})."


def hardware(results: StudyResults) -> str:
    """GPU, CPU and how trials shared them."""
    e = results.environment
    parts = [str(e["gpu"])] if e.get("gpu") else []
    if e.get("cpu"):
        cores = e.get("cores")
        parts.append(f"{e['cpu']}" + (f" ({plural(int(cores), 'core')})" if cores else ""))
    side, threads = e.get("trials_side_by_side"), e.get("threads_per_trial")
    if side and threads:
        parts.append(f"{plural(int(side), 'trial')} side by side, {plural(int(threads), 'thread')} each")
    return ", ".join(parts) or ABSENT


def versions(environment: Mapping[str, object]) -> str:
    """Of the packages that decide a result."""
    names = ("nextify", "python", "torch", "torchvision", "timm")
    return ", ".join(f"{name} {environment[name]}" for name in names if environment.get(name)) or ABSENT


def provenance(results: StudyResults) -> str:
    """What a published figure has to carry: n, hardware, time, versions and date."""
    s = results.study
    date = str(results.environment.get("date") or s.finished or ABSENT)[:10]
    parts = [f"n = {n_seeds(results)}", hardware(results), duration(s.seconds), versions(results.environment), date]
    return " · ".join(p for p in parts if p != ABSENT)


def on_other_images(images: int | None, error: float) -> str:
    """How far an accuracy depends on the test images; ``error``: its binomial standard error."""
    return (
        f"On {whole(images)} other test images of the same kind, an accuracy would move by about {error:.2f} points "
        "(binomial standard error)"
    )


def notes(results: StudyResults) -> list[str]:
    """The sentences beneath a table: n, what the columns mean, and what can be concluded."""
    n, steps = len(results.study.seeds), results.rows
    unfinished = [step.name for step, planned in zip(steps, _planned(results), strict=True) if step.n < planned]
    lines = []
    if unfinished:
        few = (
            f"fewer than {n} trained seeds" if len(set(_planned(results))) == 1 else "fewer trained seeds than planned"
        )
        lines.append(
            f"Unfinished: {len(unfinished)} of {len(steps)} steps have {few} "
            f"({listing(unfinished[:4] + (['others'] if len(unfinished) > 4 else []))})."
        )
    if n == 1:
        lines.append("n = 1: one run per step, so there is no spread, and a change may be due to the seed.")
    elif n:
        how = "for new seeds and new test images" if crossed(results) else f"Student's t on the {n} paired differences"
        lines.append(
            f"n = {n_seeds(results)}: mean ± sample standard deviation. [low, high]: 95 % confidence interval of the "
            f"change, {how}."
        )
    if not all(step.adopted for step in steps):
        lines.append(
            "○ Explored only: the next step does not build on it. Its change is relative to the row it was made from."
        )
    lines += _verdicts(results)
    images, means = results.study.data.test_images, [step.mean for step in steps if step.mean is not None]
    if images and means and results.metric.share_of_images:
        error = binomial_standard_error(min(max(sum(means) / len(means), 0.0), 100.0), images)
        counted = "; the intervals of changes include it" if crossed(results) else ""
        lines.append(f"{on_other_images(images, error)}, which the spread over seeds does not show{counted}.")
    task = "" if results.study.task == CLASSIFICATION else "classification of "
    other = "other images at another scale" if not task else "another task, other images, another scale"
    return [*lines, f"“Paper” is {task}ImageNet-1K at full size: {other}; compare directions only."]


def _verdicts(results: StudyResults) -> list[str]:
    n, needed = len(results.study.seeds), seeds_needed()
    if n == 0:
        return []
    if crossed(results):
        return _rules(results)
    if n < needed:
        return [
            f"No change here can be told from chance: with {plural(n, 'paired seed')} a two-sided sign-flip test "
            f"cannot go below p = {smallest_possible_p(n):.2g}; {needed} paired seeds would do."
        ]
    told = {v: [step for step in results.rows if step.verdict == v] for v in ("higher", "lower")}
    said = [f"{v} after {listing([step.name for step in found])}" for v, found in told.items() if found]
    lines = [f"Sign-flip test, p < 0.05 for each step alone: {'; '.join(said) or 'no step can be told from chance'}."]
    corrected = holm({step.step: step.p_value for step in results.rows})
    tests = sum(p is not None for p in corrected.values())
    if said and tests > 1:
        kept = [step.name for found in told.values() for step in found if (corrected[step.step] or 0) < 0.05]
        lines.append(
            f"With Holm's correction over the {tests} comparisons together, "
            f"{listing(kept) if kept else 'no step'} stay{'s' if len(kept) < 2 else ''} below 0.05."
        )
    return lines


def _rules(results: StudyResults) -> list[str]:
    """By what rules verdicts for new seeds and images hold."""
    tests = sum(step.p_crossed is not None for step in results.rows)
    together = f" and Holm’s correction over the {tests} comparisons" if tests > 1 else ""
    lines = [
        f"Verdicts are for new seeds and new test images, by crossed random effects{together}: the chance of even one "
        "false “higher” or “lower” is at most 5 %, if the effects of seeds follow a bell curve."
    ]
    if not results.metric.share_of_images:
        lines.append(
            f"A single image has no {results.metric.title}: its score is how much that of all images would change "
            "without it (jackknife), an approximation that needs many test images."
        )
    if (first := results.study.first_look) is not None:
        lines.append(
            f"Seeds were added to undecided steps, in at most {LOOKS} looks, the first with {first} seeds; the 5 % is "
            "shared among the looks."
        )
    pairs, needed = min(_planned(results)), seeds_needed()
    if pairs < needed:
        lines.append(
            f"A two-sided sign-flip test needs no bell curve, but with {plural(pairs, 'paired seed')} it "
            f"cannot go below p = {smallest_possible_p(pairs):.2g}; {needed} would do."
        )
    return lines
