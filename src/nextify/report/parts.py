"""The parts of an HTML page that is read offline, on a phone, in the dark and on paper: no scripts, no addresses.

What comes from outside is escaped where it enters a page (:func:`escaped`); the templates hold no other data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from string import Template
from typing import Any

from nextify.report.drawing import inline_svg
from nextify.report.text import ABSENT

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


def document(title: str, lead: str, outcome: str, sections: Iterable[str], footer: str) -> str:
    """A whole page; ``outcome`` is a sentence that stands out, or empty, and ``sections`` are of :func:`section`."""
    return _PAGE.substitute(
        title=escaped(title),
        style=_STYLE,
        lead=escaped(lead),
        outcome=f'<p class="outcome">{escaped(outcome)}</p>' if outcome else "",
        sections="\n".join(s for s in sections if s),
        footer=escaped(footer),
    )


def figure(name: str, source: str, label: str, caption: str = "", css: str = "wide") -> str:
    """A drawing of :func:`nextify.report.drawing.svg` with its caption; ``label`` is for those who cannot see it."""
    drawing = inline_svg(source, name, label)
    said = f"<figcaption>{escaped(caption or label)}</figcaption>"
    return f'<figure class="{css}"><div class="scroll" tabindex="0">{drawing}</div>{said}</figure>'


def escaped(value: Any) -> str:
    return escape(str(value))


def section(name: str, heading: str, body: str) -> str:
    return f'<section id="{name}">\n<h2>{escaped(heading)}</h2>\n{body}\n</section>' if body else ""


def bullets(items: Iterable[str]) -> str:
    entries = "".join(f"<li>{escaped(item)}</li>\n" for item in items)
    return f"<ul>\n{entries}</ul>" if entries else ""


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    entries = "".join(f"<dt>{escaped(k)}</dt><dd>{escaped(v)}</dd>\n" for k, v in pairs if v not in (None, "", ABSENT))
    return f"<dl>\n{entries}</dl>" if entries else ""


def table(head: Sequence[tuple[str, str]], body: str, caption: str) -> str:
    """``head``: (label, CSS class) per column. Wide tables scroll in their own box, so that the page does not."""
    cells = "".join(f'<th scope="col"{_class(c)}>{escaped(label)}</th>' for label, c in head)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(caption)}"><table>'
        f"<thead><tr>{cells}</tr></thead>{body}</table></div>"
    )


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def row(header: str, cells: Iterable[tuple[str, str]], css: str = "") -> str:
    """A table row of HTML fragments: its header, and (content, CSS class) per cell."""
    inner = "".join(f"<td{_class(c)}>{content}</td>" for content, c in cells)
    return f'<tr{_class(css)}><th scope="row">{header}</th>{inner}</tr>\n'
