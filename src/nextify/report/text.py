"""Figures and facts as words: the one place where the table, the figure and the page take their wording from.

Numbers are rounded here and nowhere else. An absent one is an en dash, a minus is a minus sign. No dependencies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Results = Mapping[str, Any]
Row = Mapping[str, Any]

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
    """``95.12 ± 0.40``, without the spread where one seed has none."""
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


def listing(parts: list[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def study(results: Results) -> Mapping[str, Any]:
    return results.get("study") or {}


def data(results: Results) -> Mapping[str, Any]:
    return study(results).get("data") or {}


def environment(results: Results) -> Mapping[str, Any]:
    return results.get("environment") or {}


def rows(results: Results) -> list[Row]:
    return list(results.get("rows") or [])


def trials(results: Results) -> list[Row]:
    return list(results.get("trials") or [])


def adopted(row: Row) -> bool:
    return bool(row.get("adopted", True))


def title(row: Row) -> str:
    return str(row.get("title") or row.get("step") or "?")


def marked(row: Row) -> str:
    """The title, with ○ before a step that is only explored."""
    return title(row) if adopted(row) else f"○ {title(row)}"


def trained(row: Row) -> bool:
    return row.get("top1_mean") is not None


def groups(results: Results) -> list[tuple[str, list[Row]]]:
    """Neighbouring rows of the same section of the paper's Figure 2, in order; ``group`` in a row goes first."""
    from nextify.paper.roadmap import ROADMAPS

    roadmap = ROADMAPS.get(str(study(results).get("regime")))
    known = {r.name: r.group for r in roadmap} if roadmap else {}
    found: list[tuple[str, list[Row]]] = []
    for row in rows(results):
        group = str(row.get("group") or known.get(str(row.get("step")), "Steps"))
        if not found or found[-1][0] != group:
            found.append((group, []))
        found[-1][1].append(row)
    return found


def data_name(results: Results) -> str:
    return str(data(results).get("name") or "the images")


def path_title(results: Results) -> str:
    """``ResNet-50 → ConvNeXt-T``: the roadmap that was walked."""
    regimes = {"resnet50": "ResNet-50 → ConvNeXt-T", "resnet200": "ResNet-200 → ConvNeXt-B"}
    regime = str(study(results).get("regime") or "")
    return regimes.get(regime, regime or "ResNet → ConvNeXt")


def seeds_phrase(results: Results) -> str:
    seeds = list(study(results).get("seeds") or [])
    if len(seeds) == 1:
        return f"once (seed {seeds[0]})"
    return f"{len(seeds)} times each (seeds {listing([str(s) for s in seeds])})" if seeds else "–"


def what_was_trained(results: Results) -> str:
    """One sentence: how many networks, how often, on which images, at which size."""
    d, s = data(results), study(results)
    size = s.get("image_size")
    facts = [f"{whole(d['classes'])} classes" if d.get("classes") else "", f"{size}×{size} pixels" if size else ""]
    described = ", ".join(f for f in facts if f)
    number, planned = len(rows(results)), len(rows(results)) * len(s.get("seeds") or [])
    finished = sum(int(r.get("n") or 0) for r in rows(results))
    progress = f"; {finished} of {planned} trainings are finished" if finished < planned else ""
    return (
        f"{number} network{'s' if number != 1 else ''} from {path_title(results)} at scale “{s.get('scale', ABSENT)}”, "
        f"trained {seeds_phrase(results)} on {whole(d.get('train_images'))} images of {data_name(results)}"
        f"{f' ({described})' if described else ''} and tested on {whole(d.get('test_images'))} others"
        f"{progress}."
    )


def outcome(results: Results) -> str:
    """First adopted row against the last one, or an empty string while either is missing."""
    path = [r for r in rows(results) if adopted(r)]
    if len(path) < 2 or not (trained(path[0]) and trained(path[-1])):
        return ""
    first, last = path[0], path[-1]
    return (
        f"Top-1 went from {mean_std(first['top1_mean'], first.get('top1_std'))} % ({title(first)}) to "
        f"{mean_std(last['top1_mean'], last.get('top1_std'))} % ({title(last)})."
    )


def hardware(results: Results) -> str:
    e = environment(results)
    parts = []
    if e.get("gpu"):
        parts.append(str(e["gpu"]))
    if e.get("cpu"):
        cores = e.get("cores")
        parts.append(f"{e['cpu']}" + (f" ({cores} core{'s' if cores != 1 else ''})" if cores else ""))
    if e.get("trials_side_by_side") and e.get("threads_per_trial"):
        side, threads = e["trials_side_by_side"], e["threads_per_trial"]
        parts.append(
            f"{side} trial{'s' if side != 1 else ''} side by side, {threads} thread{'s' if threads != 1 else ''} each"
        )
    return ", ".join(parts) or ABSENT


def versions(results: Results) -> str:
    e = environment(results)
    return ", ".join(f"{n} {e[n]}" for n in ("nextify", "python", "torch", "torchvision", "timm") if e.get(n)) or ABSENT


def date(results: Results) -> str:
    return str(environment(results).get("date") or study(results).get("finished") or ABSENT)[:10]


def provenance(results: Results) -> str:
    """Command, hardware, versions, date and n: what a published figure has to carry, in Markdown's plain text."""
    s = study(results)
    parts = [
        "n = 1 seed" if len(s.get("seeds") or []) == 1 else f"n = {len(s.get('seeds') or [])} seeds",
        hardware(results),
        versions(results),
        date(results),
    ]
    if s.get("seconds") is not None:
        parts.insert(2, duration(s["seconds"]))
    return " · ".join(p for p in parts if p != ABSENT)


def notes(results: Results) -> list[str]:
    """What has to be said beneath a table of these results: n, what the columns are, what can be concluded."""
    from nextify.study.statistics import binomial_standard_error, holm, seeds_needed, smallest_possible_p

    every = rows(results)
    seeds = list(study(results).get("seeds") or [])
    n = len(seeds)
    lines = []
    unfinished = [r for r in every if (r.get("n") or 0) < n]
    if unfinished:
        lines.append(
            f"Unfinished: {len(unfinished)} of {len(every)} steps have fewer than {n} trained seeds "
            f"({listing([title(r) for r in unfinished[:4]] + (['others'] if len(unfinished) > 4 else []))})."
        )
    if n == 1:
        lines.append("n = 1: one training per step, so there is no spread, and a change may be that of the seed.")
    elif n:
        lines.append(
            f"n = {n} seeds: mean ± sample standard deviation. [low, high]: 95 % confidence interval of the change, "
            f"Student's t on the {n} paired differences."
        )
    if any(not adopted(r) for r in every):
        lines.append(
            "○ Explored only: the next step does not build on it. A change is against the row it was made from."
        )
    verdicts = {v: [r for r in every if r.get("verdict") == v] for v in ("higher", "lower")}
    needed = seeds_needed()
    if 0 < n < needed:
        lines.append(
            f"No change here can be told from chance: with {n} paired seed{'s' if n != 1 else ''} a two-sided "
            f"sign-flip test cannot go below p = {smallest_possible_p(n):.2g}; {needed} paired seeds would do."
        )
    elif n:
        told = [f"{v} after {listing([title(r) for r in found])}" for v, found in verdicts.items() if found]
        lines.append(
            f"Sign-flip test, p < 0.05 for each step alone: "
            f"{'; '.join(told) if told else 'no step can be told from chance'}."
        )
        corrected = holm({str(r.get("step")): r.get("p_value") for r in every})
        tests = sum(p is not None for p in corrected.values())
        if told and tests > 1:
            kept = [title(r) for found in verdicts.values() for r in found if (corrected[str(r["step"])] or 0) < 0.05]
            lines.append(
                f"With Holm's correction over the {tests} comparisons together, "
                f"{listing(kept) if kept else 'no step'} stay{'s' if len(kept) < 2 else ''} below 0.05."
            )
    images, means = data(results).get("test_images"), [r["top1_mean"] for r in every if trained(r)]
    if images and means:
        error = binomial_standard_error(min(max(sum(means) / len(means), 0.0), 100.0), int(images))
        lines.append(
            f"{whole(images)} test images: on others of the same kind an accuracy would move by about {error:.2f} "
            f"points (binomial standard error), which the spread over seeds does not show."
        )
    lines.append("“Paper” is ImageNet-1K at full size: another data set and scale, to be compared in direction only.")
    return lines
