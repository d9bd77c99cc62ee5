"""Run the tutorials, docs/tutorials/*.md, and write what their commands print beneath them.

A block in ``sh`` or ``python`` is run, in the page's order and in one new folder; a ``text`` block after it is its
output. Blocks in other languages (``console``) are shown only.

Command:  python tools/tutorials.py [NAME …]
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from generated import ROOT

FOLDER = ROOT / "docs" / "tutorials"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", flags=re.M | re.S)
NUMBER = re.compile(r"(?<![\w-])[−+-]?\d[\d.,]*(?:e[+-]?\d+)?")
TIMED = re.compile(r"\d (?:s|min|h)\b|images/s|[MG]iB|of that time")


@dataclass(frozen=True)
class Block:
    """A block that is run."""

    language: str
    code: str
    output: str | None
    """What the page says that it prints; None where it says nothing."""


def blocks(page: Path) -> list[Block]:
    return [Block(*found.groups()) for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def run(block: Block, folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a block in a folder and return what it prints on stdout and stderr.

    ``environment``: whose ``nextify`` and ``python`` are used; default: this source, by this interpreter.
    Raises ``RuntimeError`` with the output where it fails."""
    call = ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else ["python", "-c"]
    done = subprocess.run(
        [*call, block.code],
        cwd=folder,
        env={**(environment or this_source(folder / ".bin")), "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        timeout=3600,
    )
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode} of\n{block.code}\n{done.stdout}")
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.strip("\n").splitlines())


def this_source(commands: Path) -> dict[str, str]:
    """An environment in which ``nextify`` and ``python`` are this source and this interpreter; they are put into
    ``commands``."""
    commands.mkdir(exist_ok=True)
    for name, call in {"nextify": f'"{sys.executable}" -m nextify', "python": f'"{sys.executable}"'}.items():
        (commands / name).write_text(f'#!/bin/sh\nexec {call} "$@"\n', encoding="utf-8")
        (commands / name).chmod(0o755)
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / "src")}


def stable(output: str) -> Counter[str]:
    """The words that no machine changes: without lines that tell times or memory, and with fingerprints and the numbers
    beside a fraction masked."""
    words: list[str] = []
    for line in output.splitlines():
        if not TIMED.search(line):
            line = re.sub(r"\b[0-9a-f]{12}\b", "#", line)
            words += (NUMBER.sub("#", line) if re.search(r"\d\.\d", line) else line).split()
    return Counter(words)


def rewritten(page: Path) -> str:
    """The page with its outputs replaced by those of a run."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = [run(block, Path(folder)) for block in blocks(page)]
    outputs = iter(fresh)

    def block(found: re.Match[str]) -> str:
        output = next(outputs)
        shown = f"\n```text\n{output}```\n" if found[3] is not None else ""
        return f"```{found[1]}\n{found[2]}```\n{shown}"

    return BLOCK.sub(block, page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.md")):
        path = FOLDER / f"{name}.md"
        path.write_text(rewritten(path), encoding="utf-8")
        print(f"ran {path.relative_to(ROOT)}")
