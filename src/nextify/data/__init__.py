"""Images in, batches out: ``open_images``, the checks before a training, transforms, loaders.

In reading order: ``source`` (its name), ``opening`` (choosing how to read it), ``sources.parts`` and
``sources.listing`` (rules for all sources), ``encoded`` (encoded images by index), one file per kind of source
(``sources.shards`` for those of several files), ``decode`` (file to pixels), ``bands`` (three of more bands),
``preprocessing`` (pixels to network input), ``checks`` (problems in the data), ``images`` (the data set), ``kept``
(decoded images on disk), ``jpeg`` (decoding part of an image), ``transforms``, ``randomness``, ``batches`` and
``on_device``; ``dense`` is detection and segmentation; ``foreign`` compares with the preprocessing of other
libraries. Importing this package imports neither NumPy nor torch.
"""

from typing import TYPE_CHECKING

from nextify.data.errors import DataError
from nextify.system.later import later

if TYPE_CHECKING:
    from nextify.data.batches import TestBatches, TrainBatches
    from nextify.data.images import Images, ImageSet
    from nextify.data.on_device import finish
    from nextify.data.opening import open_images

_LATER = {
    "ImageSet": "images",
    "Images": "images",
    "TestBatches": "batches",
    "TrainBatches": "batches",
    "finish": "on_device",
    "open_images": "opening",
}

__all__ = ["DataError", "ImageSet", "Images", "TestBatches", "TrainBatches", "finish", "open_images"]


__getattr__ = later(__name__, _LATER)
