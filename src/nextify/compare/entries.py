"""Which networks are compared: a name of ours, ``NAME@SCALE``, any timm model as ``timm:NAME``, or a bundle's path.

The small line-ups are for images of about 32², where networks of 4 G multiply-adds are out of place. Ours are shrunk by
``fitting.scale`` and fitted to the image size; Swin and ViT have timm's layers with patches of 2 and 4 pixels, windows
of 4, and widths and depths that bring their multiply-adds within 4 % of ConvNeXt's at the same scale.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from nextify.compare.dense import Measured
from nextify.compare.records import Model
from nextify.fitting.fit import fit_design
from nextify.fitting.scale import ScaleError, scale
from nextify.networks.dense.design import Head
from nextify.networks.foreign import Foreign, timm_network
from nextify.networks.foreign import build as build_network
from nextify.networks.zoo import UnknownModel, create_model, find_design
from nextify.paper.design import Design
from nextify.paper.published import published_model
from nextify.system.text import several
from nextify.weights import About, load_bundle

LINE_UP = (
    "resnet50",
    "timm:deit_small_patch16_224",
    "timm:swin_tiny_patch4_window7_224",
    "convnext_tiny",
    "convnext_isotropic_small",
)
"""About 4 to 5 G multiply-adds at 224x224 each: the paper's smallest comparison. DeiT-S is ViT-S/16 by its layers."""
FAMILIES = {"resnet": "ResNet", "deit": "ViT", "vit": "ViT", "swin": "Swin", "convnext": "ConvNeXt"}
FOREIGN_FAMILIES = ("swin", "vit")
_SWIN = {"tiny": 16, "small": 32}
"""Channels of the first stage: Swin-T's 96 divided by 6 and 3, with depths 2, 2, 4, 2 and heads 1, 2, 4, 8."""
_VIT = {"tiny": 48, "small": 96}
"""Width: DeiT-S's 384 divided by 8 and 4, with 4 layers of 3 heads."""


def line_up(scale: str | None) -> tuple[str, ...]:
    """Return the default networks at a scale. Raises ``ScaleError`` for a scale without other families."""
    if scale is None or scale == "full":
        return LINE_UP
    if scale not in _SWIN:
        raise ScaleError(f"there is no line-up at scale {scale!r}: choose tiny or small, or name the networks")
    return tuple(f"{name}@{scale}" for name in ("resnet50", "vit", "swin", "convnext_tiny"))


def at_scale(names: Sequence[str], scale: str | None) -> tuple[str, ...]:
    """Drop repeated names, and give this scale to those that could have one and name none."""
    if scale not in (None, "full"):
        names = [n if ":" in n or "@" in n or is_path(n) else f"{n}@{scale}" for n in names]
    return tuple(dict.fromkeys(names))


def find(name: str) -> Model:
    """Look a name up; nothing is built. Raises ``UnknownModel`` for no model of ours or of timm's, and ``ScaleError``
    for no scale after the @."""
    if name.startswith("timm:"):
        label = re.sub(r"_\d{3}$", "", _known_to_timm(name).partition(".")[0])
        return Model(label, name, family(label), published_model(name))
    if is_path(name):
        label = Path(name).resolve().name
        return Model(name if label == "bundle" else label, name, family(_about(name).name or ""))
    plain, at, size = name.partition("@")
    if not at:
        find_design(name)
        return Model(name, name, family(name), published_model(name))
    scale(size)
    if plain in FOREIGN_FAMILIES:
        _scaled_foreign(plain, size, 32)
    else:
        find_design(plain)
    return Model(name, name, family(plain))


def _known_to_timm(name: str) -> str:
    """timm's own name, with its tag. Raises ``UnknownModel`` with the nearest names."""
    import timm

    known = name.removeprefix("timm:")
    if known.partition(".")[0] not in timm.list_models():
        near = get_close_matches(known, timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(f'timm:{n}' for n in near)}?" if near else "timm.list_models() lists them"
        raise UnknownModel(f"timm has no model {known!r}; {hint}")
    return known


def find_all(names: str | Sequence[str]) -> list[Model]:
    """Look all names up. Labels drop the tag and the size at the end of timm's names, since the network is rebuilt at
    other sizes; labels that would coincide are the names as given."""
    found = [find(name) for name in dict.fromkeys(several(names))]
    times = Counter(entry.model for entry in found)
    return [replace(entry, model=entry.name) if times[entry.model] > 1 else entry for entry in found]


def network(entry: Model, image_size: int, fitted_to: int | None = None, steps: int = 0) -> Design | Foreign:
    """Return the network of an entry as data, for square images of ``image_size``.

    A timm model whose configuration has a fixed input size is made with ``img_size=``: a ViT gets position embeddings
    for that many patches, a Swin keeps its window and pads. A bundle gives its design; its weights change no cost. A
    design of ours is fitted as for a training of ``steps`` on images of ``fitted_to``; where that is None, only a
    design at a scale is fitted, to ``image_size``."""
    if entry.name.startswith("timm:"):
        import timm

        known = entry.name.removeprefix("timm:")
        config = timm.get_pretrained_cfg(known)
        fixed = config is not None and config.fixed_input_size
        return timm_network(known, img_size=image_size) if fixed else timm_network(known)
    if is_path(entry.name):
        return _about(entry.name).design
    plain, _, size = entry.name.partition("@")
    if plain in FOREIGN_FAMILIES:
        return _scaled_foreign(plain, size, image_size)
    design = scale(size).shrink(find_design(plain)) if size else find_design(plain)
    if fitted_to is None and not size:
        return design
    return fit_design(design, image_size=fitted_to or image_size, steps=steps)[0]


def build(
    entry: Model,
    image_size: int,
    num_classes: int | None = None,
    fitted_to: int | None = None,
    head: Head | None = None,
) -> nn.Module:
    """Build the network of :func:`network`, untrained, on torch's current default device: a classifier of
    ``num_classes`` (by default a bundle's own, else 1000), or with ``head`` a detector or segmenter."""
    if head is not None:
        return Measured(network(entry, image_size, fitted_to), head, image_size)
    if is_path(entry.name):
        about = _about(entry.name)
        return create_model(about.design, about.num_classes, in_channels=about.in_channels)
    return build_network(network(entry, image_size, fitted_to), 1000 if num_classes is None else num_classes)


def _scaled_foreign(family: str, scale: str, image_size: int) -> Foreign:
    """Swin or ViT at a small scale, with unfused attention, which trains faster on sequences as short as these."""
    if family not in FOREIGN_FAMILIES or scale not in _SWIN:
        known = ", ".join(f"{name}@{size}" for name in FOREIGN_FAMILIES for size in _SWIN)
        raise UnknownModel(f"no network {family}@{scale}; of other families there are {known} and timm:NAME")
    shape: dict[str, Any]
    if family == "swin":
        name = "swin_tiny_patch4_window7_224"
        shape = {"img_size": image_size, "patch_size": 2, "window_size": 4, "embed_dim": _SWIN[scale]}
        shape |= {"depths": (2, 2, 4, 2), "num_heads": (1, 2, 4, 8)}
    else:
        name = "deit_small_patch16_224"
        shape = {"img_size": image_size, "patch_size": 4, "embed_dim": _VIT[scale], "depth": 4, "num_heads": 3}
    return timm_network(name, fused_attention=False, **shape)


def is_path(name: str) -> bool:
    """Whether a name is that of a bundle on disk; our own names take precedence over files."""
    if name.startswith("timm:") or not Path(name).exists():
        return False
    try:
        find_design(name)
    except UnknownModel:
        return True
    return False


def own_side(name: str) -> int | None:
    """The side of a bundle's images in pixels; None for other shapes, and for what is no bundle."""
    if not is_path(name):
        return None
    height, width = _about(name).preprocessing.size
    return height if height == width else None


def _about(path: str) -> About:
    about = load_bundle(path).about
    about.check_single("nextify compare")
    return about


def family(name: str) -> str:
    """The family of a label or name; ``other`` for one that is not compared, as a row of the roadmap."""
    plain = name.partition(".")[0]
    if "isotropic" in name:
        return "isotropic ConvNeXt"
    if plain.startswith("resnet") and "_" in plain and plain != "resnet50":
        return "other"
    return next((family for start, family in FAMILIES.items() if plain.startswith(start)), "other")
