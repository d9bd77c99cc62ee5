"""``nextify train MODEL --minutes N``, all else default, against scripts as one writes them with timm.

Fresh weights, the same threads, and equal wall time for the training, counted from the start of each process. The
scripts: AdamW 1e-3, weight decay 0.05, cosine over the time, random resized crop 0.35 to 1, mirror images, label
smoothing 0.1, batch 32. All take turns, seed by seed. Measured is balanced accuracy on the test images: the mean over
the classes of the share that is right.

Command:  python benchmarks/scripts.py FOLDER --minutes 4 --seeds 0 1 2    (FOLDER has train/ and test/)
Results:  docs/training.md
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from nextify.system.environment import describe, version


def script(name: str, folder: Path, end: float, seed: int) -> None:
    """Train ``MODEL:SIZE`` of timm until ``end``, a reading of the clock, and print balanced accuracy and epochs."""
    import timm
    from torch.utils.data import DataLoader
    from torchvision import transforms as T
    from torchvision.datasets import ImageFolder

    torch.manual_seed(seed)
    model, size = name.split(":")[0], int(name.split(":")[1])
    tensor = [T.ToTensor(), T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    crop = T.RandomResizedCrop(size, scale=(0.35, 1))
    train = ImageFolder(folder / "train", T.Compose([crop, T.RandomHorizontalFlip(), *tensor]))
    test = ImageFolder(folder / "test", T.Compose([T.Resize(size), T.CenterCrop(size), *tensor]))
    network = timm.create_model(model, num_classes=len(train.classes))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.05)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    began, steps = time.time(), 0
    while time.time() < end:
        for images, labels in DataLoader(train, 32, shuffle=True, drop_last=True):
            share = (time.time() - began) / (end - began)
            if share >= 1:
                break
            optimizer.param_groups[0]["lr"] = 1e-3 * 0.5 * (1 + np.cos(np.pi * share))
            optimizer.zero_grad()
            loss(network(images), labels).backward()
            optimizer.step()
            steps += 1
    network.eval()
    truth = np.array(test.targets)
    with torch.inference_mode():
        found = torch.cat([network(images).argmax(1) for images, _ in DataLoader(test, 64)]).numpy()
    score = 100 * np.mean([np.mean(found[truth == k] == k) for k in range(len(test.classes))])
    print(f"{score:.2f} {steps * 32 / len(train):.1f} epochs")


def command(arguments: list[str], threads: int) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def ours(model: str, options: argparse.Namespace, seed: int) -> tuple[float, str]:
    import nextify

    with TemporaryDirectory() as out:
        arguments = ["-m", "nextify", "train", model, "--data", str(options.folder), "--seed", str(seed), "--out", out]
        arguments += ["--minutes", str(options.minutes), "--threads", str(options.threads), *options.extra]
        said = command(arguments, options.threads)
        (bundle,) = (path for path in Path(out).glob("*/bundle") if path.parent.name != "latest")
        confusion = np.array(nextify.evaluate(bundle, nextify.open_images(options.folder)).confusion)
    (plan,) = re.findall(r"at (\d+×\d+);.*\n.*?(\d+ epochs?)", said)
    return 100 * float(np.mean(confusion.diagonal() / confusion.sum(1))), f"{plan[0]}, {plan[1]}"


def theirs(name: str, options: argparse.Namespace, seed: int) -> tuple[float, str]:
    end = time.time() + 60 * options.minutes
    said = command([__file__, str(options.folder), "--script", name, str(end), str(seed)], options.threads)
    score, epochs = said.strip().splitlines()[-1].split(" ", 1)
    return float(score), epochs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", nargs="*", default=["convnext_atto"], help="of ours")
    parser.add_argument("--scripts", nargs="*", default=["resnet18:96", "convnext_atto:96"], metavar="MODEL:SIZE")
    parser.add_argument("--extra", nargs=argparse.REMAINDER, default=[], help="options of nextify train; last")
    parser.add_argument("--script", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.script:
        name, end, seed = options.script
        script(name, options.folder, float(end), int(seed))
        return
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "torchvision"))
    print(f"{describe()['cpu']}, {options.threads} threads; {versions}; {describe()['date']}", flush=True)
    scores: dict[str, list[float]] = {}
    for seed in options.seeds:
        for name in [*options.models, *options.scripts]:
            score, what = (theirs if ":" in name else ours)(name, options, seed)
            scores.setdefault(name, []).append(score)
            print(f"seed {seed} {name}: {score:.2f} ({what})", flush=True)
    for name, found in scores.items():
        spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
        print(f"{name}: {statistics.mean(found):.2f}{spread} % balanced accuracy, n = {len(found)}")


if __name__ == "__main__":
    main()
