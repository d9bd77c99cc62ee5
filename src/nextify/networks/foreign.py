"""Networks of other families as plain data: one of timm's, by its name and what is changed of it.

A trial's network is a Design of ours or one of these; the trainer treats both alike. No torch here until one is built.
"""

from __future__ import annotations

import warnings
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
    """As timm names it, ``swin_tiny_patch4_window7_224`` for one."""
    arguments: tuple[tuple[str, Any], ...] = ()
    """What is changed of it: arguments of timm's constructor and their values, by name."""
    version: str = ""
    """timm's, since its layers and initial weights belong to what decides a training's result."""
    fused_attention: bool = True
    """Whether attention is one operation of torch's, timm's default, or its parts. On a CPU the fused one's backward
    pass took 69 % of a training step of a ViT with 65 tokens, and the step was 3 times as long as with the parts."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON and fingerprints."""
        return {
            "library": "timm",
            "version": self.version,
            "name": self.name,
            "arguments": dict(self.arguments),
            "fused_attention": self.fused_attention,
        }


def timm_network(name: str, *, fused_attention: bool = True, **arguments: Any) -> Foreign:
    """timm's network of that name with these arguments changed, in the installed version."""
    return Foreign(name, tuple(sorted(arguments.items())), metadata.version("timm"), fused_attention)


def build(network: Design | Foreign, num_classes: int, stochastic_depth: float = 0.0) -> nn.Module:
    """The torch module with fresh weights: ours, or timm's as timm initializes it.

    Args:
        stochastic_depth: chance that the last block's branch is dropped in training; grows linearly from 0 in both.
    """
    if isinstance(network, Design):
        return create_model(network, num_classes, stochastic_depth=stochastic_depth)
    import timm

    arguments: dict[str, Any] = {**dict(network.arguments), "num_classes": num_classes}
    if stochastic_depth:
        arguments["drop_path_rate"] = stochastic_depth
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's notes on its registry are nothing a user can act on
        model: nn.Module = timm.create_model(network.name, pretrained=False, **arguments)
    if not network.fused_attention:
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # type: ignore[assignment]
    return model


def classifier(model: nn.Module) -> nn.Module:
    """The last layer of a network of ours or of timm's."""
    from nextify.networks.network import ConvNet

    return model.head.classifier if isinstance(model, ConvNet) else model.get_classifier()  # type: ignore[operator]


def undecayed_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay spares. Ours say it themselves; of timm's, as timm does it, all
    vectors (biases, norms, scales) and what the network names besides (position embeddings, class tokens)."""
    from nextify.networks.network import ConvNet

    if isinstance(model, ConvNet):
        return set(model.undecayed_parameters())
    named: set[str] = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()  # type: ignore[operator]
    return named | {name for name, p in model.named_parameters() if p.ndim <= 1 or name.endswith(".bias")}
