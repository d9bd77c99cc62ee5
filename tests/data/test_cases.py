"""Failing inputs that people reported, as scripts that build one, run Nextify on it and exit 0 where that goes right.

They lie in ``shared/cases`` beside the repository, or in the folder that ``NEXTIFY_CASES`` names; elsewhere this is
skipped. What is right stands in this folder's other tests too, which need no such folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nextify

CASES = Path(os.environ.get("NEXTIFY_CASES") or Path(__file__).parents[3] / "shared" / "cases")
SCRIPTS = sorted(CASES.glob("[0-9]*.sh"))
SECONDS = 600

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SCRIPTS, reason=f"no cases in {CASES}: set NEXTIFY_CASES")]


@pytest.mark.parametrize("script", SCRIPTS or [CASES / "none.sh"], ids=lambda script: script.stem)
def test_cases(script: Path, tmp_path: Path) -> None:
    command = tmp_path / "nextify"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m nextify "$@"\n')
    command.chmod(0o755)
    source = str(Path(nextify.__file__).parents[1])
    settings = {"NEXTIFY": str(command), "PY": sys.executable, "PYTHONPATH": source, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        ["bash", str(script)], env=os.environ | settings, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
