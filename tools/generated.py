"""Write documents generated from the code's own data, or compare them with the committed ones (``--check``)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def differing(files: Mapping[str, str]) -> list[str]:
    """Return the paths (relative to the repository) whose committed text differs from the given one."""
    return [
        name
        for name, text in files.items()
        if not (path := ROOT / name).exists() or path.read_text(encoding="utf-8") != text
    ]


def write_or_check(files: Mapping[str, str], tool: str) -> int:
    """Write the files, or with ``--check`` on the command line only report those out of date."""
    stale = differing(files)
    if "--check" in sys.argv[1:]:
        for name in stale:
            print(f"{name} is out of date; run python tools/{tool}", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[name], encoding="utf-8")
        print(f"wrote {name}")
    return 0
