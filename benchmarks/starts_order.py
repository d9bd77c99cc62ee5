"""Does the probe of ``nextify starts`` order starts as full fine-tunings do?

Three data sets: five classes of CIFAR-10, the other five, and five of the digits. Four starts for each, made here and
of one design: fresh weights; a network pre-trained on the same images without labels (FCMAE); and two that learned the
other five classes, one of them for a tenth of the epochs. Each start is probed, and then fine-tuned on all training
images as ``nextify train`` would, by its recipe's own epochs. Kendall's tau compares the two orders; the probe's
processor time is a share of that of one fine-tuning of each start.

    python benchmarks/starts_order.py --cifar images/cifar10 --out runs/starts-order

A data set that was measured is not measured again; ``--sets 0`` measures the first one alone. Results:
docs/pretraining.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image
from scipy.stats import kendalltau

import nextify
from nextify.compare.starts import find_start, probe_starts
from nextify.paper.design import DESIGNS
from nextify.system.environment import describe
from nextify.training.trial import runtime

MODEL = "small"
DESIGNS[MODEL] = DESIGNS["convnextv2_atto"].with_(
    depths=(1, 1, 1), widths=(48, 96, 192), stage_strides=(1, 2, 1), stem="patchify4", kernel_size=3
)
"""Stride 8: an image of 32 pixels has 4 × 4 patches to mask."""
TEST_IMAGES = 100
"""Of a class of CIFAR-10."""


def cifar_list(data: Path, out: Path, classes: slice, each: int) -> Path:
    """A table of ``each`` training images per class and of the first test images."""
    names = sorted(folder.name for folder in (data / "train").iterdir())[classes]
    rows = [
        (path, name, part)
        for part, count in (("train", each), ("test", TEST_IMAGES))
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
        f"other classes, {n} epochs": nextify.train(MODEL, others, out=out, epochs=n, **machine)
        for n in (max(1, epochs // 10), epochs)
    }
    masked = nextify.pretrain(MODEL, images, out=out, epochs=epochs, **machine)
    return {
        "fresh": f"fresh:{MODEL}",
        "pre-trained without labels": str(masked.bundle),
        **{name: str(result.bundle) for name, result in half.items()},
    }


def measured(images: Path, others: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What the probe and the full fine-tunings found of each start, and their processor seconds."""
    kept = options.out / f"{images.stem}.json"
    if kept.is_file():
        return json.loads(kept.read_text())["records"]  # type: ignore[no-any-return]
    machine = {"device": "cpu", "threads": options.threads, "image_size": 32}
    starts = starts_for(images, others, options.out, options.epochs, machine)
    opened = nextify.open_images(images, cache=options.out / "cache")
    records = []
    for name, source in starts.items():
        began = time.process_time()
        (probe,) = probe_starts(
            *([find_start(source)], opened, runtime("cpu", options.threads)),
            used=options.images,
            folds=options.folds,
            epochs=options.probe_epochs,
        )
        probed = time.process_time()
        weights = None if source.startswith("fresh:") else source
        full = [
            nextify.train(
                MODEL, opened, out=options.out, weights=weights, epochs=options.full_epochs, seed=seed, **machine
            )
            for seed in options.seeds
        ]
        seconds = (time.process_time() - probed) / len(full)
        records.append({"data": images.stem, "start": name, "probe": probe.tuned, "linear": probe.linear,
                        "probe_seconds": probed - began, "full": [one.top1 for one in full],
                        "full_seconds": seconds})  # fmt: skip
        print(f"{images.stem}, {name}: fine-tuned in full {', '.join(f'{one.top1:.2f}' for one in full)} % in "
              f"{seconds:.0f} s each; probe {fmean(probe.tuned):.1f} %, linear {fmean(probe.linear):.1f} %, in "
              f"{probed - began:.1f} s", flush=True)  # fmt: skip
    arguments = {name: value for name, value in vars(options).items() if not isinstance(value, Path)}
    kept.write_text(json.dumps({"records": records, "options": arguments, "environment": describe()}, indent=1))
    return records


def tau(records: Sequence[Mapping[str, Any]], figure: str) -> float:
    """Kendall's, of the order by a figure of the probe against that of the full fine-tunings."""
    return float(kendalltau(*([fmean(r[key]) for r in records] for key in (figure, "full"))).statistic)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar", type=Path, required=True, help="train/ and test/, each of class folders")
    parser.add_argument("--out", type=Path, default=Path("runs/starts-order"))
    parser.add_argument("--sets", type=int, nargs="+", default=[0, 1, 2], help="which of the data sets")
    parser.add_argument("--each", type=int, default=150, help="training images of a class of CIFAR-10")
    parser.add_argument("--epochs", type=int, default=30, help="of the starts")
    parser.add_argument("--full-epochs", type=int, help="of the full fine-tunings; default: those of the recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the full fine-tunings")
    parser.add_argument("--images", type=int, default=750, help="of the probe")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--probe-epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    halves = [cifar_list(options.cifar, options.out / f"cifar-{i}.csv", part, options.each)
              for i, part in enumerate((slice(5), slice(5, None)))]  # fmt: skip
    small = [digits_list(options.out / f"digits-{i}.csv", part) for i, part in enumerate((range(5), range(5, 10)))]
    sets = (halves[0], halves[1]), (halves[1], halves[0]), (small[0], small[1])
    found = [measured(*sets[i], options) for i in options.sets]
    here = describe()
    print(f"{here['cpu']}, {options.threads} threads; torch {here['torch']}")
    for figure in ("probe", "linear"):
        taus = [tau(records, figure) for records in found]
        print(f"{figure}: Kendall's tau {', '.join(f'{one:.2f}' for one in taus)}, mean {fmean(taus):.2f} "
              f"(n = {len(taus)} data sets of {len(found[0])} starts)")  # fmt: skip
    ran = [[r for r in records if r["full_seconds"] > 1] for records in found]  # others were read back
    shares = [sum(r["probe_seconds"] for r in records) / sum(r["full_seconds"] for r in records) for records in ran]
    print(f"processor time of the probe over that of one fine-tuning of each start: "
          f"{', '.join(f'{share:.3f}' for share in shares)}")  # fmt: skip


if __name__ == "__main__":
    main()
