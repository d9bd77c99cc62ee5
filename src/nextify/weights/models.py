"""Networks and backbones by name or design, with given weights or fresh ones."""

import re
from collections.abc import Sequence
from pathlib import Path

from nextify.networks import zoo
from nextify.networks.backbone import Backbone, Format
from nextify.networks.network import ConvNet
from nextify.paper.design import Design
from nextify.weights.loading import Loaded, load
from nextify.weights.sources import IN_TIMM


def create_model(
    name_or_design: str | Design,
    num_classes: int | None = None,
    *,
    in_channels: int | None = None,
    stochastic_depth: float = 0.0,
    weights: str | Path | None = None,
    pretrained: bool = False,
) -> ConvNet:
    """Build the network of a design in plain torch; ``nextify.kernels.install`` makes it faster.

    Args:
        name_or_design: a name of ``list_models()`` or a ``Design``.
        num_classes: width of the classifier; 0 returns features. The default is the weights' number, or 1000.
        in_channels: channels of the images. The default is the weights' number, or 3.
        stochastic_depth: probability of dropping the last block's branch in training.
        weights: a bundle, another library's file, ``hf:owner/name`` or ``timm:name``. ``nextify.weights.load`` returns
            their preprocessing, classes and licence too. By default, weights are drawn from torch's global generator.
        pretrained: timm's argument, refused in favour of ``weights``, which names what is loaded.

    Raises:
        ValueError: ``pretrained`` is True; the message says which ``weights`` to give.
        UnknownModel: there is no design of that name.
        WeightsError: the weights cannot be read, are not safe, or belong to another design.
    """
    if pretrained:
        name = name_or_design if isinstance(name_or_design, str) else ""
        timms = f"timm:{name}" if re.fullmatch(IN_TIMM, name) else "timm:NAME"
        raise ValueError(f'pretrained=True names no weights: give weights="{timms}", hf:owner/name, a file or a bundle')
    if weights is None:
        channels, classes = 3 if in_channels is None else in_channels, 1000 if num_classes is None else num_classes
        return zoo.create_model(name_or_design, classes, in_channels=channels, stochastic_depth=stochastic_depth)
    return _loaded(weights, name_or_design, num_classes, in_channels, stochastic_depth).single("create_model")


def _loaded(
    weights: str | Path, design: str | Design, num_classes: int | None, in_channels: int | None, stochastic_depth: float
) -> Loaded:
    zoo.find_design(design).warn_of_inert_choices()
    loaded = load(weights, design, num_classes=num_classes, in_channels=in_channels, stochastic_depth=stochastic_depth)
    loaded.single("this").train()
    return loaded


def create_backbone(
    name_or_design: str | Design,
    out_indices: Sequence[int] | int | None = None,
    *,
    features_only: bool = True,
    in_chans: int = 3,
    norms: bool = False,
    frozen_stages: int = 0,
    output_format: Format = "NCHW",
    drop_path_rate: float = 0.0,
    weights: str | Path | None = None,
) -> Backbone:
    """Build the backbone of a design, with the arguments of ``timm.create_model(…, features_only=True)``.

    The backbone is plain torch; ``nextify.kernels.install`` makes it faster.

    Args:
        name_or_design: as for ``create_model``.
        out_indices: stages whose maps are returned, numbered as in timm.
        norms: whether each output gets a fresh norm of the network's kind.
        frozen_stages: 0 freezes nothing, 1 the stem and the first stage, 2 the stem and the first two, …
        output_format: axis order of the maps, ``NCHW`` or ``NHWC``.
        drop_path_rate: stochastic depth.
        weights: as for ``create_model``; their classifier is left out. With ``norms``, those of the official detection
            and segmentation backbones (``norm0`` to ``norm3``) become the outputs' norms.

    Raises:
        ValueError: ``features_only`` is False, or there is no such stage.
        UnknownModel: there is no design of that name.
        WeightsError: the weights cannot be read, or belong to another design.
    """
    if not features_only:
        raise ValueError("a backbone returns features only; nextify.create_model returns logits")
    loaded = None if weights is None else _loaded(weights, name_or_design, 0, in_chans, drop_path_rate)
    net = (
        zoo.create_model(name_or_design, 0, in_channels=in_chans, stochastic_depth=drop_path_rate)
        if loaded is None
        else loaded.single("create_backbone")
    )
    backbone = Backbone(net, out_indices, norms=norms, frozen_stages=frozen_stages, output_format=output_format)
    if loaded is not None and loaded.output_norms:
        own = backbone.state_dict()
        backbone.load_state_dict({n: t for n, t in loaded.output_norms.items() if n in own}, strict=False)
    return backbone
