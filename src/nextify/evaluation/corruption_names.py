"""The names of ImageNet-C's corruptions, their severities, and its published baseline.

Without NumPy, so that the command line refuses a wrong name at once.
"""

from collections.abc import Sequence

GROUPS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
"""The paper's groups, in its order."""
CORRUPTIONS: tuple[str, ...] = tuple(name for group in GROUPS.values() for name in group)
SEVERITIES = (1, 2, 3, 4, 5)
ALEXNET = "alexnet"
"""The baseline whose errors were published."""


def checked(
    corruptions: Sequence[str], severities: Sequence[int], baseline: object = None
) -> tuple[list[str], list[int]]:
    """Corruptions and severities in the paper's order. Raises ``ValueError`` for one that does not exist, without any
    severity, and for other severities than those of the published ``baseline``."""
    if unknown := [name for name in corruptions if name not in CORRUPTIONS]:
        raise ValueError(f"no corruption is called {', '.join(unknown)}; there are {', '.join(CORRUPTIONS)}")
    if any(s not in SEVERITIES for s in severities) or not severities:
        raise ValueError(f"severities must be some of 1 to 5, got {', '.join(map(str, severities)) or 'none'}")
    ordered = [s for s in SEVERITIES if s in severities]
    if baseline == ALEXNET and ordered != list(SEVERITIES):
        raise ValueError("AlexNet's published errors are means over all five severities: leave --severities out")
    return [name for name in CORRUPTIONS if name in corruptions], ordered
