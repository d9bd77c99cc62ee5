"""Who is compared: a name of ours, ``NAME@SCALE``, any timm model as ``timm:NAME``, or a bundle by its path; built at
any size."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from nextify.compare.line_ups import FOREIGN_FAMILIES, scaled_foreign
from nextify.fitting.fit import fit_design
from nextify.fitting.scale import scale
from nextify.networks.foreign import Foreign, timm_network
from nextify.networks.foreign import build as build_network
from nextify.networks.zoo import UnknownModel, create_model, find_design
from nextify.paper.design import Design
from nextify.paper.published import PublishedModel, published_model
from nextify.system.several import several

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
        ScaleError: no such scale behind the @.
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
        return Entry(name, label, family(label), published_model(name))
    if is_path(name):
        label = Path(name).resolve().name
        return Entry(name, label, family(_about(name).name), None)
    if "@" in name:
        plain, _, size = name.partition("@")
        scale(size)
        if plain in FOREIGN_FAMILIES:
            scaled_foreign(plain, size, 32)
        else:
            find_design(plain)
        return Entry(name, name, family(plain), None)
    find_design(name)
    return Entry(name, name, family(name), published_model(name))


def find_all(names: str | Sequence[str]) -> list[Entry]:
    """``find`` for each name. Labels leave out the tag and the size at the end of timm's names, since the network is
    rebuilt at other sizes; where that would make two of them alike, they are the names as given."""
    found = [find(name) for name in dict.fromkeys(several(names))]
    times = Counter(entry.label for entry in found)
    return [replace(entry, label=entry.name) if times[entry.label] > 1 else entry for entry in found]


def network(entry: Entry, image_size: int, fitted_to: int | None = None, steps: int = 0) -> Design | Foreign:
    """The network of an entry as data, for square images of ``image_size``.

    A timm model that its configuration calls of fixed size is made with ``img_size=``: a ViT gets position embeddings
    for that many patches, a Swin keeps its window and pads. A bundle gives its design; its weights, which change no
    cost, are not used.

    Args:
        fitted_to: side of the images that it is trained on: a design of ours is fitted to them as a training fits it.
            None takes a named design as it is, and fits one at a scale to ``image_size``.
        steps: of the training, for the fit.
    """
    name = entry.name
    if name.startswith("timm:"):
        import timm

        known = name.removeprefix("timm:")
        config = timm.get_pretrained_cfg(known)
        if config is not None and config.fixed_input_size:
            return timm_network(known, img_size=image_size)
        return timm_network(known)
    if is_path(name):
        return _about(name).design  # type: ignore[no-any-return]
    plain, _, size = name.partition("@")
    if plain in FOREIGN_FAMILIES:
        return scaled_foreign(plain, size, image_size)
    design = scale(size).shrink(find_design(plain)) if size else find_design(plain)
    if fitted_to is None and not size:
        return design
    return fit_design(design, image_size=fitted_to or image_size, steps=steps)[0]


def build(entry: Entry, image_size: int, num_classes: int | None = None, fitted_to: int | None = None) -> nn.Module:
    """A fresh network of :func:`network` on torch's current default device.

    Args:
        num_classes: None takes a bundle's own, otherwise 1000.
    """
    if is_path(entry.name):
        about = _about(entry.name)
        return create_model(about.design, about.num_classes, in_channels=about.in_channels)
    return build_network(network(entry, image_size, fitted_to), 1000 if num_classes is None else num_classes)


def is_path(name: str) -> bool:
    """Whether a name is that of a bundle on disk; names of ours go before files of the same name."""
    if name.startswith("timm:") or not Path(name).exists():
        return False
    try:
        find_design(name)
    except UnknownModel:
        return True
    return False


def _about(path: str) -> Any:
    from nextify.weights import load_bundle

    return load_bundle(path).about


def family(name: str) -> str:
    """The family of a label or name, ``other`` where it is none of those compared."""
    if "isotropic" in name:
        return "isotropic ConvNeXt"
    plain = name.partition(".")[0]
    if plain.startswith("resnet") and "_" in plain and plain != "resnet50":
        return "other"  # a row of the roadmap is neither
    return next((family for start, family in FAMILIES.items() if plain.startswith(start)), "other")
