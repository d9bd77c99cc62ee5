"""How well ``nextify inspect`` finds labels that were flipped on purpose, against cleanlab on the same probabilities.

``write`` copies an image folder with ``train/`` and ``test/`` and moves a share of the training images to another
class; ``measure`` holds the first rows of ``inspect``'s list against what was moved::

    python benchmarks/flipped_labels.py write path/to/cifar10 flipped --share 0.05 --seed 0
    nextify train convnext_atto --data flipped/data --out flipped/runs …
    nextify inspect flipped/runs/…/bundle --data flipped/data --folds 4 --out flipped/inspect
    python benchmarks/flipped_labels.py measure flipped
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
from pathlib import Path

import numpy as np


def write(source: Path, out: Path, share: float, seed: int) -> None:
    """Write ``out/data`` and the names of the images whose label was flipped, ``out/flipped.csv``."""
    classes = sorted(folder.name for folder in (source / "train").iterdir() if folder.is_dir())
    images = [path for name in classes for path in sorted((source / "train" / name).iterdir())]
    rng = np.random.default_rng(seed)
    flipped = set(rng.choice(len(images), round(share * len(images)), replace=False).tolist())
    rows = []
    for i, path in enumerate(images):
        true = label = path.parent.name
        if i in flipped:
            label = str(rng.choice([name for name in classes if name != true]))
        to = out / "data" / "train" / label / f"{true}-{path.name}"
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
        if i in flipped:
            rows.append((to.relative_to(out / "data").as_posix(), label, true))
    os.symlink((source / "test").resolve(), out / "data" / "test")
    with open(out / "flipped.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "true"), *rows])
    print(f"{len(rows):,} of {len(images):,} training images have another label than theirs (seed {seed})")


def measure(out: Path) -> None:
    """Precision and recall of the first rows of the list, as many as were flipped, and of cleanlab's; the former are
    kept in ``out/first.csv``, for ``train --without``."""
    with open(out / "flipped.csv", newline="") as file:
        flipped = {row["file"]: row["true"] for row in csv.DictReader(file)}
    with open(out / "inspect" / "inspect.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "label" and row["file"].startswith("train/")]
    suggested = {row["file"]: row["suggested"] for row in rows}
    lists = {"nextify": [row["file"] for row in rows]}
    kept = np.load(out / "inspect" / "probabilities.npz")
    trained = np.char.startswith(kept["files"], "train/")
    names, labels, probabilities = kept["files"][trained], kept["labels"][trained], kept["probabilities"][trained]
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        print("cleanlab is not installed: pip install cleanlab")
    else:
        for how in ("prune_by_noise_rate", "confident_learning"):
            order = find_label_issues(
                labels, probabilities, filter_by=how, return_indices_ranked_by="self_confidence", n_jobs=1
            )
            lists[f"cleanlab {how}"] = names[order].tolist()
    count = len(flipped)
    with open(out / "first.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows[:count])
    for name, found in lists.items():
        first = found[:count]
        right = sum(file in flipped for file in first)
        every = sum(file in flipped for file in found)
        print(
            f"{name}: first {len(first)}: precision {100 * right / len(first):.1f} %, "
            f"recall {100 * right / count:.1f} %; all {len(found)}: precision {100 * every / len(found):.1f} %, "
            f"recall {100 * every / count:.1f} %"
        )
    hits = [file for file in lists["nextify"][:count] if file in flipped]
    named = sum(suggested[file] == flipped[file] for file in hits)
    print(f"of these {len(hits)}, the suggested class is the true one of {named} ({100 * named / len(hits):.1f} %)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write")
    writing.add_argument("source", type=Path)
    writing.add_argument("out", type=Path)
    writing.add_argument("--share", type=float, default=0.05)
    writing.add_argument("--seed", type=int, default=0)
    commands.add_parser("measure").add_argument("out", type=Path)
    given = parser.parse_args()
    if given.command == "write":
        write(given.source, given.out, given.share, given.seed)
    else:
        measure(given.out)


if __name__ == "__main__":
    main()
