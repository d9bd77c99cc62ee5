"""Every tutorial is run as it stands; what its page says that the commands print is what they print."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path

import pytest

from tests.helpers import ROOT

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
NEEDS = {
    "boxes": ("faster_coco_eval", "starlette", "uvicorn"),
    "onnx": ("onnxruntime", "onnxscript", "starlette", "uvicorn"),
}


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorial_prints_what_it_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in NEEDS.get(page.stem, ()):
        pytest.importorskip(package)
    for command in ("bash", "curl"):
        if shutil.which(command) is None:
            pytest.skip(f"no {command}")
    monkeypatch.syspath_prepend(ROOT / "tools")
    tutorials = import_module("tutorials")
    blocks = tutorials.blocks(page)
    assert blocks
    for block in blocks:
        printed = tutorials.run(block, tmp_path)
        if block.output is not None:
            said = tutorials.stable(block.output)
            assert said, f"{page.name}: no output under\n{block.code}"
            assert not said - tutorials.stable(printed), f"{block.code}\n{printed}"
