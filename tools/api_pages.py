"""Generate docs/api/, a section for each public name, which Zensical fills from the docstring by mkdocstrings.

Command:  python tools/api_pages.py [--check]
"""

from __future__ import annotations

import ast
import inspect
import sys
from importlib import import_module
from pathlib import Path

from generated import write_or_check

import nextify

PAGES = {
    "designs": (
        "Designs and roadmaps",
        "An architecture as data, the layers it asks for, and the steps from one to the next. None of it needs torch.",
        ["Design", "Roadmap", "Step", "Layout"],
    ),
    "costs": (
        "From a design to its layers and costs",
        "These need no torch either.",
        ["roadmap", "layout", "cost", "macs", "parameters"],
    ),
    "recipes": (
        "Training recipes",
        "A recipe is every setting of a training that changes its result; the other classes are what its fields hold.",
        [
            "Recipe",
            "RECIPES",
            "SGD",
            "AdamW",
            "Muon",
            "RandomResized",
            "Shift",
            "NoCrop",
            "ScaleJitter",
            "RandAugment",
            "Mixing",
            "fit",
        ],
    ),
    "networks": (
        "Networks",
        "A design as a torch module, with or without weights.",
        ["list_models", "create_model", "create_backbone"],
    ),
    "work": (
        "Images, training, evaluation, export",
        "Each of these is what its command calls.",
        [
            "open_images",
            "train",
            "pretrain",
            "continue_training",
            "cross_validate",
            "search",
            "runs",
            "diff_runs",
            "evaluate",
            "predict",
            "export",
            "quantize",
        ],
    ),
}
"""``{page: (title, lead, names)}``"""


class UndocumentedName(Exception):
    """A public name without a docstring or a page."""


def home(name: str) -> str:
    """The module that a public name lives in."""
    found = getattr(nextify, name)
    if inspect.isclass(found) or inspect.isfunction(found):
        return str(found.__module__)
    return next(module for module in sorted(sys.modules) if _assigns(module, name))


def _assigns(module: str, name: str) -> bool:
    return module.startswith("nextify.") and name in getattr(sys.modules[module], "__annotations__", {})


def docstring(name: str) -> str:
    """The docstring in the source: a dataclass without one of its own would show its signature.

    Raises ``UndocumentedName`` where there is none."""
    body = ast.parse(Path(str(import_module(home(name)).__file__)).read_text(encoding="utf-8")).body
    for statement, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        match statement:
            case ast.ClassDef() | ast.FunctionDef() if statement.name == name:
                text = ast.get_docstring(statement)
            case ast.AnnAssign(target=ast.Name(id=target)) if target == name:
                documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                text = inspect.cleandoc(str(after.value.value)) if documented else None  # type: ignore[attr-defined]
            case _:
                continue
        if not text:
            break
        return text
    raise UndocumentedName(f"nextify.{name} has no docstring")


def first_sentences(name: str) -> str:
    paragraph = " ".join(docstring(name).partition("\n\n")[0].split())
    return paragraph.replace("``", "`").replace("|", "\\|")


def page(title: str, lead: str, names: list[str]) -> str:
    sections = "\n".join(f"## {name}\n\n::: {home(name)}.{name}\n" for name in names)
    note = '<p class="forge">A line <code>:::</code> tells where a name lives: make docs puts its docstring there.</p>'
    return f"# {title}\n\n<!-- Made by tools/api_pages.py; do not edit. -->\n\n{lead}\n\n{note}\n\n{sections}"


def index() -> str:
    rows = [
        f"| [`{name}`]({path}.md#{name.lower()}) | {first_sentences(name)} |"
        for path, (_, _, names) in PAGES.items()
        for name in names
    ]
    return "\n".join(
        [
            "# The Python API",
            "",
            "<!-- Made by tools/api_pages.py; do not edit. -->",
            "",
            "What `import nextify` offers. Everything else is internal and may change.",
            "",
            "| name | |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def files() -> dict[str, str]:
    """Return ``{path: text}`` of docs/api/. Raises ``UndocumentedName`` where a public name is on no page."""
    shown = {name for _, _, names in PAGES.values() for name in names}
    if missing := sorted({*nextify.__all__} - shown):
        raise UndocumentedName(f"on no page of tools/api_pages.py: {', '.join(missing)}")
    pages = {f"docs/api/{name}.md": page(*parts) for name, parts in PAGES.items()}
    return {"docs/api/README.md": index(), **pages}


if __name__ == "__main__":
    sys.exit(write_or_check(files(), "api_pages.py"))
