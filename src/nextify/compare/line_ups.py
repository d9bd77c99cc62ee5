"""Who stands in a comparison that names nobody: the paper's smallest networks, or one of each family at a small scale.

The small line-ups are for images of about 32², where networks of 4 G multiply-adds are out of place. Ours are shrunk
as ``scale.py`` shrinks them and fitted to the image size; Swin and ViT have timm's layers with patches of 2 and 4
pixels, windows of 4, and widths and depths that bring their multiply-adds within 4 % of ConvNeXt's at the same scale
(counted at 32² with 10 classes; ``tests/compare/test_accuracy.py`` holds them to it):

    scale   ConvNeXt  ResNet   Swin     ViT
    tiny    8.75 M    8.44 M   8.84 M   8.96 M
    small   33.4 M    32.9 M   34.2 M   32.3 M
"""

from __future__ import annotations

from nextify.fitting.scale import SCALES, ScaleError
from nextify.networks.foreign import Foreign, timm_network
from nextify.networks.zoo import UnknownModel

LINE_UP = (
    "resnet50",
    "timm:deit_small_patch16_224",
    "timm:swin_tiny_patch4_window7_224",
    "convnext_tiny",
    "convnext_isotropic_small",
)
"""About 4 to 5 G multiply-adds at 224x224 each: the paper's smallest comparison. DeiT-S is ViT-S/16 by its layers."""
FOREIGN_FAMILIES = ("swin", "vit")
_SWIN = {"tiny": 16, "small": 32}
"""Channels of the first stage, Swin-T's 96 divided by 6 and 3; depths 2, 2, 4, 2 and heads 1, 2, 4, 8 in both."""
_VIT = {"tiny": 48, "small": 96}
"""Width, DeiT-S's 384 divided by 8 and 4; 4 layers of 3 heads in both."""


def line_up(scale: str | None) -> tuple[str, ...]:
    """Names of the networks. Raises ``ScaleError`` for a scale without other families."""
    if scale is None or scale == "full":
        return LINE_UP
    if scale not in _SWIN:
        raise ScaleError(f"there is no line-up at scale {scale!r}: choose tiny or small, or name the networks")
    return tuple(f"{name}@{scale}" for name in ("resnet50", "vit", "swin", "convnext_tiny"))


def scaled_foreign(family: str, scale: str, image_size: int) -> Foreign:
    """Swin or ViT at a small scale, for square images of ``image_size``.

    Attention is computed in its parts, which trains faster on sequences as short as these.

    Raises:
        UnknownModel: no such family, or none at that scale.
    """
    if family not in FOREIGN_FAMILIES or scale not in _SWIN:
        known = ", ".join(f"{name}@{size}" for name in FOREIGN_FAMILIES for size in _SWIN)
        raise UnknownModel(f"no network {family}@{scale}; of other families there are {known} and timm:NAME")
    if family == "swin":
        return timm_network(
            "swin_tiny_patch4_window7_224",
            fused_attention=False,
            img_size=image_size,
            patch_size=2,
            window_size=4,
            embed_dim=_SWIN[scale],
            depths=(2, 2, 4, 2),
            num_heads=(1, 2, 4, 8),
        )
    return timm_network(
        "deit_small_patch16_224",
        fused_attention=False,
        img_size=image_size,
        patch_size=4,
        embed_dim=_VIT[scale],
        depth=4,
        num_heads=3,
    )


assert set(_SWIN) == set(_VIT) <= set(SCALES)
