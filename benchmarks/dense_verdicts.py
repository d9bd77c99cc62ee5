"""How often a study's verdict on an AP is wrong, and how often it finds a change: detectors simulated, not trained.

Two steps are compared. How surely and how exactly a detector finds an object is a sum of normal effects: of the object,
of the step on the object, of the training (step and seed), and the rest; likewise of things that are none. One step is
better by ``--change`` of these.

Command: python benchmarks/dense_verdicts.py [--studies 200] [--seeds 3] [--images 150] [--change 0 0.5]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from nextify.data.dense.annotations import Objects
from nextify.evaluation.dense_intervals import ap_scores
from nextify.study.crossed import Crossed
from nextify.tasks.average_precision import Observation, average_precision

CLASSES = tuple("abcde")
SIDE, APART = 40.0, 100.0
"""Pixels of an object's side, and between the corners of neighbours."""
STEP_OBJECT, TRAINING = 0.7, 0.1
"""Standard deviations, where those of an object and of the rest are 1."""


class Population:
    """The images of one study and how hard they are for each step."""

    def __init__(self, images: int, rng: np.random.Generator) -> None:
        self.rng, number = rng, rng.integers(1, 5, images)
        self.labels = [rng.integers(0, len(CLASSES), 2 * n) for n in number]  # the second half are no objects
        self.hard = [rng.standard_normal(2 * n) for n in number]

    def step(self) -> list[np.ndarray]:
        """How hard everything is for a step."""
        return [hard + STEP_OBJECT * self.rng.standard_normal(len(hard)) for hard in self.hard]

    def trained(self, hard: list[np.ndarray], better: float) -> list[Observation]:
        """What one training finds."""
        level, seen = better + TRAINING * self.rng.standard_normal(), []
        for image, (labels, own) in enumerate(zip(self.labels, hard, strict=True)):
            n = len(labels) // 2
            left = np.arange(2 * n) * APART
            boxes = np.stack([left, np.zeros(2 * n), left + SIDE, np.full(2 * n, SIDE)], 1)
            true = Objects(
                *(boxes[:n].astype(np.float32), labels[:n], np.zeros(n, bool), np.full(n, SIDE**2)),
            )
            sure = own + self.rng.standard_normal(2 * n) + level * np.repeat([1, -1], n) + np.repeat([0.5, -1.0], n)
            shift = (8 - 3 * sure + 2 * self.rng.standard_normal(2 * n)).clip(0, SIDE - 1)
            boxes[:, 0::2] += shift[:, None]
            seen.append(Observation(image, 50, 1000, boxes, 1 / (1 + np.exp(-sure)), labels, None, true))
        return seen


def study(images: int, seeds: int, change: float, rng: np.random.Generator) -> Crossed:
    """The comparison of two steps."""
    population = Population(images, rng)
    scores = []
    for better in (change, 0.0):
        hard = population.step()
        found = [population.trained(hard, better) for _ in range(seeds)]
        scores.append(
            [ap_scores(seen, len(CLASSES), average_precision(seen, CLASSES).values()["ap"]) for seen in found]
        )
    made = Crossed.of(np.array(scores[0]), np.array(scores[1]))
    assert made is not None
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3])
    parser.add_argument("--images", type=int, nargs="+", default=[150])
    parser.add_argument("--change", type=float, nargs="+", default=[0.0, 0.5])
    options = parser.parse_args()
    print("| seeds | test images | mean change, points | its spread | mean standard error | p < 0.05 |")
    print("|--:|--:|--:|--:|--:|--:|")
    began = time.monotonic()
    for images in options.images:
        for seeds in options.seeds:
            for change in options.change:
                rng = np.random.default_rng(0)
                found = [study(images, seeds, change, rng) for _ in range(options.studies)]
                changes, errors = [c.change for c in found], [c.error for c in found]
                share = np.mean([c.p < 0.05 for c in found])
                print(
                    f"| {seeds} | {images} | {np.mean(changes):.2f} | {np.std(changes, ddof=1):.2f} | "
                    f"{np.mean(errors):.2f} | {share:.1%} |", flush=True,
                )  # fmt: skip
    print(f"\n{options.studies} studies a line, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
