"""Detectors and segmenters of other libraries: trained from fresh weights for some minutes, measured by nextify's code.

- torchvision's RetinaNet-ResNet50-FPN and Faster R-CNN-MobileNetV3-320 by its reference recipe (references/detection):
  SGD with momentum 0.9 and weight decay 1e-4; for batches of 16 a rate of 0.01 (RetinaNet) or 0.02, in proportion for
  others, warmed up over 1,000 steps or one epoch, a tenth of it from 16/26 and again from 22/26 of the time on; mirror
  images. Images have torchvision's own sizes unless ``--side`` gives the shorter one.
- U-Net-ResNet18 of segmentation_models_pytorch by its CamVid example: Adam, a rate of 2e-4 that falls to 1e-5 by a
  cosine, Dice loss; mirror images. Images are fitted to nextify's canvas.

The minutes are those of training; neither opening the data nor measuring counts. The test part is that of ``nextify
evaluate --split test``, and figures are in the images' own pixels. Prints one JSON line.

Command:  python benchmarks/dense_peers.py retinanet --data bccd/coco --minutes 30 --threads 2
          python benchmarks/dense_peers.py unet --data camvid --ignore-index 11 --minutes 30 --threads 2
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nextify.data.dense import DenseImages, open_dense
from nextify.data.dense.annotations import mask_api
from nextify.data.dense.placement import canvas_of, placed
from nextify.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, normalized
from nextify.evaluation.dense_intervals import ap_intervals, miou_intervals
from nextify.system.environment import describe, version
from nextify.tasks.average_precision import Observation, average_precision
from nextify.tasks.restoring import regions_back
from nextify.tasks.segmentation_metrics import SegmentationMetrics, pixel_confusion

RATES = {"retinanet": 0.01, "faster_rcnn": 0.02}
"""For batches of 16; torchvision's references/detection/README.md."""
CPU = torch.device("cpu")


def orders(images: int, batch: int) -> Iterator[list[int]]:
    """Batches of indices, epoch after epoch; an incomplete last batch of an epoch is dropped."""
    while True:
        order = random.sample(range(images), images)
        yield from (order[start : start + batch] for start in range(0, images - batch + 1, batch))


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[list[int]], Tensor],
    rate_at: Callable[[int, float], float],
    images: int,
    options: argparse.Namespace,
) -> dict[str, float]:
    """Train until the minutes are over.

    Args:
        loss_of: the loss of the images of these indices.
        rate_at: the learning rate at a step and at a share of the time.
    """
    start, step = time.perf_counter(), 0
    model.train()
    for chosen in orders(images, options.batch):
        passed = (time.perf_counter() - start) / (60 * options.minutes)
        if passed >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, passed)
        loss = loss_of(chosen)
        if not loss.isfinite():
            raise SystemExit(f"the loss is {loss.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
    seconds = time.perf_counter() - start
    return {"steps": step, "epochs": round(step * options.batch / images, 2), "seconds": round(seconds, 1)}


# -- torchvision's detectors ---------------------------------------------------------------------------------------


def detector(options: argparse.Namespace, classes: int) -> nn.Module:
    """Fresh weights; class 0 is the background, as in the reference."""
    from torchvision.models import detection

    build = {
        "retinanet": detection.retinanet_resnet50_fpn,
        "faster_rcnn": detection.fasterrcnn_mobilenet_v3_large_320_fpn,
    }[options.model]
    sizes = {} if options.side is None else {"min_size": options.side, "max_size": 2 * options.side}
    model: nn.Module = build(weights=None, weights_backbone=None, num_classes=classes + 1, **sizes)
    return model


def as_input(pixels: np.ndarray[Any, Any]) -> Tensor:
    """``(3, H, W)``, 0 to 1."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def detection_run(options: argparse.Namespace, images: DenseImages, tested: DenseImages) -> dict[str, Any]:
    mask_api()  # refuses before the training where what measures is missing
    model = detector(options, images.num_classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-4)
    peak = RATES[options.model] * options.batch / 16
    warm_up = min(1000, len(images.train) // options.batch)

    def rate_at(step: int, passed: float) -> float:
        warm = min(1.0, 1e-3 + (1 - 1e-3) * step / max(1, warm_up))
        return peak * warm * 0.1 ** sum(passed >= at / 26 for at in (16, 22))

    def loss_of(chosen: list[int]) -> Tensor:
        inputs, targets = [], []
        for index in chosen:
            x, objects = as_input(images.train.load(index)), images.train.objects(index)
            boxes = torch.from_numpy(objects.boxes[~objects.crowd])
            labels = torch.from_numpy(objects.labels[~objects.crowd]) + 1
            if random.random() < 0.5:
                x, width = x.flip(-1), x.shape[-1]
                boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
            inputs.append(x)
            targets.append({"boxes": boxes, "labels": labels})
        return torch.stack(list(model(inputs, targets).values())).sum()

    trained = train(model, optimizer, loss_of, rate_at, len(images.train), options)
    model.eval()
    seen = []
    for i in range(len(tested.test)):
        with torch.inference_mode():
            (found,) = model([as_input(tested.test.load(i))])
        kept = found["labels"] > 0
        boxes, scores, labels = (found[key][kept].numpy() for key in ("boxes", "scores", "labels"))
        height, width = tested.test.sizes[i].tolist()
        seen.append(Observation(i, height, width, boxes, scores, labels - 1, None, tested.test.objects(i)))
    figures = average_precision(seen, images.classes).values()
    return result_of(model, trained, figures, ap_intervals(seen, images.num_classes))


# -- segmentation_models_pytorch's U-Net ---------------------------------------------------------------------------


def segmentation_run(options: argparse.Namespace, images: DenseImages, tested: DenseImages) -> dict[str, Any]:
    import segmentation_models_pytorch as smp

    number, canvas = images.num_classes, canvas_of(images)
    model = smp.Unet("resnet18", encoder_weights=None, classes=number)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    dice = smp.losses.DiceLoss("multiclass", from_logits=True, ignore_index=255)

    def rate_at(step: int, passed: float) -> float:
        return 1e-5 + (2e-4 - 1e-5) * (1 + math.cos(math.pi * passed)) / 2

    def loss_of(chosen: list[int]) -> Tensor:
        pixels, masks = [], []
        for index in chosen:
            shown, placement = placed(images.train.load(index), canvas)
            mask = placement.mask(images.train.mask(index), canvas)
            turn = -1 if random.random() < 0.5 else 1
            pixels.append(shown[:, ::turn])
            masks.append(mask[:, ::turn])
        x = normalized(torch.from_numpy(np.stack(pixels)), CPU, IMAGENET_MEAN, IMAGENET_STD)
        loss: Tensor = dice(model(x), torch.from_numpy(np.stack(masks)).long())
        return loss

    trained = train(model, optimizer, loss_of, rate_at, len(images.train), options)
    model.eval()
    matrices = []
    for i in range(len(tested.test)):
        shown, placement = placed(tested.test.load(i), canvas)
        with torch.inference_mode():
            logits = model(normalized(torch.from_numpy(shown)[None], CPU, IMAGENET_MEAN, IMAGENET_STD))[0]
        truth = torch.from_numpy(np.array(tested.test.mask(i)))
        matrices.append(pixel_confusion(regions_back(logits, placement), truth, number))
    figures = SegmentationMetrics.of(sum(matrices), len(matrices)).values()
    counts = np.stack([[m.diagonal(), m.sum(1), m.sum(0)] for m in matrices]).astype(np.float64)
    return result_of(model, trained, figures, miou_intervals(counts))


def result_of(
    model: nn.Module, trained: dict[str, float], figures: dict[str, float], intervals: dict[str, Any]
) -> dict[str, Any]:
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, **trained, "metrics": figures, "intervals": intervals}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=("retinanet", "faster_rcnn", "unet"))
    parser.add_argument("--data", required=True, help="as nextify train takes it")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="the part that is measured")
    parser.add_argument("--minutes", type=float, required=True, help="of training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, help="shorter side that a detector resizes images to")
    parser.add_argument("--ignore-index", type=int, help="of masks, as nextify train takes it")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    images = open_dense(options.data, ignore_index=options.ignore_index)
    tested = open_dense(options.data, ignore_index=options.ignore_index, to_train=False, tested=options.split)
    if tested.classes != images.classes:
        raise SystemExit(f"{tested.name} has other classes than the images to train on")
    run = segmentation_run if options.model == "unet" else detection_run
    found = run(options, images, tested)
    libraries = ("torch", "torchvision", "segmentation_models_pytorch", "faster-coco-eval")
    versions = {name: version(name) for name in libraries}
    images_of = {"train_images": len(images.train), "test_images": len(tested.test)}
    print(json.dumps({**vars(options), "data": tested.name, **images_of, **found, "versions": versions, **describe()}))


if __name__ == "__main__":
    main()
