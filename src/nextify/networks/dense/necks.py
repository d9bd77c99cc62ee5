"""From a backbone's maps to a feature pyramid of one width, by torchvision's modules."""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from nextify.networks.dense.backbones import Maps, SimplePyramid


class Entrance(nn.Module):
    """The maps that a head takes: the backbone's, or a pyramid made of its only one, from ``first_stride`` on."""

    def __init__(self, backbone: Maps, first_stride: int) -> None:
        super().__init__()
        self.pyramid: SimplePyramid | None = None
        self.first = 0
        strides, channels = list(backbone.strides), list(backbone.channels)
        if len(strides) == 1:
            self.pyramid = SimplePyramid(channels[0], strides[0])
            self.first = self.pyramid.strides.index(first_stride)
            del self.pyramid.levels[: self.first]
            strides, channels = self.pyramid.strides[self.first :], self.pyramid.channels[self.first :]
        self.strides, self.channels = strides, channels

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        if self.pyramid is None:
            return maps
        made: list[Tensor] = self.pyramid(maps[0])
        return made


class Pyramid(nn.Module):
    """A feature pyramid (arXiv 1612.03144) with ``extra`` levels above the backbone's: ``pool`` adds one that is
    subsampled (Faster R-CNN), ``convolve`` two by convolutions (RetinaNet's P6 and P7)."""

    def __init__(self, backbone: Maps, first_stride: int, width: int, extra: str = "") -> None:
        super().__init__()
        self.entrance = Entrance(backbone, first_stride)
        blocks = {"": None, "pool": LastLevelMaxPool, "convolve": LastLevelP6P7}
        block = blocks[extra]
        above = None if block is None else block() if extra == "pool" else block(width, width)
        self.pyramid = FeaturePyramidNetwork(self.entrance.channels, width, above)
        last = self.entrance.strides[-1]
        self.strides: Sequence[int] = [
            *self.entrance.strides,
            *{"": [], "pool": [2 * last], "convolve": [2 * last, 4 * last]}[extra],
        ]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        named = {str(i): x for i, x in enumerate(self.entrance(maps))}
        levels: dict[str, Tensor] = self.pyramid(named)
        return list(levels.values())
