"""A pre-training step (FCMAE, 60 % masked): gathered pixels, masked dense convolution, and masked modules over timm.

Three ways to compute one step, forward, backward and AdamW, with the same weights, images, masks and decoder:

- ``gathered``: ours, `kernels.install(model, "auto")`;
- ``masked dense``: ours in plain torch, the definition;
- ``timm masked``: timm's network whose modules are replaced as SparK does it (arXiv 2301.03580): a convolution's output
  is multiplied by the mask, layer norms take the visible pixels out of the map and put them back.

They take turns in one process after a check that they agree; figures are medians of the rounds and of the rounds'
ratios. Peak memory is that of a fresh process each, which includes torch itself (the floor is a process that only
builds the network).

    python benchmarks/pretraining.py --threads 2 --rounds 9

Results: docs/pretraining.md.
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor, nn

from nextify import kernels
from nextify.networks.masked.design import MaskedDesign, fitted_masks
from nextify.networks.masked.network import MaskedAutoencoder, normalized_patches, patches
from nextify.networks.zoo import find_design
from nextify.system.device import peak_memory_mib
from nextify.system.environment import describe
from nextify.tasks.masked import draw_masks
from nextify.weights.naming import rename

WAYS = ("gathered", "masked dense", "timm masked")


class Mask:
    """The visible pixels at any resolution, for modules that cannot be handed them."""

    def __init__(self) -> None:
        self.visible = torch.ones(1, 1, 1, 1)

    def at(self, height: int, width: int) -> Tensor:
        """``(N, 1, height, width)``, 1 where visible."""
        rows, columns = height // self.visible.shape[2], width // self.visible.shape[3]
        return self.visible.repeat_interleave(rows, 2).repeat_interleave(columns, 3)


class MaskedConv(nn.Conv2d):
    mask: Mask

    def forward(self, x: Tensor) -> Tensor:
        if self.groups > 1:  # in the place of SparK's mask at the end of a block, which timm's has no module for
            x = x * self.mask.at(*x.shape[2:])
        y = super().forward(x)
        return y * self.mask.at(*y.shape[2:])


class MaskedNorm(nn.LayerNorm):
    """Layer norm of the visible pixels of a map in either memory order."""

    mask: Mask
    channels_first = False

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            return super().forward(x)
        pixels = x.permute(0, 2, 3, 1) if self.channels_first else x
        seen = self.mask.at(*pixels.shape[1:3])[:, 0] > 0
        out = torch.zeros_like(pixels)
        out[seen] = F.layer_norm(pixels[seen], self.normalized_shape, self.weight, self.bias, self.eps)
        return out.permute(0, 3, 1, 2) if self.channels_first else out


class MaskedResponseNorm(GlobalResponseNorm):
    mask: Mask

    def forward(self, x: Tensor) -> Tensor:
        last = self.channel_dim == -1
        seen = self.mask.at(*(x.shape[1:3] if last else x.shape[2:]))
        return super().forward(x * (seen.permute(0, 2, 3, 1) if last else seen))


class TimmAutoencoder(nn.Module):
    """timm's network behind masked modules, before the decoder of ours."""

    def __init__(self, ours: MaskedAutoencoder, name: str) -> None:
        super().__init__()
        self.ours = copy.deepcopy(ours)
        del self.ours.encoder
        self.encoder = timm.create_model(name, pretrained=False, num_classes=0)
        own = {n.removeprefix("encoder."): t for n, t in ours.state_dict().items() if n.startswith("encoder.")}
        self.encoder.load_state_dict(rename(own, ours.design.encoder, "timm"))
        self.mask = Mask()
        for module in self.encoder.modules():
            kinds = {nn.Conv2d: MaskedConv, GlobalResponseNorm: MaskedResponseNorm}
            if isinstance(module, nn.LayerNorm):
                module.__class__, first = MaskedNorm, type(module).__name__ == "LayerNorm2d"
                module.channels_first = first
            elif type(module) in kinds:
                module.__class__ = kinds[type(module)]
            module.mask = self.mask
        self.encoder.head.requires_grad_(False)

    def forward(self, images: Tensor, masked: Tensor) -> Tensor:
        self.mask.visible = (~masked)[:, None].float()
        x = self.encoder.forward_features(images)
        x = self.ours.projection((x * self.mask.at(*x.shape[2:])).permute(0, 2, 3, 1))
        hidden = self.mask.at(*x.shape[1:3])[:, 0] == 0
        x = torch.where(hidden[..., None], self.ours.mask_token, x)
        predicted = self.ours.prediction(self.ours.decoder(x))
        target, _, _ = normalized_patches(patches(images, self.ours.design.stride))
        return ((predicted - target).square().mean(-1) * hidden).sum((1, 2)) / hidden.sum((1, 2))


def build(way: str, name: str, size: int) -> nn.Module:
    torch.manual_seed(0)
    design, _ = fitted_masks(find_design(name), size)
    model: nn.Module = MaskedAutoencoder(MaskedDesign(design.encoder, design.unit, 0.6, design.width))
    if way == "timm masked":
        return TimmAutoencoder(model, name)
    kernels.install(model, "auto" if way == "gathered" else "off")
    return model


def stepper(model: nn.Module, images: Tensor, masked: Tensor) -> Callable[[], float]:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-6, (0.9, 0.95), fused=True)

    def step() -> float:
        loss = model(images, masked).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def inputs(name: str, size: int, batch: int, device: str) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    design, _ = fitted_masks(find_design(name), size)
    units = design.grid(size)
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    return images, draw_masks(batch, units, units, 0.6, 0, 0).to(device)


def memory(way: str, name: str, options: argparse.Namespace, steps: int) -> int:
    """Peak MiB of a process of its own that takes so many steps."""
    command = [sys.executable, __file__, "--one", way, "--models", name, "--steps", str(steps)]
    for option in ("batch", "threads", "image_size", "device"):
        command += [f"--{option.replace('_', '-')}", str(getattr(options, option))]
    return int(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def one(options: argparse.Namespace) -> None:
    name = options.models[0]
    model = build(options.one, name, options.image_size).to(options.device)
    step = stepper(model, *inputs(name, options.image_size, options.batch, options.device))
    for _ in range(options.steps):
        step()
    peak = torch.cuda.max_memory_allocated() // 2**20 if options.device == "cuda" else peak_memory_mib()
    print(json.dumps(peak))


def compare(name: str, options: argparse.Namespace) -> None:
    images, masked = inputs(name, options.image_size, options.batch, options.device)
    models = {way: build(way, name, options.image_size).to(options.device) for way in WAYS}
    losses = {way: model(images, masked).detach() for way, model in models.items()}
    for way in WAYS:
        torch.testing.assert_close(losses[way], losses["masked dense"], rtol=1e-4, atol=1e-4)
    steps = {way: stepper(model, images, masked) for way, model in models.items()}
    for step in steps.values():
        step(), step()
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(options.rounds):
        for way in WAYS[:: 1 if number % 2 == 0 else -1]:
            start = time.perf_counter()
            for _ in range(options.steps):
                steps[way]()  # reads the loss, and so waits for a GPU
            speeds[way].append(options.batch * options.steps / (time.perf_counter() - start))
    print(f"\n{name}, {options.image_size}², batch {options.batch}, {options.threads} threads, {options.device}; "
          f"n = {options.rounds} rounds of {options.steps} steps")  # fmt: skip
    for way in WAYS:
        peak = "" if options.no_memory else f", {memory(way, name, options, 3):,} MiB"
        found = speeds[way]
        print(f"{way:14s} median {statistics.median(found):7.2f} images/s ({min(found):.2f} to {max(found):.2f}){peak}")
    if not options.no_memory:
        print(f"{'no step':14s} {memory('masked dense', name, options, 0):,} MiB")
    for way in WAYS[1:]:
        ratios = [a / b for a, b in zip(speeds["gathered"], speeds[way], strict=True)]
        print(f"gathered / {way}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["convnextv2_atto", "convnextv2_tiny"])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=1, help="of each way in a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--one", choices=WAYS, help="take the steps in this way alone and print the peak memory")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        one(options)
        return
    here = describe()
    print(f"{here['cpu']}, {here['cores']} cores; torch {here['torch']}, timm {timm.__version__}, {here['date']}")
    for name in options.models:
        compare(name, options)


if __name__ == "__main__":
    main()
