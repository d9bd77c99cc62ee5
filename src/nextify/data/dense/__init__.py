"""Detection and segmentation: images with boxes or masks in, batches out.

In reading order: ``annotations`` (what an image's objects and masks are), ``opening`` (choosing the source), ``found``
(what every source comes to), one file per kind of source (``coco``, ``voc``, ``yolo``, ``index_masks``, ``scenes``),
``checks`` (problems in the annotations), ``placement`` (image to canvas and back) and ``batches``. Importing this
package does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nextify.data.dense.annotations import IGNORED, DenseImages, DenseSet, DenseTask, Objects

if TYPE_CHECKING:
    from nextify.data.dense.opening import open_dense, recognize

__all__ = ["IGNORED", "DenseImages", "DenseSet", "DenseTask", "Objects", "open_dense", "recognize"]


def __getattr__(name: str) -> Any:
    if name in ("open_dense", "recognize"):
        return getattr(import_module("nextify.data.dense.opening"), name)
    raise AttributeError(f"module 'nextify.data.dense' has no attribute {name!r}")
