"""Likely label errors by confident learning (Northcutt, Jiang and Chuang 2021, arXiv 1911.00068).

An image counts as mislabelled where a network that has not seen it is confident of another class: its probability of
that class is at least the mean that images labelled so have. The rule and the order are those of cleanlab's
``find_label_issues(filter_by="confident_learning", return_indices_ranked_by="self_confidence")``. Where an image
reaches the threshold of several classes, the most probable class of all counts; in the paper, that of these.
"""

import numpy as np
import numpy.typing as npt

_CLOSE = 1e-6
"""Probability by which a threshold may be missed: cleanlab's."""
_NEVER = 2.0
"""Threshold of a class that no image is labelled with."""


def label_errors(
    labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.floating]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which labels are likely wrong, the least probable label first, and the class that each image rather is: indices
    ``(M,)`` of images and the suggested classes ``(M,)``.

    Of ``labels (N,)``, indices of classes, and ``probabilities (N, K)`` of a network that was not trained on these
    images. Raises ``ValueError`` where not each label has one row of probabilities."""
    if probabilities.ndim != 2 or len(labels) != len(probabilities):
        raise ValueError(f"each label needs one row of probabilities, got {len(labels)} and {probabilities.shape}")
    classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=classes)
    means = np.bincount(labels, own, classes) / np.maximum(counts, 1)
    confident = probabilities >= np.where(counts > 0, np.maximum(means, 2 * _CLOSE), _NEVER) - _CLOSE
    predicted = probabilities.argmax(1)
    suggested = np.where(confident.sum(1) > 1, predicted, confident.argmax(1))
    found = np.flatnonzero(confident.any(1) & (suggested != labels) & (predicted != labels))
    found = found[np.argsort(own[found], kind="stable")]
    return found, suggested[found]
