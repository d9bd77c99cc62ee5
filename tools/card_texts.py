"""The hand-written part of the decision cards: each step's description, rulings and deviations.

``rulings`` are headings of docs/design.md. Everything else on a card comes from the code and the committed results.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CardText:
    section: str
    """Section of the paper."""
    what: str
    why: str
    rulings: tuple[str, ...] = ()
    deviations: str = "None known."


def _kernel(size: int, verdict: str) -> CardText:
    return CardText(
        section="2.5",
        what=f"The depthwise convolution's kernel grows from 3×3 to {size}×{size}; nothing else changes. {verdict}",
        why="A Swin block sees at least a 7×7 window at once. With the depthwise convolution on the narrow side of "
        "the block, a larger kernel is cheap; the gain levels off at 7×7.",
        rulings=("Alternatives of a decision", "Image borders"),
    )


TEXTS: dict[str, CardText] = {
    "training_technique": CardText(
        section="2.1",
        what="The network stays ResNet; its training changes. 90 epochs of SGD with steps become 300 epochs of AdamW "
        "with warmup and a cosine, with RandAugment, Mixup, CutMix, Random Erasing, stochastic depth and label "
        "smoothing.",
        why="Vision transformers came with a recipe of their own. Giving it to the ResNet first keeps the recipe's "
        "share of the gain apart from the architecture's. It is the largest single change on the roadmap.",
        rulings=("One recipe for all steps", "EMA"),
        deviations="The paper trains with batches of 4096 on 1.28 million images. On anything smaller the recipe is "
        "fitted (`nextify.fit`), and the fitted one serves this row and all after it.",
    ),
    "stage_ratio": CardText(
        section="2.2",
        what="The blocks are distributed anew over the four stages: 3, 3, 9, 3 instead of 3, 4, 6, 3 (ResNet-200: 3, "
        "3, 27, 3 instead of 3, 24, 36, 3, and stage 1 widens from 64 to 84 channels in the same step).",
        why="Swin-T's stages have the ratio 1:1:3:1. For ResNet-50 the step adds multiply-adds; for ResNet-200, "
        "where it takes 30 blocks away, the extra width makes up for most of them.",
    ),
    "patchify": CardText(
        section="2.2",
        what="One 4×4 convolution of stride 4 replaces the 7×7 convolution of stride 2 and the max pooling behind "
        "it. Patches do not overlap.",
        why="A vision transformer cuts the image into patches at once. The simpler stem is as accurate and cheaper.",
        rulings=("Stem",),
    ),
    "depthwise": CardText(
        section="2.3",
        what="The block's 3×3 convolution becomes depthwise: one filter a channel. All mixing between channels is "
        "left to the 1×1 layers.",
        why="ResNeXt's rule is more groups, more width; this is its extreme, and close to self-attention's weighted "
        "sum, which also works channel by channel. Alone it costs accuracy and nearly halves the multiply-adds: "
        "the next step spends them.",
        rulings=("Groups",),
    ),
    "width": CardText(
        section="2.3",
        what="Every stage widens by half: stage 1 from 64 to 96 channels (ResNet-200: from 84 to 128).",
        why="The width is Swin's. It spends what the depthwise convolution saved.",
        rulings=("Stem",),
    ),
    "inverted_bottleneck": CardText(
        section="2.4",
        what="The block turns inside out. Before, it squeezed 4C channels to C, convolved there and widened again; "
        "now it goes from C to 4C, convolves on 4C and returns to C. What travels between blocks is C wide.",
        why="Transformer blocks (and MobileNetV2) expand by 4 inside. The strided 1×1 shortcuts between stages "
        "become 16 times cheaper, so the whole network costs less although the depthwise convolution is on 4C.",
        rulings=("Shortcut",),
    ),
    "move_up": CardText(
        section="2.5",
        what="The depthwise convolution moves from between the 1×1 layers to before both, where it works on C "
        "channels instead of 4C.",
        why="In a transformer, attention stands before the MLP. It loses accuracy by itself and is the preparation "
        "for large kernels, which on 4C channels would be expensive.",
        rulings=("Entrance of a stage",),
    ),
    "kernel_5": _kernel(5, "Explored, not adopted."),
    "kernel_7": _kernel(7, "Adopted."),
    "kernel_9": _kernel(9, "Explored, not adopted."),
    "kernel_11": _kernel(11, "Explored, not adopted."),
    "gelu": CardText(
        section="2.6",
        what="Every ReLU becomes a GELU, in the stem and after the sums too.",
        why="Transformers use GELU. By itself it changes nothing that can be measured.",
        rulings=("GELU",),
    ),
    "fewer_activations": CardText(
        section="2.6",
        what="One GELU a block is left, between the two 1×1 layers. Those behind the depthwise convolution, behind "
        "the sum and in the stem go.",
        why="A transformer block has a single activation, in its MLP. It is the largest gain among the small changes.",
        rulings=("The one activation", "Stem"),
        deviations="None known. A consequence: only a 1×1 layer is left between the block's first two batch norms, "
        "so the first one's bias has no effect until the next step.",
    ),
    "fewer_norms": CardText(
        section="2.6",
        what="One batch norm a block is left, before the first 1×1 layer. Those of the stem and of the shortcuts go "
        "too.",
        why="Transformers have fewer norms than a ResNet. The paper adds that a further norm at the block's start "
        "did not help.",
        rulings=("The one norm", "Stem", "Shortcut", "Biases", "Initial weights"),
    ),
    "layer_norm": CardText(
        section="2.6",
        what="Every batch norm becomes a layer norm over the channels of each pixel.",
        why="In the original ResNet layer norm instead of batch norm costs accuracy; after the steps before, it does "
        "not. It ends the dependence on other images of the batch and on running statistics.",
        rulings=("Epsilons", "Biases"),
        deviations="In the table of ResNet-50 the paper prints 4.46 G here although a norm has no multiply-adds: "
        "[both figures](../design.md#two-published-costs).",
    ),
    "separate_downsampling": CardText(
        section="2.6",
        what="A layer of its own halves the resolution between stages: layer norm, then a 2×2 convolution of stride "
        "2. The first block of a stage no longer strides and needs no shortcut convolution. A layer norm "
        "follows the stem and the global average pooling, as they keep training stable. This is ConvNeXt.",
        why="Swin has a separate downsampling layer too.",
        rulings=("Downsampling layers", "Stem", "Layer scale"),
        deviations="Layer scale enters in this row: the paper gives it no bar, and the released ConvNeXt has it. The "
        "paper prints 4.49 G for ConvNeXt-T where convolutions and linear layers make 4.46: [both "
        "figures](../design.md#two-published-costs).",
    ),
}
