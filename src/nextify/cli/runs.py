"""``nextify runs [FOLDER]`` and ``nextify runs diff A B``: what was trained, how it went, and what differed."""

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction

from nextify.cli.options import Json, unset
from nextify.cli.printing import print_columns, print_json
from nextify.report.text import ABSENT, duration, percent, signed
from nextify.study.run_differences import Difference, RunDifferences, diff_runs
from nextify.study.runs import FILTERS, Run, RunError, Sort, runs
from nextify.system.text import printable
from nextify.tasks.metric_specs import SPECS, TITLES

HEADER = ("run", "data", "recipe", "result", "time", "state")
FOLLOWED = "changed by the fit as a result"


@dataclass(frozen=True)
class Options:
    """List the training runs, studies, cross-validations and comparisons in a folder, the newest first.

    nextify runs diff A B shows what differed between two training runs (folders, or the latest of a name such as
    runs/NAME/latest) and, if both used the same test images, tests whether their results differ (docs/runs.md).
    """

    what: Annotated[Positional[tuple[str, ...]], unset(metavar="[FOLDER | diff A B]")] = ()
    """Folder to search, up to three levels deep; by default runs. Or diff and two training runs."""
    where: Annotated[UseAppendAction[tuple[str, ...]], unset(metavar="FIELD=PATTERN")] = ()
    """Only runs that match, e.g. --where data=digits --where model='convnext_*' --where state=stopped; fields: kind,
    state, data, model, task, recipe, folder."""
    sort: Sort = "date"
    """Sort order; results best first, dates newest first."""
    reverse: bool = False
    """Reverse the order."""
    json: Json = False

    def check(self) -> None:
        """Raises ``RunError`` for arguments that make no sense."""
        if self.what[:1] == ("diff",) and len(self.what) != 3:
            raise RunError(f"nextify runs diff takes two training runs, A and B, got {len(self.what) - 1}")
        if self.what[:1] != ("diff",) and len(self.what) > 1:
            raise RunError(
                f"nextify runs takes one folder, got {' '.join(self.what)}; two training runs: nextify runs diff A B"
            )
        if self.what[:1] == ("diff",) and (self.where or self.sort != "date" or self.reverse):
            raise RunError("--where, --sort and --reverse are for the list of runs: leave them out with diff")
        self.wanted()

    def wanted(self) -> dict[str, str]:
        """``--where`` as ``{field: pattern}``."""
        found = {}
        for text in self.where:
            name, equals, pattern = text.partition("=")
            if not equals or name not in FILTERS:
                raise RunError(f"--where takes FIELD=PATTERN, the fields being {', '.join(FILTERS)}; got {text!r}")
            found[name] = pattern
        return found


def run(options: Options) -> int:
    if options.what[:1] == ("diff",):
        differences = diff_runs(*options.what[1:])
        if differences.before.folder.resolve() == differences.after.folder.resolve():
            raise RunError(f"{' and '.join(map(printable, options.what[1:]))} are the same run: name two")
        if options.json:
            print_json(differences.to_dict())
        else:
            _print_differences(differences)
        return 0
    folder = options.what[0] if options.what else "runs"
    found = runs(folder, sort=options.sort, reverse=options.reverse, where=options.wanted())
    if options.json:
        print_json([one.to_dict() for one in found])
    elif not found:
        print(f"no runs in {printable(folder)}" + (" that match" if options.where else ""))
    else:
        _print_runs(found, Path(folder))
    return 0


def _print_runs(found: Sequence[Run], folder: Path) -> None:
    """A table; in a terminal that is too narrow for it, each run's name on a line of its own. Broken runs follow."""
    rows = [(_name(one, folder), *_cells(one)) for one in found if one.state != "broken"]
    widths = [max(map(len, column)) for column in zip(HEADER, *rows, strict=True)]
    if not sys.stdout.isatty() or sum(widths) + 2 * len(widths) - 2 <= shutil.get_terminal_size().columns:
        lines: list[tuple[str, ...]] = [HEADER, *rows] if rows else []
    else:
        print(HEADER[0])
        lines = [(f"  {HEADER[1]}", *HEADER[2:])]
        for name, data, *rest in rows:
            lines += [(name,), (f"  {data}", *rest)]
    whole = [line for line in lines if len(line) > 1]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip())
    for one in found:
        if one.state == "broken":
            print(f"{_name(one, folder)}: {printable(one.status)}")


def _name(one: Run, folder: Path) -> str:
    inner = one.folder.relative_to(folder) if one.folder.is_relative_to(folder) else one.folder
    return printable(str(one.folder if str(inner) == "." else inner))


def _cells(one: Run) -> tuple[str, ...]:
    value = ABSENT
    if one.value is not None:
        ends = "" if one.low is None or one.high is None else f" [{percent(one.low)}, {percent(one.high)}]"
        value = f"{TITLES.get(one.metric, one.metric)} {percent(one.value)}{ends}"
    return printable(one.data) or ABSENT, one.recipe or ABSENT, value, duration(one.seconds), printable(one.status)


def _print_differences(found: RunDifferences) -> None:
    a, b = found.before, found.after
    print(f"A  {printable(str(a.folder))}\nB  {printable(str(b.folder))}")
    parts: Mapping[str, Iterable[Difference]] = {
        "settings": found.settings,
        FOLLOWED: found.followed,
        "data": found.data,
        "versions and machine": found.versions,
        "runtime": found.runtime,
    }
    for title, differences in parts.items():
        if differences:
            print(f"\n{title}")
        for name, before, after in differences:
            print(f"  {name}: {_value(before)} → {_value(after)}")
    if alike := [title for title, differences in parts.items() if not differences and title != FOLLOWED]:
        print(f"\nthe same: {', '.join(alike)}")
    print()
    rows = []
    if found.change is not None:
        spec = SPECS.get(a.metric)
        unit, points = ("", "") if spec is not None and not spec.unit else (" %", " points")
        values = (f"{percent(one.value)}{unit}" for one in (a, b))
        rows.append((TITLES.get(a.metric, a.metric), *values, f"{signed(found.change)}{points}"))
    if a.seconds and b.seconds:
        rows.append(
            ("time", duration(a.seconds), duration(b.seconds), f"{signed(100 * (b.seconds / a.seconds - 1), 0)} %")
        )
    if rows:
        print_columns(("result", "A", "B", "B − A"), rows)
    print(_paired(found))


def _paired(found: RunDifferences) -> str:
    """The sentence about the test of pairs, or why there is none."""
    pairs = found.paired
    if pairs is None:
        return found.images
    chance = "more than chance would give" if pairs.p < 0.05 else "no more than chance might give"
    p = f"p = {pairs.p:.2g}" if pairs.p >= 1e-4 else "p under 0.0001"
    return (
        f"of {found.images}, A alone gets {pairs.only_before:,} right and B alone {pairs.only_after:,}:\n"
        f"{chance} (McNemar's exact test, {p}), for these two networks; other seeds may differ"
    )


def _value(value: Any) -> str:
    """A setting's value; one with parts as its kind and them."""
    if isinstance(value, Mapping):
        parts = {**value}
        kind = parts.pop("kind", "")
        return " ".join(filter(None, (str(kind), ", ".join(f"{name} {_value(part)}" for name, part in parts.items()))))
    if isinstance(value, list | tuple):
        return " ".join(map(_value, value))
    return ABSENT if value is None else printable(str(value))
