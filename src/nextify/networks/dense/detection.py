"""Detection heads on torchvision's modules: FCOS, RetinaNet, Faster and Mask R-CNN.

Boxes are ``x1, y1, x2, y2`` in pixels of the canvas. Labels count from 0; the background that torchvision's two-stage
heads number 0 is added and taken off here. Crowds are never trained on: what lies mostly inside of one and is matched
with nothing else counts neither as an object nor as background.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign, box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from nextify.networks.dense.anchors import Anchors
from nextify.networks.dense.backbones import Maps
from nextify.networks.dense.design import GROUPS, LARGE, MOST_BOXES, DenseDesign
from nextify.networks.dense.necks import Pyramid
from nextify.networks.dense.shares import Head

LEAST_SCORE = 0.05
"""Of a box that is kept; COCO's usual one."""
LEVELS_PER_SIDE = 8
"""A one-stage pyramid goes up to the level of this many cells along the canvas's short side: RetinaNet's P7 at 800."""
INSIDE_CROWD = 0.5
"""Share of an anchor's area inside of a crowd from which on it is ignored."""
UNMATCHED, IGNORED = -1, -2
"""What torchvision's matcher calls background, and what it calls neither."""


class Truth(Protocol):
    """What is known of one image's objects."""

    @property
    def boxes(self) -> Tensor: ...  # (N, 4)
    @property
    def labels(self) -> Tensor: ...  # (N,)
    @property
    def crowd(self) -> Tensor: ...  # (N,) bool
    @property
    def masks(self) -> Tensor | None: ...  # (N, H, W) uint8


class Found(NamedTuple):
    """What a detector finds in one image."""

    boxes: Tensor
    """``(M, 4)`` in pixels of the canvas, the best first."""
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None
    """``(M, 28, 28)``: how sure it is, 0 to 1, of the parts of each box."""


Losses = dict[str, Tensor]
Canvas = tuple[int, int]


class DetectionHead(Head):
    """A feature pyramid and a head on it: losses in training, ``Found`` in evaluation."""

    def forward(
        self, maps: list[Tensor], canvas: Canvas, targets: Sequence[Truth] | None = None
    ) -> Losses | list[Found]:
        raise NotImplementedError


class OneStage(DetectionHead):
    """A dense head: boxes and classes at every cell of every level."""

    net: FCOS | RetinaNet

    def __init__(self, backbone: Maps, design: DenseDesign, canvas: Canvas) -> None:
        super().__init__()
        more = max(backbone.strides) < min(canvas) / LEVELS_PER_SIDE
        self.neck = Pyramid(backbone, design.finest_stride, design.width, "convolve" if more else "")

    def forward(
        self, maps: list[Tensor], canvas: Canvas, targets: Sequence[Truth] | None = None
    ) -> Losses | list[Found]:
        outputs, anchors, each = self._outputs(maps)
        if targets is not None:
            return self.losses(outputs, anchors, each, targets)
        split = {name: list(torch.split(out, each, 1)) for name, out in outputs.items()}
        batch = len(maps[0])
        kept = self.net.postprocess_detections(split, [list(torch.split(anchors, each))] * batch, [canvas] * batch)
        return [Found(one["boxes"], one["scores"], one["labels"]) for one in kept]

    def _outputs(self, maps: list[Tensor]) -> tuple[dict[str, Tensor], Tensor, list[int]]:
        """torchvision's outputs ``(B, A, …)``, the anchors ``(A, 4)``, and how many of them each level has."""
        levels = self.neck(maps)
        # torch's group norm takes several times as long on channels-last maps of a CPU (docs/log.md).
        levels = levels if levels[0].is_cuda else [level.contiguous() for level in levels]
        outputs = {name: out.float() for name, out in self.net.head(levels).items()}
        shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
        anchors = self.net.anchor_generator.of(shapes, levels[0].device)
        each = [
            h * w * n for (h, w), n in zip(shapes, self.net.anchor_generator.num_anchors_per_location(), strict=True)
        ]
        return outputs, anchors, each

    def places(self, maps: list[Tensor], canvas: Canvas) -> Tensor:
        """``(B, A, 4 + K)``: each anchor's box as shares of the canvas's width and height, and its score for each
        class, before overlapping boxes are suppressed."""
        outputs, anchors, _ = self._outputs(maps)
        scores, regression = self.scores(outputs), outputs["bbox_regression"]
        every = anchors.expand(regression.shape[0], -1, -1).flatten(0, 1)
        boxes = self.decoded(regression.flatten(0, 1), every)
        sides = anchors.new_tensor([canvas[1], canvas[0]] * 2)
        return torch.cat([(boxes.view(regression.shape) / sides).clamp(0, 1), scores], -1)

    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """``(B, A, K)``, from 0 to 1."""
        return outputs["cls_logits"].sigmoid()

    def decoded(self, regression: Tensor, anchors: Tensor) -> Tensor:
        """Boxes ``(M, 4)`` of as many anchors."""
        raise NotImplementedError

    def losses(self, outputs: dict[str, Tensor], anchors: Tensor, each: list[int], targets: Sequence[Truth]) -> Losses:
        raise NotImplementedError


def _channels(width: int) -> nn.Module:
    """What torchvision's detectors ask of a backbone where they get its maps from outside."""
    module = nn.Identity()
    module.out_channels = width  # type: ignore[assignment]
    return module


class FcosHead(OneStage):
    """FCOS (arXiv 2006.09214) without anchors. Losses are over the batch's positive cells, matched in one go."""

    RADIUS = 1.5
    """Cells from an object's centre within which a cell is positive."""

    def __init__(self, backbone: Maps, design: DenseDesign, num_classes: int, canvas: Canvas) -> None:
        super().__init__(backbone, design, canvas)
        strides = self.neck.strides
        head = FCOSHead(design.width, 1, num_classes, design.convolutions)
        # Boxes of half a level's objects to begin with, where torchvision's begin at no size and half of them, cut off
        # by the ReLU, without a gradient.
        nn.init.constant_(head.regression_head.bbox_reg.bias, design.object_scale / 2)
        self.net = FCOS(
            *(_channels(design.width), num_classes),
            anchor_generator=Anchors(strides, [(stride,) for stride in strides], (1.0,)),
            head=head,
            score_thresh=LEAST_SCORE,
            detections_per_img=MOST_BOXES,
        )
        self.object_scale = design.object_scale

    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        return (super().scores(outputs) * outputs["bbox_ctrness"].sigmoid()).sqrt()

    def decoded(self, regression: Tensor, anchors: Tensor) -> Tensor:
        boxes: Tensor = self.net.box_coder.decode(regression, anchors)
        return boxes

    def losses(self, outputs: dict[str, Tensor], anchors: Tensor, each: list[int], targets: Sequence[Truth]) -> Losses:
        boxes, labels, crowd, real = _padded(targets)  # (B, M, 4), three times (B, M)
        matched, ignored = self._matched(anchors, each, boxes, crowd, real)  # (B, P)
        positive = matched >= 0
        count = self.averaged(positive.sum(), len(targets))
        chosen = matched.clamp(min=0)
        wanted = torch.zeros_like(outputs["cls_logits"])
        image, cell = positive.nonzero(as_tuple=True)
        wanted[image, cell, labels[image, chosen[image, cell]]] = 1.0
        classes = sigmoid_focal_loss(outputs["cls_logits"], wanted, reduction="none")
        classes = (classes * ~ignored[..., None]).sum()
        of_anchor, truth = anchors[cell], boxes[image, chosen[image, cell]]
        coder = self.net.box_coder
        found = coder.decode(outputs["bbox_regression"][image, cell], of_anchor)
        regression = generalized_box_iou_loss(found, truth, reduction="sum")
        sides = coder.encode(of_anchor, truth)
        across, down = sides[:, 0::2], sides[:, 1::2]
        centred = (across.amin(1) / across.amax(1) * (down.amin(1) / down.amax(1))).clamp(min=0).sqrt()
        logits = outputs["bbox_ctrness"][image, cell, 0]
        centreness = F.binary_cross_entropy_with_logits(logits, centred, reduction="sum")
        return {"classes": classes / count, "boxes": regression / count, "centreness": centreness / count}

    def _matched(
        self, anchors: Tensor, each: list[int], boxes: Tensor, crowd: Tensor, real: Tensor
    ) -> tuple[Tensor, Tensor]:
        """For each cell the smallest object that it stands for, or -1; and whether it is inside of a crowd only."""
        centres, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2] - anchors[:, 0]
        least = self.object_scale * size
        most = 2 * least
        least[: each[0]], most[len(most) - each[-1] :] = 0.0, torch.inf
        before = centres[:, None] - boxes[:, None, :, :2]  # (B, P, M, 2)
        after = boxes[:, None, :, 2:] - centres[:, None]
        inside = torch.minimum(before, after).amin(-1) > 0  # (B, P, M)
        longest = torch.maximum(before, after).amax(-1)
        off_centre = (before - after).abs().amax(-1) / 2
        fits = inside & (off_centre < self.RADIUS * size[:, None])
        fits &= (longest > least[:, None]) & (longest < most[:, None]) & (real & ~crowd)[:, None]
        area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)  # (B, M)
        smallest, matched = torch.where(fits, area[:, None], torch.inf).min(-1)
        free = smallest.isinf()
        ignored = free & (inside & crowd[:, None]).any(-1)
        return matched.masked_fill(free, UNMATCHED), ignored


def _padded(targets: Sequence[Truth]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes, labels, crowd and whether they are real, of all images as one: the missing ones are empty boxes, of which
    there is one where no image has an object."""
    rows = [(target.boxes, target.labels, target.crowd, torch.ones_like(target.crowd)) for target in targets]
    of_all = (pad_sequence(list(parts), batch_first=True) for parts in zip(*rows, strict=True))
    boxes, labels, crowd, real = (x if x.shape[1] else x.new_zeros(len(x), 1, *x.shape[2:]) for x in of_all)
    return boxes, labels, crowd, real


def _as_torchvision(targets: Sequence[Truth], background: int = 0) -> list[dict[str, Tensor]]:
    """Targets without crowds, their labels raised by ``background``; the crowds' boxes apart."""
    found = []
    for target in targets:
        own = ~target.crowd
        one = {"boxes": target.boxes[own], "labels": target.labels[own] + background, "crowd": target.boxes[~own]}
        if target.masks is not None:
            one["masks"] = target.masks[own]
        found.append(one)
    return found


def _in_crowd(boxes: Tensor, crowd: Tensor) -> Tensor:
    """``(N,)``: whether most of each box ``(N, 4)`` lies inside of one of the ``crowd (M, 4)``."""
    corners = (
        torch.maximum(boxes[:, None, :2], crowd[None, :, :2]),
        torch.minimum(boxes[:, None, 2:], crowd[None, :, 2:]),
    )
    shared = (corners[1] - corners[0]).clamp(min=0).prod(-1)  # (N, M)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    return (shared > INSIDE_CROWD * area[:, None]).any(1)


class RetinaNetHeads(OneStage):
    """RetinaNet (arXiv 1708.02002) with group norm in its branches, as in torchvision's second version."""

    def __init__(self, backbone: Maps, design: DenseDesign, num_classes: int, canvas: Canvas) -> None:
        super().__init__(backbone, design, canvas)
        strides = self.neck.strides
        sizes = [[design.object_scale * stride * 2 ** (i / 3) for i in range(3)] for stride in strides]
        head = RetinaNetHead(design.width, 9, num_classes, norm_layer=lambda width: nn.GroupNorm(GROUPS, width))
        for branch in (head.classification_head, head.regression_head):
            del branch.conv[design.convolutions :]
        self.net = RetinaNet(
            *(_channels(design.width), num_classes),
            anchor_generator=Anchors(strides, sizes, (0.5, 1.0, 2.0)),
            head=head,
            score_thresh=LEAST_SCORE,
            detections_per_img=MOST_BOXES,
        )

    def decoded(self, regression: Tensor, anchors: Tensor) -> Tensor:
        boxes: Tensor = self.net.box_coder.decode_single(regression, anchors)
        return boxes

    def losses(self, outputs: dict[str, Tensor], anchors: Tensor, each: list[int], targets: Sequence[Truth]) -> Losses:
        truth, matched = _as_torchvision(targets), []
        for target in truth:
            if len(target["labels"]):
                found = self.net.proposal_matcher(box_iou(target["boxes"], anchors))
            else:
                found = torch.full((len(anchors),), UNMATCHED, device=anchors.device)
            if len(target["crowd"]):
                found[(found == UNMATCHED) & _in_crowd(anchors, target["crowd"])] = IGNORED
            matched.append(found)
        found_losses = self.net.head.compute_loss(truth, outputs, [anchors] * len(truth), matched)
        return {"classes": found_losses["classification"], "boxes": found_losses["bbox_regression"]}


class _Proposals(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's, without learning that a crowd is background."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for own, all_anchors, target in zip(labels, anchors, targets, strict=True):
            if len(target["crowd"]):
                own[(own == 0) & _in_crowd(all_anchors, target["crowd"])] = -1.0
        return labels, boxes


class _Regions(RoIHeads):  # type: ignore[misc]
    """Likewise."""

    def select_training_samples(self, proposals: list[Tensor], targets: list[dict[str, Tensor]]) -> Any:
        self.crowds = [target["crowd"] for target in targets]
        return super().select_training_samples(proposals, targets)

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], boxes: list[Tensor], labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        matched, found = super().assign_targets_to_proposals(proposals, boxes, labels)
        for own, all_proposals, crowd in zip(found, proposals, self.crowds, strict=True):
            if len(crowd):
                own[(own == 0) & _in_crowd(all_proposals, crowd)] = -1
        return matched, found


class _Sampler(BalancedPositiveNegativeSampler):  # type: ignore[misc]
    """torchvision's, which draws for the whole batch where a head's images are some rows of one."""

    def __init__(self, like: BalancedPositiveNegativeSampler, head: Head) -> None:
        super().__init__(like.batch_size_per_image, like.positive_fraction)
        self.head = head
        self.taken = torch.zeros(2)
        """How many positives and negatives were chosen at the last call, of all its images."""

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        if self.head.part is None:
            found: tuple[list[Tensor], list[Tensor]] = super().__call__(matched_idxs)
            return found
        rows, batch = self.head.part
        counts = torch.stack([torch.stack([(m >= 1).sum(), (m == 0).sum()]) for m in matched_idxs])
        every = counts.new_zeros(batch, 2).index_copy(0, rows, counts)
        if self.head.over_processes is not None:
            every = self.head.over_processes(every)
        own = dict(zip(rows.tolist(), matched_idxs, strict=True))
        chosen: tuple[list[Tensor], list[Tensor]] = ([], [])
        for row, of_image in enumerate(every.tolist()):
            if row in own:
                for some, more in zip(chosen, super().__call__([own[row]]), strict=True):
                    some += more
            else:
                for count in of_image:
                    torch.randperm(count, device=counts.device)
        self.taken = torch.stack([torch.stack([mask.sum() for mask in some]).sum() for some in chosen])
        return chosen


_COUNTED = {"loss_objectness": 0, "loss_rpn_box_reg": 0, "loss_classifier": 1, "loss_box_reg": 1, "loss_mask": 2}
"""What each loss of torchvision's is a mean over: chosen anchors, chosen regions, and those of them with an object."""


class RegionHeads(DetectionHead):
    """Faster R-CNN (arXiv 1506.01497) on a feature pyramid and, with ``masks``, Mask R-CNN (arXiv 1703.06870).

    On canvases up to 640 pixels it proposes and samples a quarter of the regions, as there are fewer places.
    """

    def __init__(self, backbone: Maps, design: DenseDesign, num_classes: int, canvas: Canvas, masks: bool) -> None:
        super().__init__()
        width, hidden = design.width, 4 * design.width
        self.neck = Pyramid(backbone, design.first_stride, width, "pool")
        # Anchors of 8 strides, as in the paper: 32 pixels at stride 4; half of that on small canvases.
        sizes = [(2 * design.object_scale * stride,) for stride in self.neck.strides]
        anchors = Anchors(self.neck.strides, sizes, (0.5, 1.0, 2.0))
        large = max(canvas) > LARGE
        kept = {"training": 2000, "testing": 1000} if large else {"training": 500, "testing": 500}
        self.proposals = _Proposals(anchors, RPNHead(width, 3), 0.7, 0.3, 256, 0.5, kept, kept, 0.7)
        self.levels = [str(i) for i in range(len(self.neck.strides) - 1)]
        scale = {"canonical_scale": max(1, round(56 * design.object_scale)), "canonical_level": 4}
        mask_parts: dict[str, nn.Module] = {}
        if masks:
            mask_parts = {
                "mask_roi_pool": MultiScaleRoIAlign(self.levels, 14, 2, **scale),
                "mask_head": MaskRCNNHeads(width, (width,) * design.convolutions, 1),
                "mask_predictor": MaskRCNNPredictor(width, width, num_classes + 1),
            }
        self.regions = _Regions(
            MultiScaleRoIAlign(self.levels, 7, 2, **scale),
            TwoMLPHead(width * 7 * 7, hidden),
            FastRCNNPredictor(hidden, num_classes + 1),
            *(0.5, 0.5, 512 if large else 128, 0.25, None, LEAST_SCORE, 0.5, MOST_BOXES),
            **mask_parts,
        )
        for module in (self.proposals, self.regions):
            module.fg_bg_sampler = _Sampler(module.fg_bg_sampler, self)

    def forward(
        self, maps: list[Tensor], canvas: Canvas, targets: Sequence[Truth] | None = None
    ) -> Losses | list[Found]:
        levels = {str(i): x.float() for i, x in enumerate(self.neck(maps))}
        sizes = [canvas] * len(maps[0])
        truth = None if targets is None else _as_torchvision(targets, background=1)
        images = ImageList(maps[0], sizes)  # of which the proposals read the sizes only
        with torch.autocast(maps[0].device.type, enabled=False):
            proposals, losses = self.proposals(images, levels, truth)
            found, more = self.regions(levels, proposals, sizes, truth)
        if targets is not None:
            return self._of_batch({**losses, **more}, len(targets))
        return [
            Found(one["boxes"], one["scores"], one["labels"] - 1, one["masks"][:, 0] if "masks" in one else None)
            for one in found
        ]

    def _of_batch(self, losses: Losses, images: int) -> Losses:
        """Of means over what this process chose, its parts of the means over what all have chosen."""
        if self.over_processes is None:
            return losses
        anchors, regions = self.proposals.fg_bg_sampler.taken, self.regions.fg_bg_sampler.taken
        counts = torch.stack([anchors.sum(), regions.sum(), regions[0]])
        shares = counts / self.averaged(counts, images)
        return {name: loss * shares[_COUNTED[name]] for name, loss in losses.items()}


def detection_head(backbone: Maps, design: DenseDesign, num_classes: int, canvas: Canvas) -> DetectionHead:
    match design.head:
        case "fcos":
            return FcosHead(backbone, design, num_classes, canvas)
        case "retinanet":
            return RetinaNetHeads(backbone, design, num_classes, canvas)
        case "faster_rcnn" | "mask_rcnn":
            return RegionHeads(backbone, design, num_classes, canvas, design.head == "mask_rcnn")
        case "upernet" | "fpn":
            raise ValueError(f"{design.head} is a head for masks, not for boxes")
