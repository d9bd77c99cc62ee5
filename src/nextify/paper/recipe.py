"""A training recipe as data: every setting that changes the result, and nothing else.

Sources: the original ResNet recipe (He et al. 2015, as the paper's README facts list it) and the ConvNeXt paper's
Tables 5 and 6. Settings of where and how fast a training runs (device, workers, threads) are ``Runtime``'s, not here.
No torch here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

Off = Literal["off"]


class RecipeError(ValueError):
    """A setting no training can have; the message names the field and what it accepts."""


@dataclass(frozen=True)
class RandAugment:
    """RandAugment's strength, as timm's ``rand-mM-mstdS-inc1``."""

    magnitude: float = 9.0
    """0 to 10."""
    magnitude_std: float = 0.5


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The defaults are the paper's ImageNet-1K recipe as used on the roadmap (EMA off)."""

    epochs: int = 300
    """Passes over the training images."""
    warmup_epochs: float = 20.0
    """Epochs of linear warmup; 0 switches it off."""
    batch_size: int = 4096
    """Images per optimizer step, over all processes and accumulation steps."""
    optimizer: Literal["sgd", "adamw", "muon"] = "adamw"
    """``sgd`` has Nesterov off, as the original; ``muon`` is Muon on matrices and dense kernels, AdamW on the rest."""
    learning_rate: float = 4e-3
    """Peak learning rate at ``batch_size`` images a step."""
    rest_learning_rate_share: float = 1.0
    """With Muon, AdamW's share of ``learning_rate``, for first layer, depthwise kernels, norms, biases, classifier."""
    min_learning_rate: float = 1e-6
    """Where the cosine ends."""
    schedule: Literal["cosine", "step"] = "cosine"
    """``step`` divides by 10 after each third of the epochs."""
    weight_decay: float = 0.05
    """Not applied to biases, norms and layer scale with AdamW and Muon; applied to all with SGD, as the original."""
    momentum: float = 0.9
    """SGD and Muon."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW."""
    gradient_clip: float | Off = "off"
    """Largest global L2 norm of the gradient."""
    layer_decay: float | Off = "off"
    """Factor by which the learning rate falls from one depth group to the one below it (fine-tuning)."""
    head_init_scale: float = 1.0
    """The head's initial weights are multiplied by this (fine-tuning: 0.001)."""

    crop: Literal["random_resized", "pad", "none"] = "random_resized"
    """``pad``: shift by up to ``crop_shift``, for small images; ``none``: resize only."""
    crop_shift: float = 0.125
    """Share of the side by which ``pad`` shifts at most: 4 pixels of 32, as He et al. 2015."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of the area that ``random_resized`` keeps."""
    resampling: Literal["pillow", "fast"] = "pillow"
    """How ``random_resized`` gets its pixels. ``pillow``: decoded in full and resized by Pillow, timm's pixels bit for
    bit. ``fast``: JPEGs decoded at 1/2, 1/4 or 1/8 where the crop stays as large as the network's input, resized by
    torch; docs/data-pipeline.md has the difference."""
    progressive_resizing: float | Off = "off"
    """Share of the side at which training starts (arXiv 2104.00298, section 4, without its changes of regularization).
    The side grows through the multiples of the network's stride, each for the same time, to the whole after 60 % of the
    steps: with 0.5, at 32 pixels and stride 8, 16, 24 and 32. At 0.64 of the cost; docs/log.md has what it gave."""
    horizontal_flip: float = 0.5
    """Probability of a mirror image; 0 switches it off."""
    color_jitter: float | Off = "off"
    """Strength; timm leaves it out when RandAugment is on."""
    rand_augment: RandAugment | Off = RandAugment()
    mixup: float | Off = 0.8
    """Mixup's alpha."""
    cutmix: float | Off = 1.0
    """CutMix's alpha; with both on, each batch uses one of the two with equal chance."""
    mixing_probability: float = 1.0
    """Share of batches that are mixed."""
    random_erasing: float = 0.25
    """Probability that a rectangle of an image is replaced by noise; 0 switches it off."""
    label_smoothing: float = 0.1
    class_balance: Literal["loss", "sampling"] | Off = "off"
    """``loss``: each image's loss is weighted inversely to the number of its class's images. ``sampling``: every class
    is shown equally often; an epoch stays as many images, of which small classes repeat theirs."""
    stochastic_depth: float = 0.1
    """Chance that the last block's residual branch is dropped; grows linearly from 0 at the first block."""
    ema: float | Off = "off"
    """Decay of the weights' exponential moving average per step; the averaged weights are then the result."""

    test_crop_ratio: float = 0.875
    """Side of the central test crop over the resized short side."""
    test_mirror: Literal["on"] | Off = "off"
    """``on``: the network's answer is the mean of the logits of an image and of its mirror image, at twice the cost;
    in evaluations and predictions too."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16``: autocast; weights stay fp32."""

    def __post_init__(self) -> None:
        def need(condition: bool, name: str, what: str) -> None:
            if not condition:
                raise RecipeError(f"{name} must be {what}, got {getattr(self, name)!r}")

        need(isinstance(self.epochs, int) and self.epochs >= 1, "epochs", "an int of 1 or more")
        need(0 <= self.warmup_epochs <= self.epochs, "warmup_epochs", f"between 0 and epochs ({self.epochs})")
        need(isinstance(self.batch_size, int) and self.batch_size >= 1, "batch_size", "an int of 1 or more")
        need(self.optimizer in ("sgd", "adamw", "muon"), "optimizer", "sgd, adamw or muon")
        need(self.learning_rate > 0, "learning_rate", "above 0")
        need(self.rest_learning_rate_share > 0, "rest_learning_rate_share", "above 0")
        need(0 <= self.min_learning_rate <= self.learning_rate, "min_learning_rate", "between 0 and learning_rate")
        need(self.schedule in ("cosine", "step"), "schedule", "cosine or step")
        need(self.weight_decay >= 0, "weight_decay", "0 or more")
        need(self.crop in ("random_resized", "pad", "none"), "crop", "random_resized, pad or none")
        need(0 < self.crop_shift <= 0.5, "crop_shift", "above 0 and at most 0.5")
        need(self.resampling in ("pillow", "fast"), "resampling", "pillow or fast")
        need(self.class_balance in ("loss", "sampling", "off"), "class_balance", "loss, sampling or off")
        need(self.precision in ("fp32", "bf16"), "precision", "fp32 or bf16")
        for name in ("horizontal_flip", "mixing_probability", "random_erasing"):
            need(0 <= getattr(self, name) <= 1, name, "a probability between 0 and 1")
        for name in ("label_smoothing", "stochastic_depth"):
            need(0 <= getattr(self, name) < 1, name, "at least 0 and below 1")
        for name in ("gradient_clip", "mixup", "cutmix", "color_jitter"):
            need(getattr(self, name) == "off" or getattr(self, name) > 0, name, "'off' or above 0")
        for name in ("ema", "layer_decay", "progressive_resizing"):
            need(getattr(self, name) == "off" or 0 < getattr(self, name) < 1, name, "'off' or between 0 and 1")
        need(
            self.rand_augment == "off" or isinstance(self.rand_augment, RandAugment),
            "rand_augment",
            "'off' or RandAugment(...)",
        )
        need(0 < self.test_crop_ratio <= 1, "test_crop_ratio", "above 0 and at most 1")
        need(self.test_mirror in ("on", "off"), "test_mirror", "on or off")

    def with_(self, **changes: Any) -> Recipe:
        """A copy with the named settings changed. Raises ``RecipeError`` for an unknown name or value."""
        unknown = set(changes) - {f.name for f in fields(self)}
        if unknown:
            raise RecipeError(
                f"Recipe has no {', '.join(sorted(unknown))}; it has {', '.join(f.name for f in fields(self))}"
            )
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """The recipe of ``to_dict``'s plain data (lists for tuples allowed). Raises ``RecipeError``."""
        values = dict(values)
        if isinstance(values.get("rand_augment"), dict):
            values["rand_augment"] = RandAugment(**values["rand_augment"])
        for name in ("betas", "crop_scale"):
            if name in values:
                values[name] = tuple(values[name])
        return cls().with_(**values)

    def differences(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """``{field: (mine, theirs)}`` for every setting on which the two disagree."""
        return {
            f.name: (getattr(self, f.name), getattr(other, f.name))
            for f in fields(self)
            if getattr(self, f.name) != getattr(other, f.name)
        }


CONVNEXT = Recipe()
"""Table 5, ImageNet-1K, with EMA off as on the whole roadmap ("it hurts BN models")."""

RESNET = Recipe(
    epochs=90,
    warmup_epochs=0.0,
    batch_size=256,
    optimizer="sgd",
    learning_rate=0.1,
    min_learning_rate=0.0,
    schedule="step",
    weight_decay=1e-4,
    rand_augment="off",
    mixup="off",
    cutmix="off",
    random_erasing=0.0,
    label_smoothing=0.0,
    stochastic_depth=0.0,
)
"""The original recipe of ResNet-50's 76.13 %: SGD, 90 epochs, crops and flips."""

_FINETUNE = CONVNEXT.with_(
    epochs=30,
    warmup_epochs=0.0,
    batch_size=512,
    learning_rate=5e-5,
    weight_decay=1e-8,
    mixup="off",
    cutmix="off",
    head_init_scale=1e-3,
)

SCRATCH_SMALL = CONVNEXT.with_(
    epochs=100,
    warmup_epochs=10.0,
    batch_size=256,
    optimizer="muon",
    learning_rate=0.02,
    rest_learning_rate_share=0.15,
    momentum=0.95,
    ema=0.999,
    resampling="fast",
)
"""Up to some hundred thousand images of your own, from fresh weights. Table 5's augmentation and regularization, which
fitting weakens for short trainings. Muon (arXiv 2502.16982) with its usual momentum. Batch and
rates are the best of a few one-epoch trials on CIFAR-10 (docs/log.md), the rest is a rule of thumb, not tuned."""

FINETUNE_SMALL = _FINETUNE.with_(
    epochs=20,
    warmup_epochs=1.0,
    batch_size=64,
    learning_rate=2e-4,
    layer_decay=0.8,
    resampling="fast",
)
"""Up to some hundred thousand images of your own, from trained weights. Table 6's fine-tuning (weight decay 1e-8, a
head that starts at 0.001 of its size, layer-wise decay 0.8, no mixing). The rate is four times the paper's and the
batch an eighth, since small sets give few steps; it and the epochs are rules of thumb: not tuned."""

RECIPES: dict[str, Recipe] = {
    "resnet": RESNET,
    "convnext": CONVNEXT,
    "convnext_in1k": CONVNEXT.with_(ema=0.9999),
    "convnext_in22k": CONVNEXT.with_(epochs=90, warmup_epochs=5.0, stochastic_depth=0.0),
    "convnext_finetune_in1k_384": _FINETUNE.with_(layer_decay=0.7, stochastic_depth=0.8, test_crop_ratio=1.0),
    "convnext_finetune_in22k": _FINETUNE.with_(layer_decay=0.8, stochastic_depth=0.0),
    "scratch_small": SCRATCH_SMALL,
    "finetune_small": FINETUNE_SMALL,
}
"""Named recipes; every field can be changed with ``with_``."""
