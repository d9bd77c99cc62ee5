"""What the tests of trainings share."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from nextify.fitting.scale import scale
from nextify.paper.recipe import Recipe
from nextify.paper.roadmap import roadmap
from nextify.training.trial import Data, Trial
from tests.helpers import Command


def small_trial(step: str, recipe: Recipe, seed: int = 0) -> Trial:
    """A step of the roadmap on the digits, with a network of five blocks."""
    design = scale("tiny").shrink(roadmap("resnet50")[step].design).with_(depths=(1, 1, 2, 1), widths=(8, 16, 24, 32))
    if design.layer_scale != "off":
        design = design.with_(layer_scale=0.1)
    return Trial(design, recipe, Data("digits", "test", 10, 16), seed)


def wait_for_a_new_checkpoint(out: Path, process: Command | subprocess.Popen[bytes]) -> None:
    def stamps() -> list[int]:
        return [path.stat().st_mtime_ns for path in out.glob("*/checkpoint.pt") if path.exists()]

    def look() -> list[int]:
        try:
            return stamps()
        except FileNotFoundError:  # renamed between the two looks
            return []

    first = look()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and look() in (first, []):
        time.sleep(0.005)
