"""Does the probe of ``nextify starts`` order starts as full fine-tunings do?

Three data sets: five classes of CIFAR-10, the other five, and five of the digits. Four starts for each, made here:
fresh weights; a network pre-trained on the same images without labels (FCMAE); and two that learned the other five
classes, of which one for a tenth of the epochs. Each start is probed, and then fine-tuned on all training images with
several seeds. Kendall's tau compares the two orders; the time of the probe is a share of that of one fine-tuning each.

    python benchmarks/starts_order.py --cifar images/cifar10 --out runs/starts-order

Interrupted, the trainings go on where they stopped. Results: docs/pretraining.md.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image
from scipy.stats import kendalltau

import nextify
from nextify.compare.starts import find_start, probe_starts
from nextify.system.environment import describe
from nextify.training.trial import runtime

SMALL: dict[str, Any] = {"depths": (2, 2, 2), "widths": (48, 96, 192), "stage_strides": (1, 2, 1), "stem": "patchify4",
                         "kernel_size": 3}  # fmt: skip
"""Of the pre-trained network, stride 8: an image of 32 pixels has 4 × 4 patches to mask."""


def cifar_list(data: Path, out: Path, classes: slice, each: int) -> Path:
    """A table of ``each`` training images per class and of a fifth as many test images."""
    names = sorted(folder.name for folder in (data / "train").iterdir())[classes]
    rows = [
        (path, name, part)
        for part, count in (("train", each), ("test", each // 5))
        for name in names
        for path in sorted((data / part / name).iterdir())[:count]
    ]
    return _table(out, rows)


def digits_list(out: Path, classes: range) -> Path:
    """The digits of some classes as files, 32 pixels a side, and a table of them."""
    from sklearn.datasets import load_digits

    digits, rows = load_digits(), []
    for i in np.flatnonzero(np.isin(digits.target, classes)).tolist():
        path = out.parent / f"digit-{i}.png"
        gray = (digits.images[i] * 255 / 16).astype(np.uint8)
        Image.fromarray(gray).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC).save(path)
        rows.append((path, str(digits.target[i]), "test" if i % 3 == 0 else "train"))
    return _table(out, rows)


def _table(path: Path, rows: list[tuple[Path, str, str]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *((p.resolve(), label, s) for p, label, s in rows)])
    return path


def starts_for(images: Path, others: Path, out: Path, epochs: int, machine: Mapping[str, Any]) -> dict[str, str]:
    """The starts, by what they are."""
    half = {
        f"other classes, {n} epochs": nextify.train("convnext_atto", others, out=out, epochs=n, **machine)
        for n in (max(1, epochs // 10), epochs)
    }
    masked = nextify.pretrain("convnextv2_atto", images, out=out, epochs=epochs, settings=SMALL, **machine)
    return {
        "fresh": "fresh:convnext_atto",
        "pre-trained without labels": str(masked.bundle),
        **{name: str(result.bundle) for name, result in half.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar", type=Path, required=True, help="train/ and test/, each of class folders")
    parser.add_argument("--out", type=Path, default=Path("runs/starts-order"))
    parser.add_argument("--each", type=int, default=600, help="training images of a class of CIFAR-10")
    parser.add_argument("--epochs", type=int, default=30, help="of the starts and of the full fine-tunings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the full fine-tunings")
    parser.add_argument("--images", type=int, default=500, help="of the probe")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    machine = {"device": "cpu", "threads": options.threads, "image_size": 32}
    options.out.mkdir(parents=True, exist_ok=True)
    halves = [cifar_list(options.cifar, options.out / f"cifar-{i}.csv", part, options.each)
              for i, part in enumerate((slice(5), slice(5, None)))]  # fmt: skip
    small = [digits_list(options.out / f"digits-{i}.csv", part) for i, part in enumerate((range(5), range(5, 10)))]
    records, taus = [], []
    for images, others in ((halves[0], halves[1]), (halves[1], halves[0]), (small[0], small[1])):
        starts = starts_for(images, others, options.out, options.epochs, machine)
        opened = nextify.open_images(images, cache=options.out / "cache")
        place = runtime("cpu", options.threads)
        probed = probe_starts(
            *([find_start(source) for source in starts.values()], opened, place),
            used=options.images,
            folds=options.folds,
            epochs=3,
        )
        for (name, source), probe in zip(starts.items(), probed, strict=True):
            weights = None if source.startswith("fresh:") else source
            full = [
                nextify.train(probe.model, opened, out=options.out, weights=weights, epochs=options.epochs, seed=seed,
                              **machine)
                for seed in options.seeds
            ]  # fmt: skip
            records.append(
                {
                    "data": images.stem,
                    "start": name,
                    "probe": probe.tuned,
                    "probe_seconds": probe.seconds,
                    "full": [one.top1 for one in full],
                    "full_seconds": [one.seconds for one in full],
                }
            )
            print(f"{images.stem}, {name}: probe {fmean(probe.tuned):.1f} %, full "
                  f"{', '.join(f'{one.top1:.2f}' for one in full)} %", flush=True)  # fmt: skip
        own = [record for record in records if record["data"] == images.stem]
        taus.append(float(kendalltau(*([fmean(r[key]) for r in own] for key in ("probe", "full"))).statistic))
    share = sum(r["probe_seconds"] for r in records) / sum(fmean(r["full_seconds"]) for r in records)
    here = describe()
    content = {"records": records, "taus": taus, "share": share, "environment": here, "epochs": options.epochs}
    (options.out / "starts-order.json").write_text(json.dumps(content, indent=1))
    print(f"{here['cpu']}, {options.threads} threads; torch {here['torch']}")
    print(f"Kendall's tau {', '.join(f'{tau:.2f}' for tau in taus)}, mean {fmean(taus):.2f} (n = {len(taus)} data sets "
          f"of {len(starts)} starts); the probe took {share:.2f} of one fine-tuning of each start")  # fmt: skip


if __name__ == "__main__":
    main()
