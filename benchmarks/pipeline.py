"""Training images per second: nextify's input pipeline against timm's and torchvision's, on the same photographs.

One process and one thread, or two worker processes of one thread; the libraries in turn (A B C … A B C …); medians over
the rounds with their ranges. Each draws crops (8 to 100 % of the area, bicubic, 224²) and mirror images from JPEG files
in the page cache, at three levels:

  crop     uint8 batch after crop and mirror image
  augment  the same with RandAugment (m9, mstd0.5, inc1; torchvision has its own operations)
  full     the same with random erasing (0.25), Mixup, CutMix and normalization: the float32 batch, on the CPU

timm is its ``create_loader``; for uint8 the loader within its PrefetchLoader, for floats what it does without a
PrefetchLoader (``timm``) and with one on the CPU (``timm, prefetcher``). torchvision is ``ImageFolder`` with transforms
v2. ``nextify, pillow`` gives timm's pixels bit for bit; ``nextify, held`` has the images decoded in memory.

timm's RandAugment crashes on Pillow 13 where posterize is asked for 0 bits. Here it gives the black image that older
versions gave, which costs it nothing.

Small images: 32², padded by 4, shifted and mirrored, batches of 512, from memory; torchvision does so image by image.

Command:  python benchmarks/pipeline.py --photos DIR --out pipeline.json    (without --photos: made JPEGs)
          python benchmarks/pipeline.py --table pipeline.json               (the table of docs/data-pipeline.md)
Runtime:  about 2 minutes on 2 cores. Results: docs/data-pipeline.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nextify.data import ImageSet, TrainBatches, finish, open_images
from nextify.data.decode import decode
from nextify.data.encoded import Files
from nextify.data.images import EncodedStore, Store, UniformStore
from nextify.data.kept import Kept
from nextify.data.randomness import AUGMENTATION, seeded
from nextify.paper.recipe import CONVNEXT, Recipe
from nextify.system.environment import describe, version
from nextify.system.files import write_text_atomic

SIZE, BATCH, CLASSES = 224, 32, 10
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEVELS = ("crop", "augment", "full")
LINKS = 2_048
"""Files of an epoch, links to the photographs: more than one measurement takes, so that none meets an epoch's end."""
Batches = Iterator[Any]
Source = Callable[[str, int], Batches]
"""Batches without end of a level, prepared by so many workers."""


def recipe_of(level: str) -> Recipe:
    recipe = CONVNEXT.with_(batch_size=BATCH, **{"crop.resampling": "fast"})
    return recipe if level != "crop" else recipe.with_(rand_augment="off")


class HeldStore:
    """Decoded photographs, of mixed sizes, each under many numbers."""

    def __init__(self, files: list[Path]) -> None:
        self.images = [decode(file.read_bytes()) for file in files]

    def load(self, index: int) -> Any:
        return self.images[index % len(self.images)]


def ours(store: Store, resampling: str = "fast") -> Source:
    images = ImageSet(np.arange(LINKS, dtype=np.int64) % CLASSES, store)

    def batches(level: str, workers: int) -> Batches:
        recipe = recipe_of(level).with_(**{"crop.resampling": resampling})
        found = TrainBatches(images, recipe, SIZE, seed=0, workers=workers).iterate(0, LINKS // BATCH)
        for step, (pixels, labels) in enumerate(found):
            if level == "full":
                yield finish(pixels, labels, recipe, CLASSES, step, 0, "cpu", MEAN, STD)
            else:
                yield pixels, labels

    return batches


def timms(root: Path, prefetcher: bool) -> Source:
    from timm.data import create_dataset, create_loader
    from timm.data.mixup import Mixup

    def batches(level: str, workers: int) -> Batches:
        raw = level != "full"
        loader = create_loader(
            create_dataset("", str(root), is_training=True),
            (3, SIZE, SIZE),
            BATCH,
            is_training=True,
            re_prob=0.0 if raw else 0.25,
            re_mode="pixel",
            color_jitter=0.0,
            auto_augment=None if level == "crop" else "rand-m9-mstd0.5-inc1",
            interpolation="bicubic",
            num_workers=workers,
            persistent_workers=False,
            use_prefetcher=raw or prefetcher,
            device=torch.device("cpu"),
        )
        mixup = Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=CLASSES)
        for pixels, labels in loader.loader if raw else loader:
            yield (pixels, labels) if raw else mixup(pixels, labels)

    return batches


def torchvisions(root: Path) -> Source:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import InterpolationMode, v2

    def batches(level: str, workers: int) -> Batches:
        bicubic = InterpolationMode.BICUBIC
        steps = [v2.RandomResizedCrop(SIZE, (0.08, 1.0), interpolation=bicubic), v2.RandomHorizontalFlip()]
        if level != "crop":
            steps.append(v2.RandAugment(2, 9, interpolation=bicubic))
        steps.append(v2.PILToTensor())
        if level == "full":
            steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD), v2.RandomErasing(0.25)]
        folder = ImageFolder(str(root), v2.Compose(steps))
        loader = DataLoader(folder, BATCH, shuffle=True, num_workers=workers, drop_last=True)
        mix = v2.RandomChoice([v2.MixUp(alpha=0.8, num_classes=CLASSES), v2.CutMix(alpha=1.0, num_classes=CLASSES)])
        for pixels, labels in loader:
            yield mix(pixels, labels) if level == "full" else (pixels, labels)

    return batches


def posterize_as_before_pillow_13() -> None:
    from timm.data import auto_augment

    def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
        return ImageOps.posterize(image, bits) if bits else Image.new("RGB", image.size)

    def to_few(image: Image.Image, bits: int, **settings: Any) -> Image.Image:
        return image if bits >= 8 else posterize(image, bits, **settings)

    auto_augment.NAME_TO_OP["PosterizeIncreasing"] = to_few


def images_per_second(batches: Batches, warmup: int, count: int) -> float:
    for _ in itertools.islice(batches, warmup):
        pass
    start = time.perf_counter()
    images = sum(len(batch[0]) for batch in itertools.islice(batches, count))
    elapsed = time.perf_counter() - start
    batches.close()  # type: ignore[attr-defined]  # ends the workers
    return images / elapsed


# -- small images --------------------------------------------------------------------------------------------------


def small(pixels: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> dict[str, Callable[[], float]]:
    """Name to a measurement in images a second."""
    from torchvision.transforms import v2

    recipe = CONVNEXT.with_(crop="shift", rand_augment="off", batch_size=512)
    batches = TrainBatches(ImageSet(labels, UniformStore(Kept(pixels))), recipe, 32, seed=0)
    plain = recipe.with_(mixing="off", random_erasing=0.0, label_smoothing=0.0)
    transform = batches.transform

    def one_by_one(step: int) -> None:
        with seeded(0, step, AUGMENTATION):
            np.stack([transform(pixels[index]) for index in batches.indices(step).tolist()])

    def timed(work: Callable[[int], object], steps: int) -> Callable[[], float]:
        def measured() -> float:
            work(0)
            start = time.perf_counter()
            for step in range(steps):
                work(step)
            return 512 * steps / (time.perf_counter() - start)

        return measured

    class Pictures(Dataset[Tensor]):
        steps = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.PILToTensor()])

        def __len__(self) -> int:
            return len(pixels)

        def __getitem__(self, index: int) -> Tensor:
            return self.steps(Image.fromarray(pixels[index]))

    loader = DataLoader(Pictures(), 512, shuffle=True)
    return {
        "nextify": timed(batches.batch, 60),
        "nextify, normalized float32": timed(
            lambda step: finish(*batches.batch(step), plain, 10, step, 0, "cpu", MEAN, STD), 60
        ),
        "nextify, image by image": timed(one_by_one, 10),
        "torchvision": timed(lambda _: next(iter(loader)), 2),
    }


# -- running -------------------------------------------------------------------------------------------------------


def photo_like(folder: Path, count: int = 100) -> list[Path]:
    """JPEGs of 500×375 pixels with detail at all scales, about 100 kB each, as the photographs of ImageNet."""
    files = []
    for number in range(count):
        draw = np.random.default_rng(number)
        total = np.full((375, 500, 3), 128.0)
        for side in (4, 8, 16, 32, 64, 128, 256):
            coarse = Image.fromarray(draw.integers(0, 256, (side * 3 // 4, side, 3), dtype=np.uint8))
            total += (np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)) - 127.5) * 0.4 / side**0.3
        files.append(folder / f"{number}.jpg")
        Image.fromarray(total.clip(0, 255).astype(np.uint8)).save(files[-1], quality=93, subsampling=0)
    return files


def linked(files: list[Path], root: Path) -> list[str]:
    names = [f"{i % CLASSES}/{i:05d}.jpg" for i in range(LINKS)]
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(files[i % len(files)].resolve(), root / name)
    return names


def measure(photos: Path | None, small_from: str | None, rounds: int) -> list[dict[str, Any]]:
    """A row a case: level, workers, library, images a second of each round."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder, root = Path(temporary) / "made", Path(temporary) / "links"
        folder.mkdir()
        found = sorted(p for p in photos.iterdir() if p.suffix.lower() in (".jpg", ".jpeg")) if photos else []
        if photos and not found:
            sys.exit(f"{photos} has no .jpg or .jpeg files")
        files = found or photo_like(folder)
        names = linked(files, root)
        from_files = EncodedStore(Files(root, names), np.arange(LINKS))
        held = HeldStore(files)
        sources = {
            "timm": timms(root, prefetcher=False),
            "timm, prefetcher": timms(root, prefetcher=True),
            "torchvision": torchvisions(root),
            "nextify": ours(from_files),
            "nextify, pillow": ours(from_files, "pillow"),
            "nextify, held": ours(held),
        }
        for level, workers in itertools.product(LEVELS, (0, 2)):
            asked = [n for n in sources if n != "timm, prefetcher" or level == "full"]
            if workers:
                asked = [n for n in asked if n != "nextify, pillow"]
            rates: dict[str, list[float]] = {name: [] for name in asked}
            for _ in range(rounds):
                for name in asked:
                    warmup, count = (2, 8) if not workers else (8, 24)
                    rates[name].append(images_per_second(sources[name](level, workers), warmup, count))
            rows += [
                {"level": level, "workers": workers, "library": n, "images_per_second": r} for n, r in rates.items()
            ]
            print_rows(rows[-len(rates) :])
    if small_from is None:
        pixels = np.random.default_rng(0).integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8)
        labels = np.arange(50_000, dtype=np.int64) % 10
    else:
        train = open_images("cifar10", root=Path(small_from)).train
        pixels, labels = np.asarray(train.array), train.labels
    cases = small(pixels, labels)
    rates = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            rates[name].append(case())
    rows += [{"level": "small", "workers": 0, "library": n, "images_per_second": r} for n, r in rates.items()]
    print_rows(rows[-len(rates) :])
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        rate = row["images_per_second"]
        print(
            f"{row['level']:8s} {row['workers']} workers  {row['library']:28s} {statistics.median(rate):9,.0f} images/s"
            f"  ({min(rate):,.0f} to {max(rate):,.0f})",
            flush=True,
        )


# -- the table -----------------------------------------------------------------------------------------------------


def against(rows: list[dict[str, Any]], row: dict[str, Any]) -> str:
    """How many times the images of timm (the better of its two ways), or of torchvision for small images."""
    rivals = [r for r in rows if (r["level"], r["workers"]) == (row["level"], row["workers"])]
    name = "torchvision" if row["level"] == "small" else "timm"
    best = max(
        (r["images_per_second"] for r in rivals if r["library"].startswith(name)),
        key=lambda rate: statistics.median(rate),
    )
    ratios = [a / b for a, b in zip(row["images_per_second"], best, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def table(result: dict[str, Any]) -> str:
    """Markdown of what ``--out`` wrote."""
    rows, where = result["rows"], result["environment"]
    versions = ", ".join(f"{name} {result['versions'][name]}" for name in result["versions"])
    lines = [
        f"{where['cpu']}, {where['cores']} cores, {where['os']}, Python {where['python']}; {versions}; "
        f"{where['date']}; commit {where['git_commit']}; {result['images']}; {result['rounds']} rounds; "
        f"load average at the start {result['load_average']:.1f}. "
        "Images per second: median (lowest to highest round). Ratio: round by round.",
        "",
        "| level | workers | pipeline | images/s | times timm (small: torchvision) |",
        "|---|--:|---|--:|--:|",
    ]
    for row in rows:
        rate = row["images_per_second"]
        lines.append(
            f"| {row['level']} | {row['workers']} | {row['library']} | {statistics.median(rate):,.0f} "
            f"({min(rate):,.0f} to {max(rate):,.0f}) | {against(rows, row)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of JPEGs; photo-like ones are made when none is given")
    parser.add_argument("--small", help="folder that holds CIFAR-10; random pixels when none is given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file for the raw figures")
    parser.add_argument("--table", type=Path, help="print the table of such a file, and measure nothing")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return
    torch.set_num_threads(1)
    posterize_as_before_pillow_13()
    packages = ("torch", "torchvision", "timm", "pillow", "simplejpeg", "numpy")
    result: dict[str, Any] = {
        "environment": describe(),
        "versions": {name: version(name) for name in packages},
        "images": f"{len(list(options.photos.iterdir()))} photographs"
        if options.photos
        else "100 made JPEGs of 500×375",
        "rounds": options.rounds,
        "load_average": os.getloadavg()[0],
    }
    result["rows"] = measure(options.photos, options.small, options.rounds)
    if options.out:
        write_text_atomic(options.out, json.dumps(result, indent=1))
    print("\n" + table(result))


if __name__ == "__main__":
    main()
