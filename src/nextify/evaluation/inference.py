"""How a network is asked for its logits, which the recipe of its training says: by tests, evaluations and predictions
alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nextify.paper.recipe import Recipe


class Inference(NamedTuple):
    bf16: bool = False
    """In autocast; else in the weights' own type."""
    mirror: bool = False
    """The mean of an image's logits and its mirror image's, at twice the cost."""

    @classmethod
    def of(cls, recipe: Recipe | None) -> Inference:
        """As the recipe says; plainly where it is unknown."""
        return cls() if recipe is None else cls(recipe.precision == "bf16", recipe.test_mirror == "on")

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures has to know."""
        return ["logits are the mean of each image's and its mirror image's (test_mirror)"] if self.mirror else []

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """``(N, K)`` of normalized images ``(N, C, H, W)``, float32."""
        import torch

        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            logits: Tensor = model(images).float()
            if self.mirror:
                logits = (logits + model(images.flip(-1)).float()) / 2
        return logits


PLAIN = Inference()
