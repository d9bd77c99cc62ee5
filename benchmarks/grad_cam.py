"""Whether Grad-CAM's maximum lies on a square planted in noise, with layer norms as they are and held constant.

Five networks of each design are trained on such images, each from its own seed, as tests/deploy/test_explain.py does,
and asked about 64 others. With its margin of 4 pixels, the square covers a quarter of the image.

    python benchmarks/grad_cam.py

Results: docs/explain.md.
"""

from __future__ import annotations

import statistics
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nextify.deploy import explain
from tests.deploy.test_explain import FAMILIES, OBJECT, planted, trained

MARGIN, IMAGES, SEEDS = 4, 64, range(5)


def on_square(family: str, seed: int) -> float:
    """The share of images, percent, whose map of the true class has its maximum on the square."""
    model = trained(family, seed)
    images, labels, corners = planted(IMAGES, 1000)
    hits = 0
    for image, label, corner in zip(images, labels.tolist(), corners.numpy(), strict=True):
        heat = explain.heat_map(model, image, label, "grad-cam")
        place = np.array(np.unravel_index(heat.argmax(), heat.shape))
        hits += bool(np.all((corner - MARGIN <= place) & (place < corner + OBJECT + MARGIN)))
    return 100 * hits / IMAGES


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}; percent of {IMAGES} images, means of {len(SEEDS)} networks (lowest to highest)")
    print("| network | plain gradient | constant deviation |\n|---|--:|--:|")
    constant = explain.steady_norms
    for family in FAMILIES:
        cells = []
        for norms in (nullcontext, constant):
            explain.steady_norms = norms
            shares = [on_square(family, seed) for seed in SEEDS]
            cells.append(f"{statistics.mean(shares):.0f} ({min(shares):.0f}–{max(shares):.0f})")
        print(f"| {family} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
