"""Trained networks to one bundle, measured beside each of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nextify.data import DataError, Images
from nextify.evaluation.evaluate import load_network
from nextify.evaluation.metrics import wilson
from nextify.weights import Metric, save_ensemble


@dataclass(frozen=True)
class EnsembleResult:
    """What several networks give as one on test images. Accuracies are percent."""

    bundle: Path
    images: int
    top1: float
    top1_low: float
    top1_high: float
    """Ends of Wilson's 95 % interval of ``top1``."""
    members_top1: tuple[float, ...]
    """Of each network alone on the same images."""


def join(bundle: Path, members: Sequence[Path], images: Images, made_by: str, device: str = "cpu") -> EnsembleResult:
    """Write the ensemble of ``members`` to ``bundle``, with its accuracy on the test images as measured by ``made_by``,
    a command or function. Raises ``WeightsError`` as ``save_ensemble``, and ``DataError`` for no test images."""
    test = images.test
    if not len(test):
        raise DataError(f"{images.name} has no test images, and an ensemble is measured on these: leave --ensemble out")
    save_ensemble(bundle, members)
    guesses = (load_network(one, device)(test).argmax(1) for one in (*members, bundle))
    hits = [int((guess == test.labels).sum()) for guess in guesses]
    *alone, top1 = (100 * count / len(test) for count in hits)
    save_ensemble(bundle, members, (Metric("top1", top1, images.name, len(test), made_by),))
    return EnsembleResult(bundle, len(test), top1, *wilson(hits[-1], len(test)), tuple(alone))
