"""What other libraries do with an image, by their own code, and how it differs from ours.

Libraries differ in the short side (torchvision's ConvNeXt-T: 236 for 224), the filter, the place of the crop, and in
what they resize: float tensors differ from 8-bit pixels by rounding. timm and torchvision open a file with
``convert("RGB")``, which drops transparency and leaves an image as its EXIF orientation found it.
``report_differences`` runs a library's code and shows what each setting is worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextify.data.decode import Pixels, from_memory
from nextify.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing, PreprocessingError

if TYPE_CHECKING:
    from torch import nn

Foreign = Literal["timm", "torchvision", "huggingface"]
Config = Mapping[str, Any]
"""A configuration of another library, as its JSON file holds it."""
_RESAMPLE: dict[Interpolation, int] = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
_SAME = 2e-6
"""Largest difference that is float32's rounding in the normalization."""


@dataclass(frozen=True)
class _Route:
    """One way through: settings, on what the resize works and where the crop lands between two pixels."""

    settings: Preprocessing
    resize_on: Literal["pil", "float tensor", "uint8 tensor"] = "pil"
    """torchvision's v1 resize turns a tensor into floats and rounds; its v2 resize, which transformers calls, stays in
    8-bit integers, as PIL does."""
    crop_offset: Literal["round", "floor"] = "round"
    """``round``: Python's round of half a pixel (to even), as torchvision; ``floor``: as transformers."""
    opening: Literal["upright, on white", "convert('RGB')"] = "upright, on white"
    """How an image becomes 8-bit RGB: by our rules, or by Pillow's conversion alone."""

    def __call__(self, image: Image.Image | Pixels) -> Tensor:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as tv
        from torchvision.transforms.v2 import functional as v2

        s = self.settings
        ours = self.opening == "upright, on white"
        pixels: Any = _converted(Image.fromarray(from_memory(image)) if ours else image, s.channels)
        # PIL always antialiases, so a route without antialias resizes tensors.
        if self.resize_on != "pil" or not s.antialias:
            pixels = tv.pil_to_tensor(pixels)
        mode = InterpolationMode(s.interpolation)
        size = list(s.size) if s.fit == "squash" else [s.resize_size]
        resize = v2.resize if self.resize_on == "uint8 tensor" else tv.resize
        pixels = resize(pixels, size, interpolation=mode, antialias=s.antialias)
        if s.fit == "crop":
            height, width = tv.get_dimensions(pixels)[1:]
            if self.crop_offset == "round" or height < s.size[0] or width < s.size[1]:
                pixels = tv.center_crop(pixels, list(s.size))
            else:
                pixels = tv.crop(pixels, (height - s.size[0]) // 2, (width - s.size[1]) // 2, *s.size)
        pixels = pixels if isinstance(pixels, Tensor) else tv.pil_to_tensor(pixels)
        return tv.normalize(pixels.float().div(255), list(s.mean), list(s.std))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Effect:
    """What one setting is worth, in units of the network's input (and of its logits, where a model is given)."""

    setting: str
    ours: str
    theirs: str
    max_abs: float
    mean_abs: float
    logits_max_abs: float | None = None
    same_top1: bool | None = None


@dataclass(frozen=True)
class Differences:
    """How a foreign route differs from ours on one image."""

    foreign: Foreign
    total: Effect
    """The other library's own code against ours."""
    causes: tuple[Effect, ...]
    """Each differing setting alone, put into our route."""
    unexplained: float
    """Largest difference that is left once all causes are put into our route; 0 where they explain everything."""
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        lines = [f"{self.foreign} against nextify on this image: {_figures(self.total)}"]
        lines += [f"  {c.setting}: {c.ours} here, {c.theirs} there: {_figures(c)}" for c in self.causes]
        if self.unexplained:
            lines.append(f"  not explained by these: max {self.unexplained:.3g}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def _figures(effect: Effect) -> str:
    if effect.max_abs < _SAME:
        return "identical"
    text = f"max {effect.max_abs:.3g}, mean {effect.mean_abs:.3g}"
    if effect.logits_max_abs is not None:
        text += f", logits max {effect.logits_max_abs:.3g}, top-1 {'same' if effect.same_top1 else 'differs'}"
    return text


def report_differences(
    image: Image.Image | Pixels,
    settings: Preprocessing,
    foreign: Foreign,
    *,
    foreign_settings: Preprocessing | None = None,
    on: Literal["pil", "tensor"] = "pil",
    model: nn.Module | None = None,
) -> Differences:
    """Run another library's preprocessing on the same image and say where it differs, and by how much.

    Args:
        image: the image.
        settings: ours.
        foreign: whose code to run; the library must be installed.
        foreign_settings: what the other library is told, such as ``library_settings("torchvision", "convnext_tiny")``;
            without it, the same as ours.
        on: what the other library is given (torchvision: a PIL image or a tensor; transformers always makes a tensor).
        model: shows the effect on its logits too.
    """
    theirs = foreign_settings or settings
    route, notes = _foreign_route(foreign, theirs, on)
    ours = _Route(settings)
    mine, other = settings(image), foreign_preprocess(image, theirs, foreign, on=on)

    def effect(setting: str, here: object, there: object, tensor: Tensor) -> Effect:
        if tensor.shape != mine.shape:
            return Effect(setting, str(here), str(there), float("inf"), float("inf"))
        gap = (tensor - mine).abs()
        logits = same = None
        if model is not None:
            with torch.inference_mode():
                a, b = (model(t[None]) for t in (mine, tensor))
            logits, same = float((a - b).abs().max()), bool((a.argmax() == b.argmax()).item())
        return Effect(setting, str(here), str(there), float(gap.max()), float(gap.mean()), logits, same)

    changes: list[tuple[str, Any, Any]] = [(f.name, settings, route.settings) for f in fields(Preprocessing)]
    changes += [(name, ours, route) for name in ("resize_on", "crop_offset", "opening")]
    causes = []
    for name, one, another in changes:
        here, there = getattr(one, name), getattr(another, name)
        if here != there:
            shown = name if one is settings else name.replace("_", " ")
            found = effect(shown, here, there, replace(one, **{name: there})(image))
            if name != "opening" or found.max_abs >= _SAME:  # most images need no rule for opening them
                causes.append(found)
    explained = route(image)
    left = float((explained - other).abs().max()) if explained.shape == other.shape else float("inf")
    total = effect("all", "nextify", foreign, other)
    return Differences(foreign, total, tuple(causes), 0.0 if left < _SAME else left, notes)


def _foreign_route(foreign: Foreign, settings: Preprocessing, on: str) -> tuple[_Route, tuple[str, ...]]:
    """Our description of what the other library's code does with these settings."""
    converts = _Route(settings, opening="convert('RGB')")
    if foreign == "huggingface":
        notes: tuple[str, ...] = ()
        short = min(settings.size)
        fit: Literal["crop", "squash"] = "crop" if short < 384 else "squash"
        if fit != settings.fit:
            notes = (f"transformers decides by size alone: {fit} at {short} pixels",)
        told = replace(settings, fit=fit, antialias=True, resize_size=int(short / settings.crop_ratio))
        return replace(converts, settings=told, resize_on="uint8 tensor", crop_offset="floor"), notes
    if foreign == "torchvision" and on == "tensor":
        return replace(converts, resize_on="float tensor"), ()
    return replace(converts, settings=replace(settings, antialias=True)), ()


def foreign_preprocess(
    image: Image.Image | Pixels, settings: Preprocessing, foreign: Foreign, *, on: Literal["pil", "tensor"] = "pil"
) -> Tensor:
    """Run the other library's own code on an image, told these settings as well as it can be: ``(C, H, W)``.

    The image is opened as the library's own data sets open files: by ``convert("RGB")``.
    """
    pil = _converted(image, settings.channels)
    if foreign == "timm":
        import timm.data

        transform = timm.data.create_transform(
            input_size=(settings.channels, *settings.size),
            # A hair more than the ratio, so that its floor gives our short side.
            crop_pct=min(settings.size) / (settings.resize_size + 1e-6),
            crop_mode="squash" if settings.fit == "squash" else "center",
            interpolation=settings.interpolation,
            mean=settings.mean,
            std=settings.std,
        )
        return transform(pil)  # type: ignore[no-any-return]
    if foreign == "torchvision":
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as tv
        from torchvision.transforms._presets import ImageClassification

        if settings.fit != "crop" or settings.size[0] != settings.size[1]:
            raise PreprocessingError("torchvision's presets crop a square; they have no squash and no rectangles")
        preset = ImageClassification(
            crop_size=settings.size[0],
            resize_size=settings.resize_size,
            mean=settings.mean,
            std=settings.std,
            interpolation=InterpolationMode(settings.interpolation),
            antialias=settings.antialias,
        )
        return preset(tv.pil_to_tensor(pil) if on == "tensor" else pil)  # type: ignore[no-any-return]
    if foreign == "huggingface":
        transformers = _import_transformers()
        processor = transformers.ConvNextImageProcessor(
            size={"shortest_edge": min(settings.size)},
            crop_pct=settings.crop_ratio,
            resample=_RESAMPLE[settings.interpolation],
            image_mean=list(settings.mean),
            image_std=list(settings.std),
        )
        return processor(pil, return_tensors="pt")["pixel_values"][0]  # type: ignore[no-any-return]
    raise PreprocessingError(f"foreign must be timm, torchvision or huggingface, got {foreign!r}")


def _converted(image: Image.Image | Pixels, channels: int) -> Image.Image:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    return image.convert("L" if channels == 1 else "RGB")


def library_settings(foreign: Foreign, name: str) -> Preprocessing:
    """What a library itself uses for a model of that name (torchvision's default weights, timm's pretrained
    configuration such as ``convnext_tiny.fb_in1k``, transformers' image processor with nothing configured)."""
    if foreign == "torchvision":
        from torchvision.models import get_model_weights

        preset = next(iter(get_model_weights(name))).transforms()
        return Preprocessing(
            size=(preset.crop_size[0], preset.crop_size[0]),
            resize_size=preset.resize_size[0],
            interpolation=preset.interpolation.value,
            antialias=bool(preset.antialias),
            mean=tuple(preset.mean),
            std=tuple(preset.std),
        )
    if foreign == "timm":
        import timm

        config = timm.get_pretrained_cfg(name)
        if config is None:
            raise PreprocessingError(f"timm knows no pretrained configuration of {name!r}")
        return from_timm_config(config.to_dict())
    if foreign == "huggingface":
        processor = _import_transformers().ConvNextImageProcessor()
        config = {k: getattr(processor, k) for k in _HUGGINGFACE_FIELDS}
        return from_huggingface_config({**config, "size": {"shortest_edge": processor.size["shortest_edge"]}})
    raise PreprocessingError(f"foreign must be timm, torchvision or huggingface, got {foreign!r}")


def _import_transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise PreprocessingError("transformers is not installed: pip install 'nextify[huggingface]'") from error
    return transformers


def from_timm_config(config: Config) -> Preprocessing:
    """Settings of a timm ``pretrained_cfg``."""
    size = tuple(config.get("input_size") or (3, 224, 224))[-2:]
    squash = config.get("crop_mode") == "squash"
    return Preprocessing.from_crop_ratio(
        (int(size[0]), int(size[1])),
        float(config.get("crop_pct") or 0.875),
        fit="squash" if squash else "crop",
        interpolation=config.get("interpolation") or "bicubic",
        mean=tuple(config.get("mean") or IMAGENET_MEAN),
        std=tuple(config.get("std") or IMAGENET_STD),
    )


_HUGGINGFACE_FIELDS = ("size", "crop_pct", "resample", "image_mean", "image_std")


def from_huggingface_config(config: Config) -> Preprocessing:
    """Settings of a transformers ``preprocessor_config.json``.

    ConvNeXt's processor takes a shortest edge and crops below 384 pixels. Others take a height and width, to which they
    squash, or a shortest edge and the size of a crop. Raises ``PreprocessingError`` where images keep their size.
    """
    if not config.get("do_resize", True):
        raise PreprocessingError("preprocessor_config.json says do_resize: false, but images of all sizes must become "
                                 "one: set it to true, and size to that of the training")  # fmt: skip
    size = config.get("size", 224)
    by_number, number = {number: name for name, number in _RESAMPLE.items()}, int(config.get("resample", 3))
    # Pixels from 0 to 255 times a factor are normalized; ours are from 0 to 1.
    factor = 255 * float(config.get("rescale_factor") or 1 / 255) if config.get("do_rescale", True) else 255
    normalizes = config.get("do_normalize", True)
    mean = config.get("image_mean") or IMAGENET_MEAN if normalizes else (0, 0, 0)
    std = config.get("image_std") or IMAGENET_STD if normalizes else (1, 1, 1)
    rest: dict[str, Any] = {
        "interpolation": by_number.get(number, number),  # what is none of ours is refused there
        "mean": tuple(mean) if factor == 1 else tuple(value / factor for value in mean),
        "std": tuple(std) if factor == 1 else tuple(value / factor for value in std),
    }
    if isinstance(size, dict) and not size.get("shortest_edge"):
        sides = int(size["height"]), int(size["width"])
        return Preprocessing(sides, min(sides), fit="squash", **rest)
    short = int(size["shortest_edge"] if isinstance(size, dict) else size)
    crop = config.get("crop_size")
    if config.get("do_center_crop") and crop:
        cropped = (int(crop["height"]), int(crop["width"])) if isinstance(crop, dict) else (int(crop), int(crop))
        return Preprocessing(cropped, short, fit="crop", **rest)
    ratio = float(config.get("crop_pct") or 224 / 256) if short < 384 else 1.0
    return Preprocessing.from_crop_ratio(short, ratio, fit="crop" if short < 384 else "squash", **rest)


def to_huggingface_config(settings: Preprocessing) -> dict[str, object]:
    """``preprocessor_config.json`` for these settings, as near as transformers comes."""
    return {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": min(settings.size)},
        "crop_pct": settings.crop_ratio,
        "resample": _RESAMPLE[settings.interpolation],
        "image_mean": list(settings.mean),
        "image_std": list(settings.std),
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
    }
