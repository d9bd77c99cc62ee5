"""The network of a Layout: stem, stages of residual blocks, head.

Images come in as ``(N, channels, H, W)`` in any memory format; inside, activations are ``(N, H, W, C)``.
Parameters are named as in the Layout: ``stem.conv``, ``stages.2.downsample.norm``, ``stages.2.blocks.0.pointwise1``, ….
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nextify.networks.layers import DropPath, build, initialize, to_nhwc, undecayed_parameters
from nextify.networks.layout import BlockSpec, Layout, Named, StageSpec, check_whole, smallest_image, too_small


class Chain(nn.Module):
    """Named layers in a row."""

    def __init__(self, layers: Named) -> None:
        super().__init__()
        self.order = tuple(name for name, _ in layers)
        for name, layer in layers:
            self.add_module(name, build(layer))

    def forward(self, x: Tensor) -> Tensor:
        for name in self.order:
            x = getattr(self, name)(x)
        return x


class Block(Chain):
    """A residual block: ``after(shortcut(x) + layer_scale * branch(x))``."""

    def __init__(self, block: BlockSpec, drop_rate: float) -> None:
        super().__init__(block.branch)
        self.shortcut = Chain(block.shortcut)
        self.drop_path = DropPath(drop_rate)
        self.after = Chain(block.after)
        scale = None
        if block.layer_scale != "off":
            scale = nn.Parameter(torch.full((block.out_channels,), float(block.layer_scale)))
        self.layer_scale = scale

    undecayed = ("layer_scale",)

    def forward(self, x: Tensor) -> Tensor:  # (N, H, W, C) -> (N, H / stride, W / stride, C')
        y = super().forward(x)
        if self.layer_scale is not None:
            y = self.layer_scale * y
        return self.after(self.shortcut(x) + self.drop_path(y))  # type: ignore[no-any-return]


class Stage(nn.Module):
    """The downsampling layers and blocks of one stage."""

    def __init__(self, stage: StageSpec, drop_rates: list[float]) -> None:
        super().__init__()
        self.downsample = Chain(stage.downsample)
        self.blocks = nn.ModuleList(Block(b, r) for b, r in zip(stage.blocks, drop_rates, strict=True))
        self.checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


class Head(Chain):
    """Norm and classifier on pooled features ``(N, C)``."""

    def __init__(self, layers: Named, features: int, num_classes: int) -> None:
        super().__init__(layers)
        check_whole("num_classes", num_classes, 0)
        self.classifier: nn.Module = nn.Linear(features, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(super().forward(x))  # type: ignore[no-any-return]


class Trunk(nn.Module):
    """A stem and stages: what a network and a backbone have in common."""

    stem: Chain
    stages: nn.ModuleList
    smallest_image: int
    """Shortest side of an image in pixels."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        for stage in self.stages:
            stage.checkpointing = enable  # type: ignore[assignment]

    def forward_stem(self, images: Tensor) -> Tensor:
        """``(N, channels, H, W)`` images to the stem's ``(N, H', W', C)`` map. Raises ``ImageSizeError`` where the
        images are smaller than the strides allow."""
        height, width = images.shape[-2:]
        if min(height, width) < self.smallest_image:
            raise too_small((height, width), self.smallest_image, " for this network")
        return self.stem(to_nhwc(images.contiguous(memory_format=torch.channels_last)))  # type: ignore[no-any-return]


class ConvNet(Trunk):
    """Any network of the roadmap, built from its Layout.

    Args:
        net: the plan.
        num_classes: width of the classifier; with 0 the network returns pooled (and normed) features, not logits.
        stochastic_depth: probability of dropping the last block's branch in training; it grows linearly from 0.
    """

    def __init__(self, net: Layout, num_classes: int = 1000, stochastic_depth: float = 0.0) -> None:
        super().__init__()
        if not 0 <= stochastic_depth < 1:
            raise ValueError(f"stochastic_depth must be at least 0 and below 1, got {stochastic_depth!r}")
        self.layout = net
        self.num_classes = num_classes
        self.smallest_image = smallest_image(net)
        self.stem = Chain(net.stem)
        depths = [len(stage.blocks) for stage in net.stages]
        last = max(sum(depths) - 1, 1)
        rates = [stochastic_depth * i / last for i in range(sum(depths))]
        self.stages = nn.ModuleList(
            Stage(stage, rates[sum(depths[:i]) : sum(depths[: i + 1])]) for i, stage in enumerate(net.stages)
        )
        self.head = Head(net.head, net.features, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial weights for all convolutions and linear layers from torch's global generator."""
        for name, module in self.named_modules():
            initialize(module, "truncated_normal" if name.startswith("head") else self.layout.init)

    @property
    def num_features(self) -> int:
        """Channels that enter the classifier."""
        return self.layout.features

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier with a fresh one of ``num_classes``; 0 removes it."""
        self.num_classes = num_classes
        device = next(self.parameters()).device
        classifier: nn.Module = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        initialize(classifier, "truncated_normal")
        self.head.classifier = classifier.to(device)

    def undecayed_parameters(self) -> Iterator[str]:
        """Names of the parameters exempt from weight decay: biases, norms and layer scale."""
        return undecayed_parameters(self)

    def forward_features(self, images: Tensor) -> Tensor:
        """``(N, channels, H, W)`` images to the last stage's ``(N, H', W', C)`` map. Raises ``ImageSizeError`` where
        the images are smaller than the strides allow."""
        x = self.forward_stem(images)
        for stage in self.stages:
            x = stage(x)
        return x

    def forward_head(self, x: Tensor) -> Tensor:
        """The last stage's ``(N, H', W', C)`` map to ``(N, num_classes)`` logits."""
        return self.head(x.mean(dim=(1, 2)))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def __call__(self, images: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return super().__call__(images, *args, **kwargs)  # type: ignore[no-any-return]


class Ensemble(nn.Module):
    """Networks of one design, and the mean of their logits."""

    def __init__(self, members: Sequence[ConvNet]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.smallest_image = members[0].smallest_image
        """Shortest side of an image in pixels."""

    def forward(self, images: Tensor) -> Tensor:
        """``(N, K)`` logits of ``images (N, C, H, W)``."""
        return torch.stack([member(images) for member in self.members]).mean(0)


Classifier = ConvNet | Ensemble
