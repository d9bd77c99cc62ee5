"""Masked autoencoders: gathered pixels give what masked dense convolution defines, and that is the published one."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nextify import kernels
from nextify.networks.layout import ImageSizeError
from nextify.networks.masked.design import MaskedDesign, fitted_masks
from nextify.networks.masked.network import MaskedAutoencoder, MaskedEncoder, patches, whole
from nextify.networks.zoo import find_design, list_models
from nextify.paper.design import DesignError, total_stride
from nextify.tasks.masked import draw_masks

SIZES = [*list_models("convnext_*"), *list_models("convnextv2_*")]
ROWS = [name for name in list_models("resnet50_*") if find_design(name).groups == "depthwise"]


QUICK = ("convnextv2_atto", "convnext_tiny", "convnext_pooled", "convnext_isotropic_small", "resnet50_depthwise")
"""In the default run; the others are slow."""


def tiny(name, depth=None):
    """The named design with tiny widths, and so many blocks in each stage if given."""
    design = find_design(name)
    stages = len(design.depths)
    scale = {"layer_scale": 0.3} if design.layer_scale != "off" else {}
    depths = design.depths if depth is None else (depth,) * stages
    return design.with_(depths=depths, widths=tuple(8 + 2 * i for i in range(stages)), **scale)


def slow_beyond(names):
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


def pair(design, ratio, seed=0):
    """The same network as masked dense convolution and gathered, with weights at which every part matters."""
    torch.manual_seed(seed)
    stride = total_stride(design)
    dense = MaskedAutoencoder(MaskedDesign(design, stride * max(1, 32 // stride), ratio, 8))
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (0.5 if parameter.ndim == 1 else 0))
    gathered = copy.deepcopy(dense)
    kernels.install(gathered, "auto")
    return dense, gathered


def close(a, b, what, slack=0.0):
    """Within 1e-5 of the largest value, and of what float32 itself leaves open (``slack``)."""
    a, b = a.detach(), b.detach()
    assert float((a - b).abs().max()) <= 1e-5 * float(b.abs().max()) + slack, what


def run(model, images, masked, upstream):
    """The encoder's output and every gradient, the images' included."""
    x = images.clone().requires_grad_()
    y = model.encoder(x, masked)
    y.backward(upstream)
    found = {"output": y.detach(), "images": x.grad}
    for name, parameter in model.encoder.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            found[name] = parameter.grad
    model.zero_grad()
    return found


def compare(dense, gathered, images, masked, strict=False):
    """In float64 the two agree to 1e-10, with batch norms, which enlarge what hardly varies, to 1e-6. In float32 they
    agree to 1e-5 beyond its own distance from float64: where sums cancel (a bias that a later batch norm subtracts
    again has a gradient of zero) it rounds more than that; ``strict`` leaves no room for it."""
    torch.manual_seed(1)
    stride = dense.design.stride
    with torch.no_grad():
        upstream = torch.randn(copy.deepcopy(dense).encoder(images, masked).shape)
    assert upstream.shape[1] in (images.shape[2] // stride, -(-images.shape[2] // stride))
    truth, same = (
        run(copy.deepcopy(model).double(), images.double(), masked, upstream.double()) for model in (dense, gathered)
    )
    exact, fast = (run(model, images, masked, upstream) for model in (dense, gathered))
    least = 1e-6 if dense.design.encoder.norm == "batch" else 1e-10
    largest = max(float(value.abs().max()) for value in truth.values())
    for name, value in truth.items():
        assert float((same[name] - value).abs().max()) <= least * max(float(value.abs().max()), largest * 1e-4), name
        rounding = float((exact[name] - value).abs().max())
        close(fast[name], exact[name], name, slack=0 if strict else 5 * rounding + 1e-7 * largest)


@pytest.mark.parametrize("name", slow_beyond([*SIZES, *ROWS]))
def test_gathered_equals_masked_dense_in_outputs_and_every_gradient(name):
    # Batch norms of a few pixels enlarge rounding from block to block.
    design = tiny(name, 1 if find_design(name).norm == "batch" else None)
    dense, gathered = pair(design, 0.6)
    side = dense.design.unit * 3
    masked = draw_masks(4, 3, 3, 0.6, 0, 0)
    compare(dense, gathered, torch.randn(4, 3, side, side), masked, strict=name in SIZES and design.norm == "layer")
    if design.norm == "batch":  # which have seen the same pixels
        for (key, a), b in zip(dense.state_dict().items(), gathered.state_dict().values(), strict=True):
            if "running" in key:
                torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
        for model in (dense, gathered):
            model.eval()
        compare(dense, gathered, torch.randn(4, 3, side, side), masked)


ODD = [(0.0, (64, 64)), (0.3, (75, 97)), (0.6, (101, 66)), (0.9, (75, 97))]
EVERY = [(ratio, size) for ratio in (0.0, 0.3, 0.6, 0.9) for size in ((64, 64), (75, 97), (101, 66))]


@pytest.mark.parametrize(
    ("ratio", "size"), [*ODD, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in EVERY if pair not in ODD)]
)
@pytest.mark.parametrize("name", ["convnextv2_atto", "convnext_tiny", "convnext_pooled", "resnet50_depthwise"])
def test_at_odd_sizes_and_any_ratio(name, size, ratio):
    dense, gathered = pair(tiny(name, 1), ratio)
    rows, columns = (-(-side // dense.design.unit) for side in size)
    masked, strict = draw_masks(3, rows, columns, ratio, 5, 1), dense.design.encoder.norm == "layer"
    compare(dense, gathered, torch.randn(3, 3, *size), masked, strict)


def test_overlapping_stems_and_pooling_over_masked_pixels():
    design = tiny("resnet50_move_up", 1).with_(stem="conv7_pool")
    dense, gathered = pair(design, 0.5)
    compare(dense, gathered, torch.randn(2, 3, 96, 96), draw_masks(2, 3, 3, 0.5, 0, 0))


def test_the_loss_and_its_gradients_agree_and_paths_are_dropped_alike():
    design = tiny("convnextv2_atto", 1)
    dense, gathered = pair(design, 0.6)
    for model in (dense, gathered):
        for module in model.modules():
            if hasattr(module, "rate"):
                module.rate = 0.5
    images, masked = torch.randn(8, 3, 64, 64), draw_masks(8, 2, 2, 0.6, 0, 0)
    found = []
    for model in (dense, gathered):
        torch.manual_seed(3)
        losses = model(images, masked)
        losses.sum().backward()
        found.append((losses.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    close(found[1][0], found[0][0], "losses")
    assert found[0][1].keys() == found[1][1].keys()
    for name, grad in found[0][1].items():
        close(found[1][1][name], grad, name, slack=1e-6)


@pytest.mark.parametrize("name", ["convnextv2_atto", "resnet50_depthwise"])
def test_in_bfloat16_the_two_agree_to_its_rounding(name):
    dense, gathered = pair(tiny(name, 1), 0.6)
    images, masked = torch.randn(4, 3, 64, 64), draw_masks(4, 2, 2, 0.6, 0, 0)
    with torch.autocast("cpu", torch.bfloat16):
        a, b = (model(images, masked) for model in (dense, gathered))
    (a.sum() + b.sum()).backward()
    torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)


def test_what_is_masked_changes_nothing():
    dense, gathered = pair(tiny("convnextv2_atto", 1), 0.6)
    masked = draw_masks(2, 3, 3, 0.6, 0, 0)
    images = torch.randn(2, 3, 96, 96)
    hidden = masked.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, None]
    other = torch.where(hidden, torch.randn(2, 3, 96, 96), images)
    for model in (dense, gathered):
        torch.testing.assert_close(model.encoder(images, masked), model.encoder(other, masked), rtol=0, atol=0)


# -- the published definition, written anew in NCHW ---------------------------------------------------------------


def published_norm(x, weight, bias):  # channels first
    centred = x - x.mean(1, keepdim=True)
    x = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    return weight[:, None, None] * x + bias[:, None, None]


def published_block(x, at, keep):
    """A V2 block on ``x (N, C, H, W)``; ``keep (N, 1, H, W)`` is 1 where visible."""
    y = F.conv2d(x * keep, at("spatial.weight"), at("spatial.bias"), padding=3, groups=x.shape[1])
    y = published_norm(y, at("norm.weight"), at("norm.bias"))
    y = F.conv2d(y, at("pointwise1.weight")[..., None, None], at("pointwise1.bias"))
    y = F.gelu(y) * keep
    size = y.square().sum((2, 3), keepdim=True).sqrt()
    y = at("response_norm.weight")[:, None, None] * (y * size / (size.mean(1, keepdim=True) + 1e-6)) + (
        at("response_norm.bias")[:, None, None] + y
    )
    return x + F.conv2d(y, at("pointwise2.weight")[..., None, None], at("pointwise2.bias"))


def published_loss(state, depths, images, masked, side):
    """The mean over the batch's masked patches, as the public code has it for square images of whole units."""

    def keep(cells):
        return (~masked).float().repeat_interleave(cells, 1).repeat_interleave(cells, 2)[:, None]

    x = F.conv2d(images, state["encoder.stem.conv.weight"], state["encoder.stem.conv.bias"], stride=4)
    x = published_norm(x, state["encoder.stem.norm.weight"], state["encoder.stem.norm.bias"])
    cells = side // 4
    for stage, depth in enumerate(depths):
        if stage:
            prefix = f"encoder.stages.{stage}.downsample."
            x = published_norm(x, state[f"{prefix}norm.weight"], state[f"{prefix}norm.bias"]) * keep(cells)
            x = F.conv2d(x, state[f"{prefix}conv.weight"], state[f"{prefix}conv.bias"], stride=2)
            cells //= 2
        for block in range(depth):
            prefix = f"encoder.stages.{stage}.blocks.{block}."
            x = published_block(x, lambda name, prefix=prefix: state[prefix + name], keep(cells))
    x = F.conv2d(x * keep(1), state["projection.weight"][..., None, None], state["projection.bias"])
    x = x * keep(1) + state["mask_token"][:, None, None] * (1 - keep(1))
    x = published_block(x, lambda name: state[f"decoder.{name}"], torch.ones(1))
    x = F.conv2d(x, state["prediction.weight"][..., None, None], state["prediction.bias"])
    rows = side_count = images.shape[-1] // side
    target = images.reshape(len(images), 3, rows, side, side_count, side)
    target = torch.einsum("nchpwq->nhwpqc", target).reshape(len(images), rows * side_count, -1)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    loss = (x.flatten(2).transpose(1, 2) - target).square().mean(-1)  # (N, L)
    flat = masked.flatten(1).float()
    return (loss * flat).sum() / flat.sum()


@pytest.mark.parametrize("mode", ["off", "auto"])
def test_a_step_agrees_with_the_published_definition(mode):
    design = find_design("convnextv2_atto").with_(depths=(1, 2, 1, 1), widths=(4, 6, 8, 10))
    dense, gathered = pair(design, 0.6)
    model = dense if mode == "off" else gathered
    images, masked = torch.randn(3, 3, 96, 96), draw_masks(3, 3, 3, 0.6, 0, 4)
    loss = model(images, masked).mean()
    loss.backward()
    state = {name: value.detach().clone().requires_grad_() for name, value in model.state_dict().items()}
    expected = published_loss(state, design.depths, images, masked, 32)
    expected.backward()
    close(loss, expected, "loss")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            close(parameter.grad, state[name].grad, name, slack=1e-6)


# -- masks, patches and designs -----------------------------------------------------------------------------------


def test_masks_are_a_function_of_seed_and_step():
    masks = draw_masks(4, 7, 7, 0.6, 3, 9)
    assert torch.equal(masks, draw_masks(4, 7, 7, 0.6, 3, 9))
    assert not torch.equal(masks, draw_masks(4, 7, 7, 0.6, 3, 10))
    assert not torch.equal(masks, draw_masks(4, 7, 7, 0.6, 4, 9))
    assert (~masks).sum((1, 2)).tolist() == [19] * 4  # int(49 × 0.4), as published
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 4


@pytest.mark.parametrize(("units", "ratio", "visible"), [(2, 0.6, 1), (2, 0.9, 1), (2, 0.1, 3), (4, 0.0, 16)])
def test_something_is_always_visible_and_something_masked(units, ratio, visible):
    assert (~draw_masks(1, units, units, ratio, 0, 0)).sum() == visible


def test_patches_and_their_inverse():
    images = torch.arange(2 * 3 * 8 * 12, dtype=torch.float32).view(2, 3, 8, 12)
    assert torch.equal(whole(patches(images, 4)), images)
    assert patches(images, 4)[1, 0, 2].view(4, 4, 3)[1, 3].tolist() == images[1, :, 1, 11].tolist()
    with pytest.raises(ValueError, match="do not divide into patches of 5"):
        patches(images, 5)


def test_a_reconstruction_keeps_what_is_visible():
    dense, _ = pair(tiny("convnextv2_atto", 1), 0.6)
    images, masked = torch.randn(2, 3, 64, 64), draw_masks(2, 2, 2, 0.6, 0, 0)
    found, seen = dense.reconstruct(images, masked)
    hidden = masked.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, None].expand_as(images)
    assert torch.equal(found[~hidden], images[~hidden])
    assert torch.equal(seen[~hidden], images[~hidden])
    assert not seen[hidden].any()
    assert not torch.isclose(found[hidden], images[hidden]).all()


@pytest.mark.parametrize(
    ("name", "size", "unit", "width"),
    [("convnextv2_atto", 224, 32, 512), ("convnext_pooled", 32, 8, 256), ("convnext_isotropic_small", 224, 32, 512)],
)
def test_unit_and_decoder_are_fitted(name, size, unit, width):
    design, notes = fitted_masks(find_design(name), size)
    assert (design.unit, design.width) == (unit, width)
    assert bool(notes) == (size == 32)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("resnet50", 224, "depthwise"),
        ("convnextv2_atto", 225, "do not divide into patches of 32: --image-size 224"),
        ("convnextv2_atto", 32, "one patch"),
    ],
)
def test_what_cannot_be_masked_is_refused(name, size, message):
    with pytest.raises(DesignError, match=message):
        fitted_masks(find_design(name), size)


def test_install_swaps_the_encoder_and_says_so():
    _, gathered = pair(tiny("convnextv2_atto", 1), 0.6)
    gathered.encoder(torch.randn(1, 3, 64, 64), draw_masks(1, 2, 2, 0.6, 0, 0))
    listed = {(entry.module, entry.kernel) for entry in kernels.installed(gathered)}
    assert ("GatheredEncoder", "gathered") in listed
    assert not any(entry.kernel == "undecided" and "encoder.stages.0" in entry.layers for entry in
                   kernels.installed(gathered))  # fmt: skip
    kernels.install(gathered, "off")
    assert type(gathered.encoder) is MaskedEncoder


def test_masks_of_another_shape_are_refused():
    for model in pair(tiny("convnextv2_atto", 1), 0.6):
        with pytest.raises(ValueError, match="have 2x2 units of 32 pixels"):
            model(torch.randn(2, 3, 64, 64), torch.zeros(2, 3, 3, dtype=torch.bool))
        with pytest.raises(ImageSizeError, match="too small"):
            model.encoder(torch.randn(2, 3, 16, 16), torch.zeros(2, 1, 1, dtype=torch.bool))


def test_masks_of_numpy_are_independent_of_torch():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    np.random.seed(0)  # noqa: NPY002
    draw_masks(2, 2, 2, 0.5, 0, 0)
    assert torch.equal(before, torch.get_rng_state())
