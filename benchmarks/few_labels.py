"""Few labels: an encoder pre-trained on all training images without labels against fresh weights, paired by seed.

For each seed: all training images of CIFAR-10 pre-train a network; then a share of the labels (the seed draws equally
many images of each class) fine-tunes it, and trains the same network from fresh weights by the same recipe, epochs,
order and augmentation, without layer decay, which would only slow fresh weights down. The difference of the two test
accuracies is one pair; the interval is Student's over the pairs.

    python benchmarks/few_labels.py --data images/cifar10 --out runs/few-labels

Interrupted, the same command goes on. Results: docs/pretraining.md.
"""

import argparse
import csv
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

import nextify
from nextify.study.statistics import confidence_interval
from nextify.system.environment import describe

MODEL = "convnextv2_atto"
DESIGN: dict[str, Any] = {
    "depths": (2, 2, 2),
    "widths": (48, 96, 192),
    "stage_strides": (1, 2, 1),
    "stem": "patchify4",
    "kernel_size": 3,
}
"""Stride 8: an image of 32 pixels has 4 × 4 patches."""


def labelled(data: Path, out: Path, share: float, seed: int) -> Path:
    """A list of so large a share of each class's training images and of all test images."""
    path = data / f"few-labels-{100 * share:g}-{seed}.csv"
    rows = []
    for part in ("train", "test"):
        for folder in sorted((data / part).iterdir()):
            files = sorted(folder.iterdir())
            if part == "train":
                chosen = np.random.RandomState([seed, 17]).permutation(len(files))[: round(share * len(files))]
                files = [files[i] for i in sorted(chosen)]
            rows += [(file.relative_to(data).as_posix(), folder.name, part) for file in files]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of train/ and test/, each of class folders")
    parser.add_argument("--out", type=Path, default=Path("runs/few-labels"))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.01], help="of the labels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pretrain-epochs", type=int, default=15)
    parser.add_argument("--epochs", type=int, nargs="+", default=[30, 60], help="of fine-tuning, for each share")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--border", default="reflect", help="of the images that pre-training shifts; black was once")
    options = parser.parse_args()
    machine: dict[str, Any] = {"device": "cpu", "threads": options.threads}
    start, records = time.monotonic(), []
    for seed in options.seeds:
        before = nextify.pretrain(
            *(MODEL, options.data),
            out=options.out / "pretraining",
            epochs=options.pretrain_epochs,
            seed=seed,
            settings={**DESIGN, "crop": nextify.Shift(border=options.border)},
            **machine,
        )
        print(f"seed {seed}: masked error {before.masked_error:.4f} in {before.seconds:.0f} s", flush=True)
        for share, epochs in zip(options.shares, options.epochs, strict=True):
            listed = labelled(options.data, options.out, share, seed)
            common: dict[str, Any] = {"recipe": "few_labels", "epochs": epochs, "seed": seed, **machine}
            out = options.out / f"{100 * share:g}"
            fresh = nextify.train(MODEL, listed, out=out, settings={**DESIGN, "layer_decay": "off"}, **common)
            tuned = nextify.train(MODEL, listed, out=out, weights=str(before.bundle), **common)
            record = {
                "seed": seed,
                "share": share,
                "pretrained": tuned.top1,
                "fresh": fresh.top1,
                "seconds": {"pretraining": before.seconds, "pretrained": tuned.seconds, "fresh": fresh.seconds},
            }
            records.append(record)
            print(f"seed {seed}, {share:.0%} of the labels: {tuned.top1:.2f} % pre-trained, {fresh.top1:.2f} % fresh",
                  flush=True)  # fmt: skip
    here = describe()
    content = {"records": records, "wall_seconds": time.monotonic() - start, "environment": here, "epochs":
               options.epochs, "pretrain_epochs": options.pretrain_epochs, "design": DESIGN}  # fmt: skip
    (options.out / "few-labels.json").write_text(json.dumps(content, indent=1))
    print(f"{here['cpu']}, {options.threads} threads; torch {here['torch']}; {content['wall_seconds']:.0f} s in all")
    for share in options.shares:
        pairs = [(r["pretrained"], r["fresh"]) for r in records if r["share"] == share]
        gains = [a - b for a, b in pairs]
        interval = confidence_interval(gains)
        shown = "" if interval is None else f", 95 % interval {interval[0]:+.2f} to {interval[1]:+.2f}"
        a, b = (statistics.mean(values) for values in zip(*pairs, strict=True))
        print(f"{share:.0%} of the labels: {a:.2f} % pre-trained, {b:.2f} % fresh, {statistics.mean(gains):+.2f} points"
              f"{shown} (n = {len(gains)} pairs)")  # fmt: skip


if __name__ == "__main__":
    main()
