"""Dense networks: every head on every kind of backbone learns with all its weights, and finds what it has learned."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead

from nextify.networks.backbone import Backbone
from nextify.networks.dense.cost import MASKED, PROPOSALS, dense_cost
from nextify.networks.dense.design import DenseDesign, fitted_head
from nextify.networks.dense.detection import Found
from nextify.networks.dense.network import DenseNetwork
from nextify.networks.foreign import timm_network
from nextify.networks.zoo import find_design
from nextify.paper.design import DesignError

CANVAS = (64, 96)
TINY = {"depths": (1, 1, 1, 1), "widths": (16, 24, 32, 48)}
BACKBONES = {
    "convnext": find_design("convnext_atto").with_(**TINY, layer_scale=0.1),
    "convnextv2": find_design("convnextv2_atto").with_(**TINY),
    "resnet": find_design("resnet50_baseline").with_(**TINY),
    "pooled": find_design("convnext_atto").with_(**TINY, layer_scale=0.1, downsampling="pooled", stem="conv3_pool"),
    "isotropic": find_design("convnext_isotropic_small").with_(depths=(2,), widths=(32,)),
    "timm resnet": timm_network("resnet18", channels=(8, 16, 24, 32)),
    "swin": timm_network(
        "swin_tiny_patch4_window7_224", embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), window_size=4
    ),
    "vit": timm_network("vit_tiny_patch16_224", embed_dim=32, depth=2, num_heads=2),
}
HEADS = ("fcos", "retinanet", "faster_rcnn", "mask_rcnn", "upernet", "fpn")


@dataclass
class Target:
    boxes: torch.Tensor
    labels: torch.Tensor
    crowd: torch.Tensor
    masks: torch.Tensor | None


def targets_of(head, crowd=False):
    if head in ("upernet", "fpn"):
        index = torch.zeros(2, *CANVAS, dtype=torch.uint8)
        index[0, 10:40, 8:30], index[1, :20] = 1, 255
        return index
    boxes = torch.tensor([[8.0, 10, 30, 40], [50, 20, 62, 34]])
    masks = torch.zeros(2, *CANVAS, dtype=torch.uint8)
    masks[0, 10:40, 8:30] = masks[1, 20:34, 50:62] = 1
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.bool), masks[:0]
    return [Target(boxes, torch.tensor([0, 1]), torch.tensor([False, crowd]), masks), Target(*none)]


def design_of(backbone, head, **changes):
    return fitted_head(BACKBONES[backbone], head, CANVAS).with_(width=32, **changes)


@pytest.mark.parametrize(
    ("head", "backbone"),
    [
        pytest.param(head, backbone, marks=() if head == "fcos" or backbone == "convnext" else pytest.mark.slow)
        for head in HEADS
        for backbone in BACKBONES
    ],
)
def test_every_head_trains_on_every_backbone(backbone, head):
    torch.manual_seed(0)
    network = DenseNetwork(design_of(backbone, head), 2, CANVAS, stochastic_depth=0.1)
    images = torch.randn(2, 3, *CANVAS)
    losses = network.train()(images, targets_of(head))
    sum(losses.values()).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert all(loss.isfinite() for loss in losses.values())
    assert not without
    with torch.no_grad():
        found = network.eval()(images)
    if head in ("upernet", "fpn"):
        assert found.shape == (2, 2, *CANVAS)
        return
    assert len(found) == 2
    for one in found:
        assert one.boxes.shape == (len(one.scores), 4)
        assert len(one.labels) == 0 or (one.labels.min() >= 0 and one.labels.max() < 2)
        assert (one.masks is None) == (head != "mask_rcnn")
        assert one.masks is None or one.masks.shape == (len(one.scores), 28, 28)


@pytest.mark.parametrize("head", ["fcos", *(pytest.param(h, marks=pytest.mark.slow) for h in HEADS[1:4])])
def test_a_detector_learns_a_batch_by_heart(head):
    torch.manual_seed(0)
    network = DenseNetwork(design_of("convnext", head, convolutions=1), 2, CANVAS).train()
    targets = targets_of(head)
    images = 0.1 * torch.randn(2, 3, *CANVAS)
    images[0, 0, 10:40, 8:30] += 2
    images[0, 1, 20:34, 50:62] += 2
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    for _ in range(50):
        sum(network(images, targets).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        first, second = network.eval()(images)
    assert isinstance(first, Found)
    for label, box in enumerate(targets[0].boxes):
        surest = first.scores.where(first.labels == label, 0).argmax()
        assert first.scores[surest] > 0.4
        assert torch.allclose(first.boxes[surest], box, atol=4)
    assert not (second.scores > 0.4).any()


@pytest.mark.parametrize("head", ["fcos", "retinanet", "faster_rcnn"])
def test_a_crowd_is_neither_an_object_nor_background(head):
    torch.manual_seed(0)
    network = DenseNetwork(design_of("convnext", head), 2, CANVAS).train()
    images = torch.randn(2, 3, *CANVAS)

    def loss(crowd, without=False):
        targets = targets_of(head, crowd)
        if without:
            targets[0] = Target(*(x[:1] for x in (targets[0].boxes, targets[0].labels, targets[0].crowd)), None)
        torch.manual_seed(1)
        return {name: float(value.detach()) for name, value in network(images, targets).items()}

    key = "loss_objectness" if head == "faster_rcnn" else "classes"
    assert loss(True)[key] != loss(False)[key]
    assert loss(True)[key] != loss(True, without=True)[key]
    assert all(torch.isfinite(torch.tensor(list(loss(True).values()))))


def test_the_backbone_keeps_its_names_and_its_channels_last_maps():
    network = DenseNetwork(design_of("convnext", "fcos"), 2, CANVAS)
    assert isinstance(network.backbone, Backbone)
    assert "backbone.stages.2.blocks.0.pointwise1.weight" in network.state_dict()
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in network.backbone(torch.randn(2, 3, *CANVAS)))
    assert network.backbone.strides == [8, 16, 32]


@pytest.mark.parametrize("backbone", ["convnext", "swin", "vit"])
def test_a_design_is_plain_data(backbone):
    design = design_of(backbone, "mask_rcnn")
    assert DenseDesign.from_dict(design.to_dict()) == design


@pytest.mark.parametrize("wrong", [{"head": "yolo"}, {"width": 100}, {"finest_stride": 5}, {"convolutions": 0}])
def test_an_impossible_design_is_refused(wrong):
    with pytest.raises(DesignError, match=next(iter(wrong))):
        DenseDesign(BACKBONES["convnext"]).with_(**wrong)


@pytest.mark.parametrize(
    ("backbone", "head", "size", "cascade", "published"),
    [
        ("convnext_tiny", "mask_rcnn", (800, 1280), False, 262),
        pytest.param("swin_tiny_patch4_window7_224", "mask_rcnn", (800, 1280), False, 267, marks=pytest.mark.slow),
        pytest.param("convnext_tiny", "mask_rcnn", (800, 1280), True, 741, marks=pytest.mark.slow),
        pytest.param("convnext_tiny", "upernet", (512, 2048), False, 939, marks=pytest.mark.slow),
        pytest.param("swin_tiny_patch4_window7_224", "upernet", (512, 2048), False, 945, marks=pytest.mark.slow),
    ],
)
def test_the_cost_is_that_of_the_papers_tables(backbone, head, size, cascade, published):
    network = timm_network(backbone) if backbone.startswith("swin") else find_design(backbone)
    design = fitted_head(network, head, size)
    cost = dense_cost(design, 150 if head == "upernet" else 80, *size)
    if cascade:
        cost += more_of_cascade(design, 80, size)
    assert cost / 1e9 == pytest.approx(published, rel=0.003)


def more_of_cascade(design: DenseDesign, num_classes: int, size: tuple[int, int]) -> int:
    """Multiply-adds that Cascade Mask R-CNN (arXiv 1712.00726, the paper's Table 3) adds to Mask R-CNN: three box heads
    of 4 convolutions and a linear layer, each with one box for all classes, and three mask heads."""
    width = design.width

    def counted(boxes: int, side: int, *layers: nn.Module) -> int:
        with FlopCounterMode(display=False) as counter:
            nn.Sequential(*layers)(torch.empty(boxes, width, side, side))
        return int(counter.get_total_flops()) // 2

    with torch.device("meta"), torch.no_grad():
        regions = DenseNetwork(design, num_classes, size).eval().head.regions
        own = counted(PROPOSALS, 7, regions.box_head, regions.box_predictor)
        mask = counted(MASKED, 14, regions.mask_head, regions.mask_predictor)
        box_head = FastRCNNConvFCHead((width, 7, 7), [width] * 4, [1024], nn.BatchNorm2d).eval()
        return 3 * (counted(PROPOSALS, 7, box_head, nn.Linear(1024, num_classes + 1 + 4)) + mask) - own - mask
