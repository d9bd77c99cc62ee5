"""``report.html``: one file that is read offline, on a phone, in the dark and on paper. No scripts, no addresses.

What comes from the study is escaped where it enters the page (:func:`_e`); the templates hold no other data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from nextify.report import text
from nextify.report.figure import curves_figure, inline_svg, roadmap_figure, svg
from nextify.report.text import Results, Row

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="nextify">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
<p class="lead">$lead</p>
$outcome
</header>
<main>
$sections
</main>
<footer><p>$footer</p></footer>
</body>
</html>
""")

_STYLE = """
:root { --ink: #1b1b1f; --soft: #55585f; --line: #d9dbe0; --page: #fff; --card: #f5f6f8; --up: #005f96; --down: #a63d00;
  --upper: #e3f0f8; --downer: #fbeae0; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf0; --soft: #a9adb7; --line: #3a3d45; --page: #17181c;
  --card: #212329; --up: #7cc4f0; --down: #ffab7d; --upper: #15303f; --downer: #402417; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 2rem 1rem 3rem; max-width: 84rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 .6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p, li, dd { max-width: 46rem; overflow-wrap: anywhere; }
.lead { font-size: 1.08rem; margin: 0 0 .4rem; }
.outcome { font-weight: 600; margin: 0; }
ul { padding-left: 1.2rem; } li { margin: .25rem 0; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; font-size: .86rem; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .36rem .6rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal;
  background: var(--card); }
th[scope=row], th.text, td.text { text-align: left; }
tbody th { font-weight: 500; }
th[scope=row] { position: sticky; left: 0; background: var(--page); }
th[scope=rowgroup] { text-align: left; color: var(--soft); font-size: .8rem; font-weight: 600;
  background: var(--card); }
thead th:first-child { position: sticky; left: 0; text-align: left; }
td.wrap { white-space: normal; text-align: left; min-width: 18rem; }
tr.explored th, tr.explored td { color: var(--soft); } tr.explored th { font-style: italic; }
.paper { border-left: 1px solid var(--line); }
.verdict { display: inline-block; padding: 0 .5em; border-radius: 1em; background: var(--card); color: var(--soft); }
.verdict.higher { background: var(--upper); color: var(--up); font-weight: 600; }
.verdict.lower { background: var(--downer); color: var(--down); font-weight: 600; }
figure { margin: 1rem 0; }
figure .scroll { background: #fff; border-radius: .5rem; }
figure svg { display: block; width: 100%; height: auto; }
figure.wide svg { min-width: 52rem; } figure.curves svg { min-width: 38rem; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .5rem; max-width: 46rem; }
code, pre { font: .88em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { background: var(--card); padding: .7rem .9rem; border-radius: .5rem; overflow-x: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; margin: .5rem 0; }
dt { color: var(--soft); } dd { margin: 0; }
summary { cursor: pointer; margin: .8rem 0; color: var(--soft); }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
@media (max-width: 36rem) { dl { grid-template-columns: 1fr; } dd { margin: 0 0 .4rem; }
  th, td { padding: .34rem .5rem; } th[scope=row] { max-width: 9.5rem; white-space: normal; } }
@media print { :root { --ink: #000; --soft: #444; --line: #bbb; --page: #fff; --card: #f3f3f3; --up: #005f96;
    --down: #a63d00; --upper: #e3f0f8; --downer: #fbeae0; }
  body { padding: 0; max-width: none; font-size: 9.5pt; } .scroll { overflow: visible; border: 0; }
  table { font-size: 7.5pt; } th, td { padding: .15rem .35rem; } th[scope=row] { position: static; }
  figure.wide svg, figure.curves svg { min-width: 0; } h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; } thead { display: table-header-group; } td.wrap { min-width: 0; } }
"""


def page(results: Results, roadmap_svg: str | None = None) -> str:
    """The whole report as one HTML document. ``roadmap_svg``: the figure, where it has been drawn already."""
    title = f"{text.path_title(results)} on {text.data_name(results)}"
    result = text.outcome(results)
    sections = [
        _section("results", "Results", _main_table(results) + _list(text.notes(results))),
        _section("figure", "Figure", _roadmap(roadmap_svg or svg(roadmap_figure(results)))),
        _section("conclusions", "What can be concluded", _conclusions(results)),
        _section("curves", "Training curves", _curves(results)),
        _section("settings", "Settings", _settings(results)),
        _section("trials", "Every training", _trials(results)),
        _section("reproduce", "How to do it again", _reproduce(results)),
    ]
    return _PAGE.substitute(
        title=_e(title),
        style=_STYLE,
        lead=_e(text.what_was_trained(results)),
        outcome=f'<p class="outcome">{_e(result)}</p>' if result else "",
        sections="\n".join(s for s in sections if s),
        footer=_e(f"Made by nextify. The steps and the published values are those of {text.PAPER}."),
    )


def _e(value: Any) -> str:
    return escape(str(value))


def _section(name: str, heading: str, body: str) -> str:
    return f'<section id="{name}">\n<h2>{_e(heading)}</h2>\n{body}\n</section>' if body else ""


def _list(items: Iterable[str]) -> str:
    entries = "".join(f"<li>{_e(item)}</li>\n" for item in items)
    return f"<ul>\n{entries}</ul>" if entries else ""


def _facts(pairs: Iterable[tuple[str, Any]]) -> str:
    entries = "".join(f"<dt>{_e(k)}</dt><dd>{_e(v)}</dd>\n" for k, v in pairs if v not in (None, "", text.ABSENT))
    return f"<dl>\n{entries}</dl>" if entries else ""


def _table(head: Sequence[tuple[str, str]], body: str, caption: str) -> str:
    """``head``: (label, CSS class) per column. Wide tables scroll in their own box, so that the page does not."""
    cells = "".join(f'<th scope="col"{_class(c)}>{_e(label)}</th>' for label, c in head)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_e(caption)}"><table>'
        f"<thead><tr>{cells}</tr></thead>{body}</table></div>"
    )


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def _row(header: str, cells: Iterable[tuple[str, str]], css: str = "") -> str:
    """A table row of HTML fragments: its header, and (content, CSS class) per cell."""
    inner = "".join(f"<td{_class(c)}>{content}</td>" for content, c in cells)
    return f'<tr{_class(css)}><th scope="row">{header}</th>{inner}</tr>\n'


def _name(row: Row) -> str:
    return _e(text.marked(row))


def _verdict(row: Row) -> str:
    verdict = row.get("verdict")
    if not verdict:
        return text.ABSENT
    kind = verdict if verdict in ("higher", "lower") else ""
    return f'<span class="verdict {kind}">{_e(verdict)}</span>'


def _main_table(results: Results) -> str:
    head = [
        ("step", ""),
        ("n", ""),
        ("top-1 %, mean ± std", ""),
        ("change", ""),
        ("95 % interval", ""),
        ("verdict", "text"),
        ("parameters", ""),
        ("multiply-adds", ""),
        ("training images/s", ""),
        ("paper’s top-1 %", "paper"),
        ("paper’s change", ""),
        ("paper’s GFLOPs", ""),
    ]
    body = ""
    for group, members in text.groups(results):
        lines = "".join(
            _row(
                _name(r),
                (
                    (_e(r.get("n") or 0), ""),
                    (_e(text.mean_std(r.get("top1_mean"), r.get("top1_std"))), ""),
                    (_e(text.signed(r.get("change"))), ""),
                    (_e(text.interval(r.get("change_low"), r.get("change_high")) or text.ABSENT), ""),
                    (_verdict(r), "text"),
                    (_e(text.count(r.get("parameters"))), ""),
                    (_e(text.count(r.get("macs"))), ""),
                    (_e(text.whole(r.get("images_per_second"))), ""),
                    (_e(text.mean_std(r.get("published_top1"), r.get("published_std"))), "paper"),
                    (_e(text.signed(r.get("published_change"))), ""),
                    (_e(text.percent(r.get("published_gflops"))), ""),
                ),
                "" if text.adopted(r) else "explored",
            )
            for r in members
        )
        body += f'<tbody><tr><th scope="rowgroup" colspan="{len(head)}">{_e(group)}</th></tr>\n{lines}</tbody>'
    return _table(head, body, "Accuracy after each step")


def _roadmap(source: str) -> str:
    drawing = inline_svg(
        source,
        "roadmap",
        "Bars of the accuracy after each step, as in the table above, and the paper's",
    )
    return (
        f'<figure class="wide"><div class="scroll" tabindex="0">{drawing}</div><figcaption>Left: these trainings. '
        "Right: the paper’s own figure, on its own axis. The two are different data at a different scale; what may be "
        "compared is whether a step helps. An accuracy axis that does not start at 0 says so.</figcaption></figure>"
    )


def _conclusions(results: Results) -> str:
    from nextify.study.statistics import seeds_needed

    compared = [r for r in text.rows(results) if r.get("conclusion")]
    titles = {r.get("step"): text.title(r) for r in text.rows(results)}
    body = "<tbody>" + "".join(
        _row(
            _name(r),
            (
                (_e(titles.get(r.get("compared_with"), r.get("compared_with") or text.ABSENT)), "text"),
                (_e(text.signed(r.get("change"))), ""),
                (text.ABSENT if r.get("p_value") is None else _e(f"{r['p_value']:.2g}"), ""),
                (_e(r["conclusion"]), "wrap"),
            ),
            "" if text.adopted(r) else "explored",
        )
        for r in compared
    )
    head = [("step", ""), ("compared with", "text"), ("change", ""), ("p", ""), ("in words", "text")]
    comparisons = sum(r.get("p_value") is not None for r in compared)
    explained = [
        "A training with another seed (other initial weights, other order of the images, other augmentations) ends at "
        "another accuracy. The standard deviation is the size of that wobble; a change smaller than it is easily luck.",
        "The same seed is used at every step, so each step is compared with the one it builds on seed by seed. An "
        "interval made this way holds the true mean change for 95 of 100 sets of seeds, if the differences follow a "
        "bell curve. With few seeds it is wide, and few seeds cannot show whether the curve is a bell.",
        "The sign-flip test needs no bell curve: if a step did nothing, each difference could as well have had the "
        "other sign. p is the share of all sign patterns that give a mean change at least as large as the one seen, in "
        "either direction. A step is called “higher” or “lower” where p is below 0.05.",
        f"n paired seeds have 2ⁿ sign patterns, so p cannot be below 2/2ⁿ: 0.25 for 3 seeds, 0.031 for "
        f"{seeds_needed()}, which is why fewer than {seeds_needed()} seeds conclude nothing about a single step here.",
    ]
    if comparisons > 1:
        explained.append(
            f"With {comparisons} comparisons at once, about one in twenty would seem to matter by luck alone. Holm’s "
            f"correction keeps the chance of even one false claim among them below 5 %; "
            f"{seeds_needed(0.05, comparisons)} paired seeds are the fewest with which the clearest step can pass it."
        )
    explained.append(
        "All seeds share one set of test images. How well that set stands for other images is a separate question, "
        "which more seeds do not answer."
    )
    shown = _table(head, body + "</tbody>", "What can be concluded of each step") if compared else ""
    return f"{shown}<h3>How to read this</h3>{_list(explained)}"


def _curves(results: Results) -> str:
    figure = curves_figure(results)
    if figure is None:
        return ""
    drawing = inline_svg(svg(figure), "curves", "Training loss and test accuracy of every trial over its epochs")
    return (
        f'<figure class="curves"><div class="scroll" tabindex="0">{drawing}</div><figcaption>Training losses under '
        "different recipes do not compare: mixed images and smoothed labels keep the loss up. Accuracies in the table "
        "are those of the final weights, never of the best epoch.</figcaption></figure>"
    )


def _settings(results: Results) -> str:
    s, d = text.study(results), text.data(results)
    fitted = list(s.get("notes") or [])
    parts = [
        _facts(
            (
                ("data", text.data_name(results)),
                ("classes", text.whole(d.get("classes"))),
                ("training images", text.whole(d.get("train_images"))),
                ("test images", text.whole(d.get("test_images"))),
                ("data fingerprint", d.get("fingerprint")),
                ("scale", s.get("scale")),
                ("image size", f"{s['image_size']}×{s['image_size']} pixels" if s.get("image_size") else None),
                ("seeds", ", ".join(str(seed) for seed in s.get("seeds") or [])),
            )
        ),
        _list(str(note) for note in _as_list(d.get("notes"))),
        "<h3>What was fitted to these images, and why</h3>",
        _list(str(note) for note in fitted) if fitted else "<p>Nothing: designs and recipes as published.</p>",
    ]
    recipes: Mapping[str, Any] = s.get("recipes") or {}
    if recipes:
        parts += [
            "<h3>Recipes</h3>",
            "<p>The first row is trained with the original recipe; all others share the modern one.</p>",
            _recipes(recipes),
        ]
    return "\n".join(p for p in parts if p)


def _as_list(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value or [])


def _recipes(recipes: Mapping[str, Any]) -> str:
    names = list(recipes)
    keys = list(dict.fromkeys(key for name in names for key in recipes[name] or {}))
    lines = "".join(
        _row(
            _e(key.replace("_", " ")),
            ((_e(_setting((recipes[name] or {}).get(key))), "text") for name in names),
        )
        for key in keys
    )
    head = [("setting", ""), *((name, "text") for name in names)]
    return _table(head, f"<tbody>{lines}</tbody>", "Training recipes")


def _setting(value: Any) -> str:
    if value is None:
        return text.ABSENT
    if isinstance(value, Mapping):
        return ", ".join(f"{k.replace('_', ' ')} {_setting(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_setting(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _trials(results: Results) -> str:
    found = text.trials(results)
    if not found:
        return ""
    seeds = sorted({t["seed"] for t in found if t.get("seed") is not None})
    top1 = {(t.get("step"), t.get("seed")): t.get("top1") for t in found}
    lines = "".join(
        _row(
            _name(r),
            ((_e(text.percent(top1.get((r.get("step"), seed)))), "") for seed in seeds),
            "" if text.adopted(r) else "explored",
        )
        for r in text.rows(results)
    )
    matrix = _table(
        [("top-1 %", ""), *((f"seed {seed}", "") for seed in seeds)],
        f"<tbody>{lines}</tbody>",
        "Top-1 accuracy of every trial",
    )
    titles = {r.get("step"): text.title(r) for r in text.rows(results)}
    raw = "".join(
        _row(
            _e(titles.get(t.get("step"), t.get("step"))),
            (
                (_e(t.get("seed")), ""),
                (_e(text.percent(t.get("top1"))), ""),
                (_e(text.percent(t.get("top5"))), ""),
                (_e(text.percent(t.get("final_train_loss"), 4)), ""),
                (_e(text.duration(t.get("seconds"))), ""),
                (_e(text.whole(t.get("images_per_second"))), ""),
                (_e(t.get("status") or text.ABSENT), "text"),
                (f"<code>{_e(str(t.get('fingerprint') or text.ABSENT)[:12])}</code>", "text"),
            ),
        )
        for t in found
    )
    head = [("step", ""), *((h, "") for h in ("seed", "top-1 %", "top-5 %", "final loss", "time", "images/s"))]
    head += [("status", "text"), ("fingerprint", "text")]
    full = _table(head, f"<tbody>{raw}</tbody>", "All trials")
    return (
        f"{matrix}<details><summary>All {len(found)} trials with loss, time and fingerprint</summary>{full}</details>"
    )


def _reproduce(results: Results) -> str:
    s, e = text.study(results), text.environment(results)
    command = f"<pre>{_e(s['command'])}</pre>" if s.get("command") else ""
    facts = _facts(
        (
            ("hardware", text.hardware(results)),
            ("versions", text.versions(results)),
            ("system", e.get("os")),
            ("git commit", e.get("git_commit")),
            ("started", s.get("started")),
            ("finished", s.get("finished")),
            ("took", text.duration(s.get("seconds"))),
        )
    )
    return command + facts
