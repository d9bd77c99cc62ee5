"""What the paper prints for whole models (arXiv 2201.03545v2, Tables 1, 2 and 12); the rows of the roadmaps carry
their own figures in ``roadmap.py``. Top-1 is on ImageNet-1K, in percent. No torch here.
"""

from dataclasses import dataclass

from nextify.paper.roadmap import ROADMAPS, Published


@dataclass(frozen=True)
class PublishedModel:
    """Figures as printed, None where the paper gives none."""

    parameters_millions: float | None
    gflops: float | None
    """Multiply-adds at 224x224 in units of 10^9."""
    top1: float | None = None
    """Trained on ImageNet-1K, tested at 224x224."""
    top1_384: float | None = None
    """Trained on ImageNet-1K, fine-tuned and tested at 384x384."""
    top1_in22k: float | None = None
    """Pre-trained on ImageNet-22K, tested at 224x224."""
    top1_in22k_384: float | None = None
    """Pre-trained on ImageNet-22K, fine-tuned and tested at 384x384."""
    gflops_384: float | None = None
    """At 384x384."""
    images_per_second: float | None = None
    """Inference at 224x224 on an A100, TF32, channels last (Table 12)."""
    images_per_second_384: float | None = None
    """The same at 384x384."""


MODELS: dict[str, PublishedModel] = {
    "convnext_tiny": PublishedModel(28.6, 4.5, 82.1, None, 82.9, 84.1, images_per_second=1943.5),
    "convnext_small": PublishedModel(50.2, 8.7, 83.1, None, 84.6, 85.8, images_per_second=1275.3),
    "convnext_base": PublishedModel(88.6, 15.4, 83.8, 85.1, 85.8, 86.8, 45.0, 969.0, 336.6),
    "convnext_large": PublishedModel(197.8, 34.4, 84.3, 85.5, 86.6, 87.5, 101.0, 611.5, 211.4),
    "convnext_xlarge": PublishedModel(350.2, 60.9, None, None, 87.0, 87.8, 179.0, 424.4, 147.4),
    "convnext_isotropic_small": PublishedModel(22, 4.3, 79.7),
    "convnext_isotropic_base": PublishedModel(87, 16.9, 82.0),
    "convnext_isotropic_large": PublishedModel(306, 59.7, 82.6),
}

OTHER_FAMILIES: dict[str, PublishedModel] = {
    "swin_tiny_patch4_window7_224": PublishedModel(28, 4.5, 81.3, images_per_second=1325.6),
    "swin_small_patch4_window7_224": PublishedModel(50, 8.7, 83.0, images_per_second=857.3),
    "swin_base_patch4_window7_224": PublishedModel(88, 15.4, 83.5, None, 85.2, images_per_second=662.8),
    "swin_base_patch4_window12_384": PublishedModel(
        88, None, None, 84.5, None, 86.4, gflops_384=47.1, images_per_second_384=242.5
    ),
    "swin_large_patch4_window7_224": PublishedModel(None, None, None, None, 86.3, images_per_second=435.9),
    "swin_large_patch4_window12_384": PublishedModel(None, None, None, None, None, 87.3, images_per_second_384=157.9),
    "deit_small_patch16_224": PublishedModel(22, 4.6, 79.8),
    "deit_base_patch16_224": PublishedModel(87, 17.6, 81.8),
    "vit_small_patch16_224": PublishedModel(22, 4.6, 79.8),
    "vit_base_patch16_224": PublishedModel(87, 17.6, 81.8),
    "vit_large_patch16_224": PublishedModel(304, 61.6, 82.6),
}
"""The paper's other networks, under timm's names."""


def published_model(name: str) -> PublishedModel | None:
    """What the paper prints for a network: a name of ``list_models()``, or ``timm:NAME``; None where it prints nothing.

    Weights that timm tags (``timm:swin_tiny_patch4_window7_224.ms_in1k``) are the same network. The rows of the
    roadmaps have no printed parameters; a starting point by itself (``resnet50``) has the top-1 of its original recipe.
    """
    plain = name.removeprefix("timm:").partition(".")[0]
    if name.startswith("timm:") and plain in OTHER_FAMILIES:
        return OTHER_FAMILIES[plain]
    row = _row(plain)
    return PublishedModel(None, row.gflops, row.top1) if row else MODELS.get(plain)


def published_top1(name: str) -> float | None:
    """The paper's top-1 at 224x224 without further images for a name of ``list_models()``, or None."""
    row = _row(name)
    return row.top1 if row else MODELS[name].top1 if name in MODELS else None


def published_gflops(name: str) -> float | None:
    """The GFLOPs at 224x224 that the paper prints for a name of ``list_models()``, or None."""
    row = _row(name)
    return row.gflops if row else MODELS[name].gflops if name in MODELS else None


def _row(name: str) -> Published | None:
    """A roadmap's starting point by itself (``resnet50``) is its baseline, trained with the original recipe."""
    if name in ROADMAPS:
        return ROADMAPS[name].published
    rows = {f"{regime}_{row.name}": row for regime, roadmap in ROADMAPS.items() for row in roadmap}
    return rows[name].published if name in rows else None
