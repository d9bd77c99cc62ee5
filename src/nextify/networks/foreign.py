"""Networks of other families as plain data: a network of timm's, by name and changed arguments.

A trial trains a ``Design`` or a ``Foreign`` network. No torch is imported until a network is built.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from nextify.networks.zoo import create_model
from nextify.paper.design import Design

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Foreign:
    """A network of timm's registry."""

    name: str
    """timm's, such as ``swin_tiny_patch4_window7_224``."""
    arguments: tuple[tuple[str, Any], ...] = ()
    """Changed arguments of timm's constructor, as sorted pairs of name and value."""
    version: str = ""
    """Of timm, since its layers and initial weights help decide a training's result."""
    fused_attention: bool = True
    """Whether attention is one fused torch operation, timm's default; the parts are much faster to train on a CPU."""

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON and fingerprints."""
        return {
            "library": "timm",
            "version": self.version,
            "name": self.name,
            "arguments": dict(self.arguments),
            "fused_attention": self.fused_attention,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Foreign:
        arguments = tuple(sorted((name, _frozen(value)) for name, value in values["arguments"].items()))
        return cls(values["name"], arguments, values["version"], values["fused_attention"])


def _frozen(value: Any) -> Any:
    """Lists, as JSON has them, as the tuples they were."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def timm_network(name: str, *, fused_attention: bool = True, **arguments: Any) -> Foreign:
    """The network of that name in the installed timm, with ``arguments`` for its constructor."""
    return Foreign(name, tuple(sorted(arguments.items())), metadata.version("timm"), fused_attention)


def build(
    network: Design | Foreign, num_classes: int, stochastic_depth: float = 0.0, in_channels: int = 3
) -> nn.Module:
    """The torch module with fresh weights; timm's networks are initialized by timm. ``stochastic_depth``: probability
    of dropping the last block's branch in training; it grows linearly from 0."""
    if isinstance(network, Design):
        return create_model(network, num_classes, in_channels=in_channels, stochastic_depth=stochastic_depth)
    channels = {"in_chans": in_channels} if in_channels != 3 else {}
    model: nn.Module = built_by_timm(network, stochastic_depth, num_classes=num_classes, **channels)
    return model


def built_by_timm(network: Foreign, stochastic_depth: float = 0.0, **arguments: Any) -> Any:
    """timm's module with fresh weights, from the network's arguments and further ones."""
    import timm

    if stochastic_depth:
        arguments["drop_path_rate"] = stochastic_depth
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a user cannot act on timm's notes about its registry
        model: nn.Module = timm.create_model(network.name, pretrained=False, **dict(network.arguments) | arguments)
    if not network.fused_attention:
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # type: ignore[assignment]
    return model
