"""Detection and segmentation: images with boxes or masks in, batches out.

In reading order: ``annotations`` (what an image's objects and masks are), ``opening`` (choosing the source), ``found``
(what every source comes to), one file per kind of source (``coco``, ``voc``, ``yolo``, ``index_masks``, ``scenes``),
``checks`` (problems in the annotations), ``placement`` (image to canvas and back) and ``batches``. Importing this
package does not import torch.
"""

from typing import TYPE_CHECKING

from nextify.data.dense.annotations import IGNORED, DenseImages, DenseSet, DenseTask, Objects
from nextify.system.later import later

if TYPE_CHECKING:
    from nextify.data.dense.opening import open_dense, recognize

__all__ = ["IGNORED", "DenseImages", "DenseSet", "DenseTask", "Objects", "open_dense", "recognize"]


__getattr__ = later(__name__, {"open_dense": "opening", "recognize": "opening"})
