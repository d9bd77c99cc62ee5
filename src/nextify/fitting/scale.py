"""Smaller versions of the roadmaps: a scale shrinks widths, depths and the stem together and keeps every decision.

At every scale the widths keep the paper's ratios (64 : 84 : 96 : 128), the stage ratio still moves blocks into stage 3,
and the ResNet stem and the patchify stem share one stride, so each step means what it means in the paper. No torch.
"""

from dataclasses import dataclass

from nextify.paper.design import Design


class ScaleError(ValueError):
    """An unknown scale; the message lists the known ones."""


@dataclass(frozen=True)
class Scale:
    """How much smaller a network is than the paper's."""

    name: str
    width_divisor: int
    depth_divisor: float
    stems: dict[str, str]
    """The paper's stems, and the ones that replace them at this scale."""
    smallest_image: int
    """Side in pixels to which smaller images are enlarged."""
    largest_image: int
    """Side in pixels to which larger images are reduced."""
    epochs: int
    """Default epochs of the paper's recipe; the original recipe gets 90/300 of them."""
    dense_epochs: int
    """Likewise of boxes and masks, where there are at least ``DENSE_IMAGES``."""
    summary: str

    def epochs_of_dense(self, train_images: int) -> int:
        """Default epochs for boxes and masks: fewer images are shown more often."""
        return max(self.dense_epochs, round(self.dense_epochs * DENSE_IMAGES / max(1, train_images)))

    @property
    def summary_of_backbones(self) -> str:
        """Of detectors and segmenters, which keep the paper's stems."""
        return ", ".join(self.summary.split(", ")[:2])

    def shrink(self, design: Design) -> Design:
        """The design at this scale."""
        return design.with_(
            widths=tuple(max(1, round(w / self.width_divisor)) for w in design.widths),
            depths=tuple(max(1, int(d / self.depth_divisor)) for d in design.depths),
            stem=self.stems.get(design.stem, design.stem),
        )

    def image_size(self, native_side: int | None) -> int:
        """Side in pixels of the square images to train on, for images whose shorter side has ``native_side`` pixels."""
        side = self.largest_image if native_side is None else native_side
        return min(max(side, self.smallest_image), self.largest_image)


DENSE_IMAGES = 1500
"""Training images of ``scenes``, for which the epochs of boxes and masks were chosen."""
_STEMS = {"conv7_pool": "conv3_pool", "patchify4": "patchify2"}
_SCALES = (
    Scale("tiny", 4, 3, _STEMS, 16, 32, 30, 6, "widths ÷ 4, depths ÷ 3, stem stride 2, images of 16 to 32 pixels"),
    Scale("small", 2, 3, _STEMS, 32, 64, 100, 14, "widths ÷ 2, depths ÷ 3, stem stride 2, images of 32 to 64 pixels"),
    Scale("half", 2, 1.5, {}, 64, 128, 200, 20,
          "widths ÷ 2, depths ÷ 1.5, the paper's stem, images of 64 to 128 pixels"),
    Scale("full", 1, 1, {}, 224, 224, 300, 36, "the paper's networks at 224 pixels"),
)  # fmt: skip
SCALES = {known.name: known for known in _SCALES}


def scale(name: str) -> Scale:
    """A scale by name. Raises ``ScaleError`` with the known names for an unknown one."""
    if name not in SCALES:
        raise ScaleError(f"no scale {name!r}; there are {', '.join(SCALES)}")
    return SCALES[name]
