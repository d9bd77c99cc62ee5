"""A training recipe as data: every setting that changes the result, and nothing else.

Sources: the original ResNet recipe (He et al. 2015, as the paper's README facts list it) and the ConvNeXt paper's
Tables 5 and 6. Settings of where and how fast a training runs (device, workers, threads) are ``Runtime``'s, not here.
No torch here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from nextify.paper.settings import LARGEST_FLOAT32, Range, SettingError, Settings

Off = Literal["off"]
Precision = Literal["fp32", "bf16"]
Probability = Annotated[float, Range(least=0, most=1)]
Decay = Annotated[float, Range(least=0, below=1)]
Fraction = Annotated[float, Range(above=0, below=1)]
Strength = Annotated[float, Range(above=0, most=10)]
Rate = Annotated[float, Range(least=0, most=LARGEST_FLOAT32)]
Positive = Annotated[float, Range(above=0, most=LARGEST_FLOAT32)]
Count = Annotated[int, Range(least=1, most=10**9)]


class RecipeError(SettingError):
    """A setting that no training can have; the message names the field and what it accepts."""


class _Part(Settings):
    error = RecipeError


@dataclass(frozen=True)
class SGD(_Part):
    """Stochastic gradient descent; Nesterov momentum is off, as in the original recipe."""

    kind: ClassVar[str] = "sgd"
    momentum: Decay = 0.9


@dataclass(frozen=True)
class AdamW(_Part):
    """Adam with decoupled weight decay (arXiv 1711.05101)."""

    kind: ClassVar[str] = "adamw"
    betas: tuple[Decay, Decay] = (0.9, 0.999)


@dataclass(frozen=True)
class Muon(_Part):
    """Muon (arXiv 2502.16982) on matrices and dense kernels, AdamW on the rest: the first layer, depthwise kernels,
    norms, biases and the classifier."""

    kind: ClassVar[str] = "muon"
    momentum: Decay = 0.95
    """Of Muon; 0.95 is customary."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Of AdamW."""
    rest_learning_rate_share: Annotated[float, Range(above=0, most=1000)] = 1.0
    """AdamW's learning rate as a share of the recipe's ``learning_rate``."""


@dataclass(frozen=True)
class RandomResized(_Part):
    """A crop of random area and aspect ratio, resized to the network's input."""

    kind: ClassVar[str] = "random_resized"
    scale: tuple[Annotated[float, Range(above=0, most=1)], Annotated[float, Range(above=0, most=1)]] = (0.08, 1.0)
    """Smallest and largest share of the image's area."""
    resampling: Literal["pillow", "fast"] = "pillow"
    """``pillow``: decoded in full and resized by Pillow, timm's pixels bit for bit. ``fast``: JPEGs are decoded at 1/2,
    1/4 or 1/8 where the crop stays as large as the network's input, and resized by torch; docs/data-pipeline.md has
    the difference."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale[0] > self.scale[1]:
            raise RecipeError(f"scale must be the smallest and then the largest share, got {self.scale}")


@dataclass(frozen=True)
class Shift(_Part):
    """The whole image, shifted by a random number of pixels (He et al. 2015): for small images."""

    kind: ClassVar[str] = "shift"
    share: Annotated[float, Range(above=0, most=0.5)] = 0.125
    """Largest shift as a share of the side; 0.125 is He's 4 pixels of 32."""
    border: Literal["black", "reflect"] = "black"
    """What comes in from beyond the image: black as in He et al., or its mirror image."""


@dataclass(frozen=True)
class ScaleJitter(_Part):
    """The image at a random size, cropped or padded to the network's input (arXiv 2012.07177, section 3.2): for
    detection and segmentation."""

    kind: ClassVar[str] = "scale_jitter"
    least: Annotated[float, Range(above=0, most=10)] = 0.1
    """Smallest size, as a multiple of the size at which the image just fits the input."""
    most: Annotated[float, Range(above=0, most=10)] = 2.0
    """Largest size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least > self.most:
            raise RecipeError(f"least must be at most most ({self.most:g}), got {self.least:g}")


@dataclass(frozen=True)
class NoCrop(_Part):
    """The image is resized and nothing else."""

    kind: ClassVar[str] = "none"


@dataclass(frozen=True)
class RandAugment(_Part):
    """RandAugment (arXiv 1909.13719) as timm's ``rand-mM-mstdS-inc1``."""

    magnitude: Annotated[float, Range(least=0, most=10)] = 9.0
    magnitude_std: Annotated[float, Range(least=0, most=10)] = 0.5


@dataclass(frozen=True)
class Mixing(_Part):
    """Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899); with both on, each batch uses one, by equal chance."""

    mixup: Annotated[float, Range(above=0, most=1000)] | Off = "off"
    """Mixup's alpha."""
    cutmix: Annotated[float, Range(above=0, most=1000)] | Off = "off"
    """CutMix's alpha."""
    probability: Probability = 1.0
    """Share of batches that are mixed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixup == self.cutmix == "off":
            raise RecipeError("mixup or cutmix must be on; mixing=off switches both off")


Optimizer = SGD | AdamW | Muon
Crop = RandomResized | Shift | ScaleJitter | NoCrop


@dataclass(frozen=True)
class Recipe(Settings):
    """How a network is trained. The defaults are the paper's ImageNet-1K recipe as used on the roadmap (EMA off)."""

    error = RecipeError
    renamed: ClassVar[Mapping[str, str]] = {
        "momentum": "optimizer.momentum",
        "betas": "optimizer.betas",
        "rest_learning_rate_share": "optimizer.rest_learning_rate_share",
        "crop_scale": "crop.scale",
        "resampling": "crop.resampling",
        "crop_shift": "crop.share",
        "mixup": "mixing.mixup (mixing=off switches Mixup and CutMix off)",
        "cutmix": "mixing.cutmix (mixing=off switches Mixup and CutMix off)",
        "mixing_probability": "mixing.probability",
    }

    epochs: Annotated[int, Range(least=1, most=10**6)] = 300
    """Passes over the training images."""
    warmup_epochs: Annotated[float, Range(least=0, most=10**6)] = 20.0
    """Epochs of linear warmup, at most ``epochs``; 0 switches it off."""
    batch_size: Count = 4096
    """Images per optimizer step, over all processes and accumulation steps."""
    optimizer: Optimizer = AdamW()
    learning_rate: Positive = 4e-3
    """Peak learning rate at ``batch_size`` images per step."""
    min_learning_rate: Rate = 1e-6
    """Where the cosine ends, at most ``learning_rate``."""
    schedule: Literal["cosine", "step", "late_step", "linear"] = "cosine"
    """``step`` divides by 10 after each third of the epochs, ``late_step`` after 3/4 and 11/12 of them (detection's 3x
    schedule: 27 and 33 of 36); ``linear`` falls steadily."""
    weight_decay: Rate = 0.05
    """Not applied to biases, norms and layer scale with AdamW and Muon; applied to all with SGD, as in the original."""
    gradient_clip: Positive | Off = "off"
    """Largest global L2 norm of the gradient."""
    layer_decay: Fraction | Off = "off"
    """Factor by which the learning rate falls from one depth group to the one below it (fine-tuning)."""
    layer_decay_groups: Literal["paper", "single", "stage"] = "paper"
    """Depth groups of ``layer_decay``: the paper's of three blocks, each block by itself (ConvNeXt-V2), or each stage
    (the paper's segmentation)."""
    head_init_scale: Annotated[float, Range(above=0, most=1000)] = 1.0
    """The head's initial weights are multiplied by this (fine-tuning: 0.001)."""

    crop: Crop = RandomResized()
    """How a training image becomes the network's square input."""
    progressive_resizing: Fraction | Off = "off"
    """Share of the side at which training starts (arXiv 2104.00298, section 4, without its changes of regularization).
    The side grows through the multiples of the network's stride, each for the same time, to the whole after 60 % of the
    steps: with 0.5, at 32 pixels and stride 8, 16, 24 and 32."""
    horizontal_flip: Probability = 0.5
    """Probability of a mirror image; 0 switches it off."""
    color_jitter: Strength | Off = "off"
    """Strength of random brightness, contrast and saturation; as in timm, RandAugment takes its place where both are
    on."""
    light: Annotated[float, Range(above=0, most=1)] | Off = "off"
    """Largest change of a training image's light, drawn for each: its contrast is multiplied by 1 ± this, and its
    brightness shifted by ± half of this of the pixels' range. Nearly free, as it is done to a whole batch; RandAugment
    takes its place where both are on."""
    rand_augment: RandAugment | Off = RandAugment()
    mixing: Mixing | Off = Mixing(mixup=0.8, cutmix=1.0)
    random_erasing: Probability = 0.25
    """Probability that a rectangle of an image is replaced by noise; 0 switches it off."""
    label_smoothing: Decay = 0.1
    class_balance: Literal["loss", "sampling"] | Off = "off"
    """``loss``: each image's loss is weighted inversely to the number of images of its class; in segmentation each
    pixel's, inversely to the root of its class's pixels. ``sampling``: every class is shown equally often; an epoch
    keeps its number of images, so small classes repeat theirs."""
    stochastic_depth: Decay = 0.1
    """Probability that the last block's residual branch is dropped; grows linearly from 0 at the first block."""
    ema: Fraction | Off = "off"
    """Decay per step of the weights' exponential moving average; the averaged weights are then the result."""
    calibration: Annotated[float, Range(above=0, most=0.5)] | Off = "off"
    """Share of each class's training images that is not trained on: after the training, the temperature of the
    probabilities is fitted on them (arXiv 1706.04599)."""

    test_crop_ratio: Annotated[float, Range(least=0.1, most=1)] = 0.875
    """Side of the central test crop over the resized short side."""
    test_mirror: Literal["on"] | Off = "off"
    """``on``: the network's answer is the mean of the logits of an image and of its mirror image, at twice the cost,
    in evaluations and predictions too."""
    precision: Precision = "fp32"
    """``bf16``: autocast; weights stay fp32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_epochs > self.epochs:
            raise RecipeError(f"warmup_epochs must be at most epochs ({self.epochs}), got {self.warmup_epochs:g}")
        if self.min_learning_rate > self.learning_rate:
            raise RecipeError(
                f"min_learning_rate must be at most learning_rate ({self.learning_rate:g}), "
                f"got {self.min_learning_rate:g}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """The recipe of ``to_dict``'s plain data, or of the flat form in which bundles before the groups hold it."""
        flat = any(name in values for name in cls.renamed) or isinstance(values.get("crop"), str)
        return super().from_dict(_grouped(values) if flat else values)


def _grouped(values: Mapping[str, object]) -> dict[str, object]:
    """Today's form of the flat one."""
    found = {name: value for name, value in values.items() if name not in Recipe.renamed}
    if found.get("crop") == "pad":
        found["crop"] = "shift"
    if values.get("mixup") == values.get("cutmix") == "off":
        found["mixing"] = "off"
    kinds = Recipe().with_(**{name: found[name] for name in ("optimizer", "crop", "mixing") if name in found})
    names = {name: new.partition(" ")[0] for name, new in Recipe.renamed.items() if name in values}
    return found | {new: values[name] for name, new in names.items() if kinds.get(new) is not None}


PLAIN: dict[str, Any] = {"rand_augment": "off", "mixing": "off", "random_erasing": 0.0, "label_smoothing": 0.0}
"""Without what the paper's recipe adds to crops and flips."""

CONVNEXT = Recipe()
"""Table 5, ImageNet-1K, with EMA off as on the whole roadmap ("it hurts BN models")."""

RESNET = Recipe(
    epochs=90,
    warmup_epochs=0.0,
    batch_size=256,
    optimizer=SGD(),
    learning_rate=0.1,
    min_learning_rate=0.0,
    schedule="step",
    weight_decay=1e-4,
    stochastic_depth=0.0,
    **PLAIN,
)
"""The original recipe of ResNet-50's 76.13 %: SGD, 90 epochs, crops and flips."""

_FINETUNE = CONVNEXT.with_(
    epochs=30,
    warmup_epochs=0.0,
    batch_size=512,
    learning_rate=5e-5,
    weight_decay=1e-8,
    mixing="off",
    head_init_scale=1e-3,
)

SCRATCH_SMALL = CONVNEXT.with_(
    epochs=100,
    warmup_epochs=10.0,
    batch_size=256,
    optimizer=Muon(rest_learning_rate_share=0.15),
    learning_rate=0.02,
    ema=0.999,
    crop=RandomResized(resampling="fast"),
    light=0.2,
)
"""Up to some hundred thousand images of your own, from fresh weights. Table 5's augmentation and regularization, which
fitting weakens for short trainings; where that leaves RandAugment out, a small change of the light remains. Muon (arXiv
2502.16982) with its usual momentum. Batch and rates are the best of a few one-epoch trials on CIFAR-10, and the light
was measured (docs/log.md); the rest is a rule of thumb, not tuned."""

FINETUNE_SMALL = _FINETUNE.with_(
    epochs=20,
    warmup_epochs=1.0,
    batch_size=64,
    learning_rate=2e-4,
    layer_decay=0.8,
    crop=RandomResized(resampling="fast"),
)
"""Up to some hundred thousand images of your own, from trained weights. Table 6's fine-tuning (weight decay 1e-8, a
head that starts at 0.001 of its size, layer-wise decay 0.8, no mixing). The rate is four times the paper's and the
batch an eighth, since small sets give few steps; it and the epochs are rules of thumb: not tuned."""

FCMAE = CONVNEXT.with_(
    epochs=800,
    warmup_epochs=40.0,
    batch_size=4096,
    optimizer=AdamW(betas=(0.9, 0.95)),
    learning_rate=2.4e-3,
    min_learning_rate=0.0,
    crop=RandomResized(scale=(0.2, 1.0)),
    stochastic_depth=0.0,
    **PLAIN,
)
"""Pre-training by masked images, ConvNeXt V2's appendix A.1: AdamW with betas 0.9 and 0.95, a rate of 1.5e-4 for every
256 images of the batch, crops and flips as the only augmentation."""

FCMAE_SMALL = FCMAE.with_(
    epochs=100,
    warmup_epochs=5.0,
    batch_size=256,
    learning_rate=1.2e-3,
    crop=RandomResized(scale=(0.2, 1.0), resampling="fast"),
)
"""Likewise for up to some hundred thousand images of your own. An eighth of the epochs takes eight times the published
rate for 256 images, 1.5e-4, by the rule that fitting has for AdamW; a rule of thumb, not tuned."""

FEW_LABELS = CONVNEXT.with_(
    epochs=100,
    warmup_epochs=10.0,
    batch_size=64,
    learning_rate=1e-3,
    layer_decay=0.9,
    layer_decay_groups="single",
    crop=RandomResized(scale=(0.2, 1.0), resampling="fast"),
)
"""Some hundred to some thousand labelled images, from an encoder pre-trained by ``fcmae_small`` on many without labels.
ConvNeXt V2's fine-tuning of FCMAE's encoders (appendix A.1: AdamW, decay 0.05, layer decay 0.9 by block, mixing,
smoothing), with epochs, rate and batch by rule of thumb: not tuned."""

_DENSE = CONVNEXT.with_(batch_size=16, min_learning_rate=0.0, test_crop_ratio=1.0, **PLAIN)
_PAPERS_DENSE = _DENSE.with_(learning_rate=1e-4, crop=ScaleJitter(0.5, 2.0), stochastic_depth=0.4, precision="bf16")

COCO_3X = _PAPERS_DENSE.with_(epochs=36, warmup_epochs=0.07, schedule="late_step", layer_decay=0.95)
"""Appendix A.3 and the released configuration of Mask R-CNN with ConvNeXt-T: AdamW, the 3x schedule with 500 steps of
warmup, layer decay 0.95, stochastic depth 0.4. Its images are resized to a short side of 480 to 800 pixels; here their
size is drawn on one canvas, and bfloat16 takes the place of float16."""

ADE20K_160K = _PAPERS_DENSE.with_(
    epochs=127,
    warmup_epochs=1.19,
    schedule="linear",
    layer_decay=0.9,
    layer_decay_groups="stage",
    color_jitter=0.4,
)
"""Appendix A.3 and the released configuration of UPerNet with ConvNeXt-T: 160,000 steps of 16 of ADE20K's 20,210 images
with 1,500 steps of warmup, layer decay 0.9 by stage, stochastic depth 0.4, sizes of 0.5 to 2."""

DETECTION_SMALL = _DENSE.with_(
    epochs=24,
    warmup_epochs=1.2,
    batch_size=8,
    learning_rate=3e-3,
    gradient_clip=10.0,
    crop=ScaleJitter(0.8, 1.25),
    color_jitter=0.2,
    stochastic_depth=0.0,
    ema=0.998,
    precision="bf16",
)
"""Up to some ten thousand images of your own, from fresh weights. Optimizer and rate were compared on ``scenes`` by the
loss after equal processor time (docs/log.md); the rest is a rule of thumb, not tuned."""

SEGMENTATION_SMALL = DETECTION_SMALL.with_(crop=ScaleJitter(0.75, 1.5))
"""Likewise for masks."""

DETECTION_ORIGINAL = _DENSE.with_(
    epochs=12,
    warmup_epochs=0.07,
    optimizer=SGD(),
    learning_rate=0.01,
    schedule="late_step",
    weight_decay=1e-4,
    crop=NoCrop(),
    stochastic_depth=0.0,
)
"""FCOS with ResNet-50 (arXiv 1904.01355, section 4, and its released configuration): SGD, 90,000 steps of 16 of COCO's
118,287 images, mirrored and nothing else; the rate falls at 3/4 and 11/12, where theirs does at 2/3 and 8/9."""

SEGMENTATION_ORIGINAL = DETECTION_ORIGINAL.with_(epochs=127, warmup_epochs=1.19, schedule="linear", weight_decay=5e-4)
"""mmsegmentation's ``schedule_160k`` of UPerNet with ResNet-50: SGD at 0.01, 160,000 steps of 16 of ADE20K's images;
the rate falls in a line, where there it falls with the power of 0.9."""

_FROM_WEIGHTS: dict[str, Any] = {"optimizer": AdamW(), "learning_rate": 2.5e-4, "layer_decay": 0.8}
"""AdamW with a stronger layer decay than the paper's, as small sets change trained weights too much; both are rules of
thumb, not tuned."""

RECIPES: dict[str, Recipe] = {
    "resnet": RESNET,
    "convnext": CONVNEXT,
    "convnext_in1k": CONVNEXT.with_(ema=0.9999),
    "convnext_in22k": CONVNEXT.with_(epochs=90, warmup_epochs=5.0, stochastic_depth=0.0),
    "convnext_finetune_in1k_384": _FINETUNE.with_(layer_decay=0.7, stochastic_depth=0.8, test_crop_ratio=1.0),
    "convnext_finetune_in22k": _FINETUNE.with_(layer_decay=0.8, stochastic_depth=0.0),
    "scratch_small": SCRATCH_SMALL,
    "finetune_small": FINETUNE_SMALL,
    "fcmae": FCMAE,
    "fcmae_small": FCMAE_SMALL,
    "few_labels": FEW_LABELS,
    "coco_3x": COCO_3X,
    "ade20k_160k": ADE20K_160K,
    "detection_small": DETECTION_SMALL,
    "detection_finetune": DETECTION_SMALL.with_(**_FROM_WEIGHTS),
    "segmentation_small": SEGMENTATION_SMALL,
    "segmentation_finetune": SEGMENTATION_SMALL.with_(**_FROM_WEIGHTS),
}
"""Named recipes; every field can be changed with ``with_``."""

MASKED_RECIPES = ("fcmae", "fcmae_small")
"""Those that pre-train on images without labels."""

DENSE_RECIPES = {
    "detection": ("detection_small", "detection_finetune", "coco_3x"),
    "segmentation": ("segmentation_small", "segmentation_finetune", "ade20k_160k"),
}
"""The recipes for small sets, from fresh and from trained weights, and the paper's."""
DENSE_ROADMAPS = {
    "detection": (DETECTION_ORIGINAL, DETECTION_SMALL.with_(ema="off")),
    "segmentation": (SEGMENTATION_ORIGINAL, SEGMENTATION_SMALL.with_(ema="off")),
}
"""Of a roadmap's first row, and of all others: without averages of the weights, as on the paper's."""
