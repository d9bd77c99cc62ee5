"""Who is compared: a name of ours, any timm model as ``timm:NAME``, or a bundle by its path; built at any size."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from nextify.published import PublishedModel, published_model
from nextify.zoo import UnknownModel, create_model, find_design

LINE_UP = (
    "resnet50",
    "timm:deit_small_patch16_224",
    "timm:swin_tiny_patch4_window7_224",
    "convnext_tiny",
    "convnext_isotropic_small",
)
"""About 4 to 5 G multiply-adds at 224x224 each: the paper's smallest comparison. DeiT-S is ViT-S/16 by its layers."""

FAMILIES = {"resnet": "ResNet", "deit": "ViT", "vit": "ViT", "swin": "Swin", "convnext": "ConvNeXt"}


@dataclass(frozen=True)
class Entry:
    """One network of the comparison, before it is built."""

    name: str
    """As it was asked for."""
    label: str
    """As it is shown."""
    family: str
    """ConvNeXt, isotropic ConvNeXt, ResNet, ViT, Swin or other."""
    published: PublishedModel | None
    """The paper's figures for it."""


def find(name: str) -> Entry:
    """What a name means; builds nothing.

    Raises:
        UnknownModel: no such model of ours or of timm's.
    """
    if name.startswith("timm:"):
        import timm

        known = name.removeprefix("timm:")
        if known.partition(".")[0] not in timm.list_models():
            from difflib import get_close_matches

            near = get_close_matches(known, timm.list_models(), n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(f'timm:{n}' for n in near)}?" if near else "timm.list_models() lists them"
            raise UnknownModel(f"timm has no model {known!r}; {hint}")
        label = re.sub(r"_\d{3}$", "", known.partition(".")[0])
    elif Path(name).exists():
        label = Path(name).resolve().name
        return Entry(name, label, family(_about(name).name), None)
    else:
        find_design(name)
        label = name
    return Entry(name, label, family(label), published_model(name))


def find_all(names: Sequence[str]) -> list[Entry]:
    """``find`` for each name. Labels leave out the tag and the size at the end of timm's names, since the network is
    rebuilt at other sizes; where that would make two of them alike, they are the names as given."""
    found = [find(name) for name in dict.fromkeys(names)]
    times = Counter(entry.label for entry in found)
    return [replace(entry, label=entry.name) if times[entry.label] > 1 else entry for entry in found]


def build(entry: Entry, image_size: int) -> nn.Module:
    """A fresh network for square images of ``image_size``, on torch's current default device.

    A timm model that its configuration calls of fixed size is made with ``img_size=``: a ViT gets position embeddings
    for that many patches, a Swin keeps its window and pads. A bundle gives its design and classes; its weights, which
    change no cost, are not used.
    """
    name = entry.name
    if name.startswith("timm:"):
        import timm

        known = name.removeprefix("timm:")
        config = timm.get_pretrained_cfg(known)
        size: dict[str, Any] = {"img_size": image_size} if config is not None and config.fixed_input_size else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # timm's notes on its registry are nothing a comparison can act on
            return timm.create_model(known, pretrained=False, **size)  # type: ignore[no-any-return]
    if Path(name).exists() and not _is_ours(name):
        about = _about(name)
        return create_model(about.design, about.num_classes, in_channels=about.in_channels)
    return create_model(name)


def _is_ours(name: str) -> bool:
    try:
        find_design(name)
    except UnknownModel:
        return False
    return True


def _about(path: str) -> Any:
    from nextify.weights import load_bundle

    return load_bundle(path).about


def family(name: str) -> str:
    if "isotropic" in name:
        return "isotropic ConvNeXt"
    plain = name.partition(".")[0]
    if plain.startswith("resnet") and "_" in plain and plain != "resnet50":
        return "other"  # a row of the roadmap is neither
    return next((family for start, family in FAMILIES.items() if plain.startswith(start)), "other")
