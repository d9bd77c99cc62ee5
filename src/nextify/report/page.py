"""``report.html``: one file that is read offline, on a phone, in the dark and on paper. No scripts, no addresses.

What comes from the study is escaped where it enters the page; ``parts.py`` holds what every page is made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nextify.report import parts, text
from nextify.report.drawing import svg
from nextify.report.figures import curves_figure, roadmap_figure
from nextify.report.text import Results, Row


def page(results: Results, roadmap_svg: str | None = None) -> str:
    """The whole report as one HTML document. ``roadmap_svg``: the figure, where it has been drawn already."""
    title = f"{text.path_title(results)} on {text.data_name(results)}"
    result = text.outcome(results)
    sections = [
        parts.section("results", "Results", _main_table(results) + parts.bullets(text.notes(results))),
        parts.section("figure", "Figure", _roadmap(roadmap_svg or svg(roadmap_figure(results)))),
        parts.section("conclusions", "What can be concluded", _conclusions(results)),
        parts.section("curves", "Training curves", _curves(results)),
        parts.section("settings", "Settings", _settings(results)),
        parts.section("trials", "Every training", _trials(results)),
        parts.section("reproduce", "How to do it again", _reproduce(results)),
    ]
    return parts.document(
        title,
        text.what_was_trained(results),
        result or "",
        sections,
        f"Made by nextify. The steps and the published values are those of {text.PAPER}.",
    )


def _name(row: Row) -> str:
    return parts.escaped(text.marked(row))


def _verdict(row: Row) -> str:
    verdict = row.get("verdict")
    if not verdict:
        return text.ABSENT
    kind = verdict if verdict in ("higher", "lower") else ""
    return f'<span class="verdict {kind}">{parts.escaped(verdict)}</span>'


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
            parts.row(
                _name(r),
                (
                    (parts.escaped(r.get("n") or 0), ""),
                    (parts.escaped(text.mean_std(r.get("top1_mean"), r.get("top1_std"))), ""),
                    (parts.escaped(text.signed(r.get("change"))), ""),
                    (parts.escaped(text.interval(r.get("change_low"), r.get("change_high")) or text.ABSENT), ""),
                    (_verdict(r), "text"),
                    (parts.escaped(text.count(r.get("parameters"))), ""),
                    (parts.escaped(text.count(r.get("macs"))), ""),
                    (parts.escaped(text.whole(r.get("images_per_second"))), ""),
                    (parts.escaped(text.mean_std(r.get("published_top1"), r.get("published_std"))), "paper"),
                    (parts.escaped(text.signed(r.get("published_change"))), ""),
                    (parts.escaped(text.percent(r.get("published_gflops"))), ""),
                ),
                "" if text.adopted(r) else "explored",
            )
            for r in members
        )
        body += (
            f'<tbody><tr><th scope="rowgroup" colspan="{len(head)}">{parts.escaped(group)}</th></tr>\n{lines}</tbody>'
        )
    return parts.table(head, body, "Accuracy after each step")


def _roadmap(source: str) -> str:
    return parts.figure(
        "roadmap",
        source,
        "Bars of the accuracy after each step, as in the table above, and the paper's",
        "Left: these trainings. Right: the paper’s own figure, on its own axis. The two are different data at a "
        "different scale; what may be compared is whether a step helps. An accuracy axis that does not start at 0 says "
        "so.",
    )


def _conclusions(results: Results) -> str:
    from nextify.study.statistics import seeds_needed

    compared = [r for r in text.rows(results) if r.get("conclusion")]
    titles = {r.get("step"): text.title(r) for r in text.rows(results)}
    body = "<tbody>" + "".join(
        parts.row(
            _name(r),
            (
                (parts.escaped(titles.get(r.get("compared_with"), r.get("compared_with") or text.ABSENT)), "text"),
                (parts.escaped(text.signed(r.get("change"))), ""),
                (text.ABSENT if r.get("p_value") is None else parts.escaped(f"{r['p_value']:.2g}"), ""),
                (parts.escaped(r["conclusion"]), "wrap"),
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
    shown = parts.table(head, body + "</tbody>", "What can be concluded of each step") if compared else ""
    return f"{shown}<h3>How to read this</h3>{parts.bullets(explained)}"


def _curves(results: Results) -> str:
    figure = curves_figure(results)
    if figure is None:
        return ""
    return parts.figure(
        "curves",
        svg(figure),
        "Training loss and test accuracy of every trial over its epochs",
        "Training losses under different recipes do not compare: mixed images and smoothed labels keep the loss up. "
        "Accuracies in the table are those of the final weights, never of the best epoch.",
        css="curves",
    )


def _settings(results: Results) -> str:
    s, d = text.study(results), text.data(results)
    fitted = list(s.get("notes") or [])
    blocks = [
        parts.facts(
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
        parts.bullets(str(note) for note in _as_list(d.get("notes"))),
        "<h3>What was fitted to these images, and why</h3>",
        parts.bullets(str(note) for note in fitted) if fitted else "<p>Nothing: designs and recipes as published.</p>",
    ]
    recipes: Mapping[str, Any] = s.get("recipes") or {}
    if recipes:
        blocks += [
            "<h3>Recipes</h3>",
            "<p>The first row is trained with the original recipe; all others share the modern one.</p>",
            _recipes(recipes),
        ]
    return "\n".join(b for b in blocks if b)


def _as_list(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value or [])


def _recipes(recipes: Mapping[str, Any]) -> str:
    names = list(recipes)
    keys = list(dict.fromkeys(key for name in names for key in recipes[name] or {}))
    lines = "".join(
        parts.row(
            parts.escaped(key.replace("_", " ")),
            ((parts.escaped(_setting((recipes[name] or {}).get(key))), "text") for name in names),
        )
        for key in keys
    )
    head = [("setting", ""), *((name, "text") for name in names)]
    return parts.table(head, f"<tbody>{lines}</tbody>", "Training recipes")


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
        parts.row(
            _name(r),
            ((parts.escaped(text.percent(top1.get((r.get("step"), seed)))), "") for seed in seeds),
            "" if text.adopted(r) else "explored",
        )
        for r in text.rows(results)
    )
    matrix = parts.table(
        [("top-1 %", ""), *((f"seed {seed}", "") for seed in seeds)],
        f"<tbody>{lines}</tbody>",
        "Top-1 accuracy of every trial",
    )
    titles = {r.get("step"): text.title(r) for r in text.rows(results)}
    raw = "".join(
        parts.row(
            parts.escaped(titles.get(t.get("step"), t.get("step"))),
            (
                (parts.escaped(t.get("seed")), ""),
                (parts.escaped(text.percent(t.get("top1"))), ""),
                (parts.escaped(text.percent(t.get("top5"))), ""),
                (parts.escaped(text.percent(t.get("final_train_loss"), 4)), ""),
                (parts.escaped(text.duration(t.get("seconds"))), ""),
                (parts.escaped(text.whole(t.get("images_per_second"))), ""),
                (parts.escaped(t.get("status") or text.ABSENT), "text"),
                (f"<code>{parts.escaped(str(t.get('fingerprint') or text.ABSENT)[:12])}</code>", "text"),
            ),
        )
        for t in found
    )
    head = [("step", ""), *((h, "") for h in ("seed", "top-1 %", "top-5 %", "final loss", "time", "images/s"))]
    head += [("status", "text"), ("fingerprint", "text")]
    full = parts.table(head, f"<tbody>{raw}</tbody>", "All trials")
    return (
        f"{matrix}<details><summary>All {len(found)} trials with loss, time and fingerprint</summary>{full}</details>"
    )


def _reproduce(results: Results) -> str:
    s, e = text.study(results), text.environment(results)
    command = f"<pre>{parts.escaped(s['command'])}</pre>" if s.get("command") else ""
    facts = parts.facts(
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
