"""A picture of what a trained detector or segmenter finds on some test images, beside the truth."""

from dataclasses import replace

import numpy as np
import torch

from nextify import kernels
from nextify.data.dense.annotations import DenseImages
from nextify.evaluation.dense_pictures import Regions, Shown, prediction_sheet
from nextify.tasks.metric_specs import summary
from nextify.tasks.restoring import regions_back
from nextify.training.learned import batches_to_test, metric_specs, task_of
from nextify.training.result import Result
from nextify.training.trial import Runtime, Trial
from nextify.weights.bundle import load_dense

IMAGES = 6


@torch.no_grad()
def predictions_picture(trial: Trial, images: DenseImages, result: Result, runtime: Runtime, title: str) -> bytes:
    """PNG of up to ``IMAGES`` test images, evenly spaced over the set."""
    device = torch.device(runtime.device)
    network = load_dense(result.bundle).network()
    kernels.install(network, runtime.kernels)
    chosen = np.unique(np.linspace(0, len(images.test) - 1, IMAGES).round().astype(np.int64))
    test = images.test.selected(chosen)
    task = task_of(trial, replace(images, test=test), device)
    shown = []
    for batch in batches_to_test(trial, test):
        x, targets = task.test_batch(*batch)
        if images.task == "detection":
            seen = task.observe(network.to(device), x, targets)
            shown += [Shown(test.name(one.image), test.load(one.image), one) for one in seen]
            continue
        for logits, target in zip(network.to(device)(x), targets, strict=True):
            found = regions_back(logits, target.placement).cpu().numpy()
            regions = Regions(found, target.mask.numpy())
            shown.append(Shown(test.name(target.image), test.load(target.image), regions))
    return prediction_sheet(shown, images.classes, f"{title}: {summary(metric_specs(trial), result.metrics)}")
