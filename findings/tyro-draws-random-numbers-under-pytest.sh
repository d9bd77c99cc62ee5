#!/usr/bin/env bash
# tyro.cli draws from Python's global random generator wherever pytest has been imported, and nowhere else: each hit of its
# caches draws a number, by which a tenth of them are computed again, a check of its own that looks for "pytest" in
# sys.modules. A test that seeds `random` and then parses a command line gets other numbers than the program that does the
# same, and how many are drawn depends on the options, so that one more option changes everything that is random after it.
#
# Seen 2026-11-29 with tyro 1.0.17, pytest 9.2.0, Python 3.11:
#   without pytest: the generator is as it was
#   with pytest imported: the generator has moved
# A guess that fails: "reading arguments leaves the generator alone, as argparse does".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tyro==1.0.17 pytest==9.2.0
cat > "$folder/parse.py" <<'PY'
import random
import sys
from dataclasses import dataclass

import tyro

if sys.argv[1] == "pytest":
    import pytest  # noqa: F401


@dataclass(frozen=True)
class Machine:
    """Where it runs."""

    device: str = "auto"
    threads: int | None = None
    workers: int | None = None


@dataclass(frozen=True)
class Options:
    """What a command takes."""

    epochs: int | None = None
    seed: int | None = None
    machine: Machine = Machine()


random.seed(0)
before = random.getstate()
tyro.cli(Options, args=["--epochs", "3"])
print("is as it was" if random.getstate() == before else "has moved")
PY
without=$("$folder/venv/bin/python" "$folder/parse.py" plain)
with=$("$folder/venv/bin/python" "$folder/parse.py" pytest)
printf 'without pytest: the generator %s\nwith pytest imported: the generator %s\n' "$without" "$with"
[[ "$without" == "is as it was" && "$with" == "has moved" ]]
