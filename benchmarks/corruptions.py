"""Images per second of each corruption on one core, as a multiple of the 200 required at 224².

Processor time of one thread, so that other work on the machine counts little; each figure is the median of the rounds
over all five severities. The image is synthetic: edges, gradients and texture. What is made only once (tables, filter
matrices, frost textures) is made before.

    OMP_NUM_THREADS=1 python benchmarks/corruptions.py --rounds 9

Results: docs/benchmarks.md and docs/robustness.md.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from nextify.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from nextify.system.environment import describe

ASKED = 200
"""Images per second and core."""


def photo(side: int) -> np.ndarray:
    """``(side, side, 3)`` uint8."""
    random = np.random.RandomState(0)
    y, x = np.mgrid[:side, :side] / side
    image = np.stack([x, y, 1 - x * y], -1) * 200
    for _ in range(40):
        top, left, size = random.uniform(0, 1, 3)
        image[(np.abs(y - top) < size / 6) & (np.abs(x - left) < size / 5)] = random.uniform(0, 255, 3)
    image += gaussian_filter(random.normal(0, 60, image.shape), (1, 1, 0))
    return np.clip(image, 0, 255).astype(np.uint8)


def milliseconds(image: np.ndarray, name: str, severity: int, seeds: range) -> float:
    """Processor time of one image, mean over ``seeds``."""
    start = time.process_time()
    for seed in seeds:
        corrupt(image, name, severity, seed)
    return 1000 * (time.process_time() - start) / len(seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224, help="side of the image in pixels")
    parser.add_argument("--rounds", type=int, default=9, help="times that all corruptions take turns")
    parser.add_argument("--images", type=int, default=4, help="images of each severity in a round")
    options = parser.parse_args()

    torch.set_num_threads(1)
    image = photo(options.size)
    seeds = range(options.images)
    pairs = [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]
    for name, severity in pairs:
        milliseconds(image, name, severity, range(12))  # tables, and all frost textures
    found: dict[tuple[str, int], list[float]] = {pair: [] for pair in pairs}
    for _ in range(options.rounds):
        for name, severity in pairs:
            found[name, severity].append(milliseconds(image, name, severity, seeds))
    here = describe()
    print(f"{here['cpu']}, {here['cores']} cores; torch {here['torch']}, numpy {np.__version__}, {here['date']}")
    print(f"{options.size}×{options.size}, one thread, processor time, median of n = {options.rounds} rounds\n")
    print(f"{'corruption':<18}  images/s  {'ms at severity 1 to 5':<36} of 200")
    spent = 0.0
    for name in CORRUPTIONS:
        each = [statistics.median(found[name, s]) for s in SEVERITIES]
        spent += sum(each)
        rate = 1000 * len(each) / sum(each)
        print(f"{name:<18}  {rate:8.0f}  {' '.join(f'{ms:6.2f}' for ms in each)}   {rate / ASKED:5.1f}×")
    print(f"{'all':<18}  {1000 * len(pairs) / spent:8.0f}")


if __name__ == "__main__":
    main()
