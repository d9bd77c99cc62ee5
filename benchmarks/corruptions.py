"""Images a second of each corruption on one core, beside the 200 that are asked for at 224².

Processor time of one thread, so that other work on the machine counts little; each figure is over the five severities,
the median of the rounds. The image is synthetic: edges, gradients and texture. What is made once (tables, filter
matrices, frost textures) is made before.

    OMP_NUM_THREADS=1 python benchmarks/corruptions.py --rounds 9

Measured 2026-11-22: Intel Xeon (Ice Lake) at 2.80 GHz, 2 virtual cores, both busy with other work (load 3.2), so that a
quiet core should do better; torch 2.15.0, NumPy 2.4.6, Python 3.11.7; n = 2 rounds of 4 images at each severity.
Glass blur and elastic transform are below 200 here.

    corruption          images/s  ms at severity 1 to 5                of 200
    gaussian_noise          1267    0.89   0.79   0.73   0.80   0.75     6.3×
    shot_noise               332    2.98   3.03   2.99   2.95   3.10     1.7×
    impulse_noise           1121    0.54   0.70   0.76   1.04   1.43     5.6×
    defocus_blur             310    3.22   2.89   3.19   2.89   3.94     1.5×
    glass_blur               185    4.30   3.99   6.52   6.00   6.27     0.9×
    motion_blur              268    3.49   4.13   3.69   3.54   3.77     1.3×
    zoom_blur                303    2.71   3.24   3.19   3.75   3.63     1.5×
    snow                     251    4.03   3.94   4.12   3.80   4.04     1.3×
    frost                   2155    0.50   0.54   0.47   0.42   0.39    10.8×
    fog                      418    2.51   2.44   2.42   2.31   2.28     2.1×
    brightness              1209    1.01   0.83   0.66   0.78   0.86     6.0×
    contrast                 496    2.01   1.97   2.05   1.95   2.10     2.5×
    elastic_transform        191    6.10   5.90   4.68   4.73   4.71     1.0×
    pixelate                 878    1.46   1.22   1.14   0.96   0.93     4.4×
    jpeg_compression         992    1.11   1.02   1.06   0.86   1.00     5.0×
    all                      401
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from nextify.environment import describe
from nextify.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt

ASKED = 200
"""Images a second and core."""


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
