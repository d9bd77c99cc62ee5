"""Mean and standard deviation of each channel, measured on the images to train on: N channels have no customary
ones."""

import numpy as np

from nextify.data.images import ImageSet

MEASURED = 2_000
"""Images that are measured at most, spread over the set."""


def measured(images: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation over all pixels of each channel, to six digits; a channel of one value has 1 for the
    latter. Raises ``DataError`` as ``load`` does."""
    count = min(MEASURED, len(images))
    places = np.arange(count) * len(images) // count
    total = squares = np.zeros(())
    pixels = 0
    for i in places.tolist():
        loaded = images.load(i)
        values = loaded.astype(np.float64).reshape(-1, loaded.shape[-1])
        total, squares, pixels = total + values.sum(0), squares + np.square(values).sum(0), pixels + len(values)
    mean = total / pixels
    deviation = np.sqrt(np.maximum(squares / pixels - np.square(mean), 0))
    deviation = np.where(deviation > 1e-6 * np.maximum(np.abs(mean), 1e-3), deviation, 1.0)
    return tuple(float(f"{x:.6g}") for x in mean), tuple(float(f"{x:.6g}") for x in deviation)
