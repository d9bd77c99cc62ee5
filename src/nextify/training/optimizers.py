"""Optimizers and parameter groups from a recipe.

Each network names the parameters without weight decay. Depth groups for layer-wise learning-rate decay follow the
paper's appendix A.2: three consecutive blocks form a group in a stage of more than three; any other stage is one group.
The official code has these groups for depths of 3, 3, 27 and 3; for other depths they are ours. With ``single`` each
block is a group, as in facebookresearch/ConvNeXt-V2 ``optim_factory.py``.
"""

from typing import TypedDict, assert_never

import torch
from torch import nn

from nextify.networks.dense.network import DenseNetwork
from nextify.networks.masked.network import MaskedAutoencoder
from nextify.networks.network import ConvNet, Trunk
from nextify.paper.recipe import SGD, AdamW, Recipe
from nextify.paper.recipe import Muon as MuonSettings
from nextify.training.muon import Muon

BLOCKS_PER_GROUP = 3


class Group(TypedDict):
    """Parameters that are updated with equal settings, as torch's optimizers take them."""

    params: list[nn.Parameter]
    weight_decay: float
    learning_rate_scale: float
    """Share of the schedule's learning rate."""
    matrix: bool
    """Whether they are matrices that Muon takes."""


def classifier(model: nn.Module) -> nn.Module:
    """The classifier of one of our networks or of timm's, or the last layers of a dense network or an autoencoder."""
    if isinstance(model, MaskedAutoencoder):
        return model.prediction
    if isinstance(model, DenseNetwork):
        return nn.ModuleList(model.outputs())
    return model.head.classifier if isinstance(model, ConvNet) else model.get_classifier()  # type: ignore[operator]


def undecayed_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters without weight decay.

    Our networks name them. In timm's networks they are, as in timm itself, all vectors (biases, norms, scales) and the
    parameters that the network names (position embeddings, class tokens).
    """
    if isinstance(model, ConvNet | DenseNetwork | MaskedAutoencoder):
        return set(model.undecayed_parameters())
    named: set[str] = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()  # type: ignore[operator]
    return named | {name for name, p in model.named_parameters() if p.ndim <= 1 or name.endswith(".bias")}


def depth_group(name: str, depths: tuple[int, ...], *, single: bool = False, stages: bool = False) -> int:
    """Depth group of a parameter: 0 for the stem (``single``: 1, with the first block), increasing towards the head.
    ``stages``: each stage is a group."""
    place = name.split(".")
    blocks = max(depths) if stages else 1 if single else BLOCKS_PER_GROUP
    groups = [depth // blocks if depth > blocks else 1 for depth in depths]
    if place[0] == "stem":
        return int(single)
    if place[0] != "stages":
        return sum(groups) + 1
    stage = int(place[1])
    block = int(place[3]) if place[2] == "blocks" else 0
    return 1 + sum(groups[:stage]) + min(block // blocks, groups[stage] - 1)


def matrices(model: nn.Module) -> set[int]:
    """Ids of the parameters that Muon updates: weights of linear layers and of convolutions that mix all channels,
    except those of the first layer, which sees the image, and of the classifier."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    last = {id(p) for p in classifier(model).parameters()}
    return {
        id(layer.weight)
        for layer in layers[1:]
        if id(layer.weight) not in last and (isinstance(layer, nn.Linear) or layer.groups == 1)
    }


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[Group]:
    """The parameters that are trained, grouped by their settings. Raises ``ValueError`` where layer decay is asked for
    on another library's network, whose depth groups are unknown."""
    spared = undecayed_parameters(model) if not isinstance(recipe.optimizer, SGD) else set()
    trunk = model.trunk if isinstance(model, DenseNetwork) else model
    if not isinstance(trunk, Trunk) and recipe.layer_decay != "off":
        raise ValueError("layer_decay works only for Nextify's own networks: set it to off")
    depths = tuple(len(stage.blocks) for stage in trunk.stages) if isinstance(trunk, Trunk) else ()  # type: ignore[arg-type]
    kind = {"single": recipe.layer_decay_groups == "single", "stages": recipe.layer_decay_groups == "stage"}
    deepest = depth_group("head", depths, **kind) if depths else 0
    chosen = matrices(model) if isinstance(recipe.optimizer, MuonSettings) else set()
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = 1.0
        if recipe.layer_decay != "off":
            scale = recipe.layer_decay ** (deepest - depth_group(name.removeprefix("backbone."), depths, **kind))
        decay = 0.0 if name in spared else recipe.weight_decay
        matrix = id(parameter) in chosen
        if isinstance(recipe.optimizer, MuonSettings) and not matrix:
            scale *= recipe.optimizer.rest_learning_rate_share
        groups.setdefault((decay, scale, matrix), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "learning_rate_scale": scale, "matrix": matrix}
        for (decay, scale, matrix), parameters in groups.items()
    ]


def build_optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """The recipe's optimizer; for Muon, which updates matrices only, a pair with AdamW for the rest."""
    groups = parameter_groups(model, recipe)
    for_muon = [dict(group) for group in groups if group["matrix"]]
    rest = [dict(group) for group in groups if not group["matrix"]]
    rate = recipe.learning_rate
    match recipe.optimizer:
        case SGD(momentum):
            return [torch.optim.SGD(rest, rate, momentum, weight_decay=recipe.weight_decay, fused=True)]
        case AdamW(betas):
            return [torch.optim.AdamW(rest, rate, betas, fused=True)]
        case MuonSettings(momentum, betas):
            optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, rate, betas, fused=True)]
            if for_muon:
                dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
                optimizers.append(Muon(for_muon, rate, momentum=momentum, dtype=dtype))
            return optimizers
        case unknown:
            assert_never(unknown)


def set_learning_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    """Give every group its share of ``rate``."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["learning_rate_scale"]
