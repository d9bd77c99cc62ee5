"""Every nextify design in timm's registry: after ``import nextify.timm``,
``timm.create_model("nextify_convnext_tiny")`` works with the usual arguments and supports what timm's ``train.py`` asks
of a model.

Weights are loaded with ``pretrained=True`` and ``pretrained_cfg_overlay=dict(file=PATH)`` in any naming that nextify
reads; docs/weights.md tells how to start timm's train.py, which does not import nextify by itself.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import timm.models
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from nextify.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from nextify.kernels import install
from nextify.networks.backbone import features, pick
from nextify.networks.layers import to_nchw, to_nhwc
from nextify.networks.layout import layout
from nextify.networks.network import ConvNet, Head
from nextify.networks.zoo import designs
from nextify.paper.design import Design
from nextify.weights.naming import recognize

__all__: list[str] = []  # timm's registry adds the entry points

PREFIX = "nextify_"


class TimmConvNet(ConvNet):
    """A ConvNet with timm's interface: maps are ``(N, C, H, W)``, heads take ``pre_logits``."""

    def __init__(
        self,
        design: Design,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__(layout(design, in_chans), num_classes, drop_path_rate)
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.global_pool = _pooling(global_pool)
        self.head_hidden_size = self.num_features
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": f.channels, "reduction": f.stride, "module": f.module} for f in features(self.layout)
        ]

    def get_classifier(self) -> nn.Module:
        return self.head.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        super().reset_classifier(num_classes)
        if global_pool is not None:
            self.global_pool = _pooling(global_pool)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay: biases, norms, layer scale."""
        return set(self.undecayed_parameters())

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Depth groups for layer-wise learning rates, as timm's own ConvNeXt: the head's norm counts as the head."""
        blocks = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else blocks}

    def forward_features(self, images: Tensor) -> Tensor:
        """``(N, in_chans, H, W)`` images to the last stage's ``(N, C, H', W')`` map."""
        return to_nchw(super().forward_features(images))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last stage's ``(N, C, H', W')`` map to logits, or with ``pre_logits`` to the classifier's input; without
        pooling at each place, as a map."""
        x = to_nhwc(x)
        if self.global_pool:
            x = x.mean(dim=(1, 2))
        for name in self.head.order:
            x = getattr(self.head, name)(x)
        if self.drop_rate:
            x = F.dropout(x, self.drop_rate, self.training)
        if not pre_logits:
            x = self.head.classifier(x)
        return x if self.global_pool else to_nchw(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW", "NHWC"] = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps after the chosen stages; ``norm`` has nothing to apply, since the final norm follows pooling."""
        wanted = pick(indices, len(self.stages))
        x = self.stem(to_nhwc(x))
        maps = []
        for index, stage in enumerate(self.stages):
            if stop_early and index > wanted[-1]:
                break
            x = stage(x)
            if index in wanted:
                maps.append(x if str(output_fmt) == "NHWC" else to_nchw(x))
        return maps if intermediates_only else (to_nchw(x), maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages after the last wanted one, and the head."""
        wanted = pick(indices, len(self.stages))
        cut = wanted[-1] + 1 < len(self.stages)
        self.stages = self.stages[: wanted[-1] + 1]
        if prune_head or cut:
            self.num_classes = 0
            self.head = Head((), self.num_features, 0)
            self.global_pool = ""
        return list(wanted)


def _pooling(kind: str) -> str:
    if kind not in ("avg", ""):
        raise ValueError(f"global_pool must be 'avg' or '' (none), got {kind!r}")
    return kind


def _config(design: Design) -> dict[str, object]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "first_conv": "stem.conv",
        "classifier": "head.classifier",
        "license": "apache-2.0",
    }


def _in_our_names(state: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Rename a checkpoint of any known library; timm's hook for foreign checkpoints.

    timm drops the classifier and adapts the first layer where the model's configuration, not the checkpoint, says that
    they differ from the model's. Where they do not, that is entered in the configuration.
    """
    for key in ("state_dict", "model"):
        if isinstance(state.get(key), Mapping):
            state = state[key]
    state = recognize(state).state
    config, own = cast("Any", model).pretrained_cfg, model.state_dict()

    def fits(name: str) -> bool:
        return name in state and name in own and state[name].shape == own[name].shape

    if fits("head.classifier.weight"):
        config["num_classes"] = len(state["head.classifier.weight"])
    if fits("stem.conv.weight"):
        config["input_size"] = (state["stem.conv.weight"].shape[1], *config["input_size"][1:])
    return dict(state)


def _entry_point(name: str, design: Design) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        def build(**arguments: Any) -> TimmConvNet:
            net = TimmConvNet(design, **arguments)
            install(net)
            return net

        stages = len(design.depths)
        net: nn.Module = build_model_with_cfg(
            build,
            name,
            pretrained,
            pretrained_filter_fn=_in_our_names,
            feature_cfg={"out_indices": tuple(range(stages)), "feature_cls": "getter"},
            **kwargs,
        )
        return net

    create.__name__ = create.__qualname__ = name
    create.__module__ = __name__
    create.__doc__ = f"nextify's {name.removeprefix(PREFIX)}."
    return create


default_cfgs: Any = generate_default_cfgs({PREFIX + name: _config(design) for name, design in designs().items()})


for _name, _design in designs().items():
    if not timm.models.is_model(PREFIX + _name):
        register_model(_entry_point(PREFIX + _name, _design))
