"""From one library's file to another's."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextify.data.bands import named
from nextify.data.foreign import from_huggingface_config, from_timm_config, to_huggingface_config
from nextify.data.preprocessing import Preprocessing
from nextify.networks.zoo import designs
from nextify.paper.design import Design
from nextify.system.files import write_bytes_atomic, write_json_atomic
from nextify.weights.bundle import JSON_FILE, WEIGHTS_FILE, About, located, save_bundle, with_temperature
from nextify.weights.class_names import CLASSES_FILE, ClassOrder, write_class_file
from nextify.weights.naming import TIMM_CONV_MLP_BELOW, Naming, WeightsError, family, rename
from nextify.weights.sources import SEVERAL_LABELS, assumed_preprocessing, find

_PICKLES = (".pth", ".pt", ".bin")


@dataclass(frozen=True)
class Conversion:
    """What a conversion did."""

    about: About
    source: Naming
    target: Naming
    path: Path
    tensors: int
    notes: tuple[str, ...]


def convert(
    source: str | Path,
    destination: str | Path,
    to: Naming,
    *,
    design: str | None = None,
    class_order: ClassOrder | None = None,
) -> Conversion:
    """Read weights in any naming and write them in another.

    Class names go into the bundle's JSON, or the ``config.json`` of transformers or timm; elsewhere into a
    ``classes.txt`` beside the weights, one per line in the order of the logits.

    Args:
        source: as for ``nextify.weights.load``.
        destination: ``.safetensors``, a ``.pth``, ``.pt`` or ``.bin`` of torch.save (official files then hold
            ``{"model": …}``), or a directory: a bundle for ``nextify``, ``config.json`` and ``model.safetensors`` that
            ``from_pretrained`` reads for ``huggingface``, the same for timm, ``model.safetensors`` for the others.
        to: whose naming. ``nextify`` writes a bundle.
        design: needed only for bare nextify weights whose design cannot be told.
        class_order: as for ``nextify.weights.load``.

    Raises:
        WeightsError: the source cannot be read, the target library has no such model, another ``classes.txt`` is in
            the way, or the file to write is the source's own or part of a bundle.
    """
    _check_loses_nothing(source, Path(destination), to)
    found = find(source, design, class_order)
    about, path = found.bundle.about, Path(destination)
    notes = found.notes
    if about.num_classes and not about.classes:
        notes += ("the weights do not name their classes: write their order down, or give it with --class-order FILE",)
    if to != "nextify" and about.preprocessing.bands is not None:
        notes += (f"the weights take bands {named(about.preprocessing.bands)} of an image, which {to} cannot record",)
    single = path.suffix in (*_PICKLES, ".safetensors")
    if to != "nextify" and about.thresholds:
        lost = "a threshold" if to == "huggingface" and not single else "a sigmoid and a threshold"
        notes += (f"the weights give several labels, each by {lost}, which {to} cannot record",)
    if to == "nextify":
        if path.suffix in _PICKLES:
            raise WeightsError(f"nextify does not write pickles: end {path} in .safetensors, or give a directory")
        save_bundle(path, found.bundle.state, about)
        return Conversion(about, found.naming, to, path, len(found.bundle.state), notes)
    about.check_single(f"a file for {to}")
    if about.temperature != 1:
        notes += (f"the last layer is divided by the temperature {about.temperature:.4g}, for calibrated confidences",)
    if about.recipe is not None and about.recipe.test_mirror == "on":
        notes += (
            f"the logits are the mean of an image's and its mirror image's (test_mirror), which {to} cannot record",
        )
    state = rename(with_temperature(found.bundle), about.design, to)
    if single or to in ("official", "torchvision"):
        names = (path.parent if single else path) / CLASSES_FILE
        write_class_file(names, about.classes)
        notes += (f"the class names are in {names}",) if about.classes else ()
        if about.preprocessing != assumed_preprocessing(to, about.name, about.num_classes):
            height, width = about.preprocessing.size
            notes += (
                f"the file cannot record how images are prepared, such as {width}×{height} pixels, so that others will "
                f"assume something else: a directory for timm or huggingface, or a bundle, records it",
            )
    if about.licence not in ("yours", "unknown") and (single or to != "timm"):
        notes += (f"the licence ({about.licence}) is not recorded: a directory for timm, or a bundle, would do it",)
    if path.suffix in _PICKLES:
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {name: tensor.contiguous().clone() for name, tensor in state.items()}
        buffer = io.BytesIO()
        torch.save({"model": plain} if to == "official" else plain, buffer)
        write_bytes_atomic(path, buffer.getvalue())
    elif path.suffix == ".safetensors":
        _write_safetensors(path, state)
    else:
        if path.is_file():
            raise WeightsError(f"{path} is not a supported kind of file; use .safetensors, .pth or a directory")
        _write_safetensors(path / WEIGHTS_FILE, state)
        if to == "huggingface":
            write_json_atomic(path / "config.json", huggingface_config(about))
            prepared = to_huggingface_config(about.preprocessing)
            write_json_atomic(path / "preprocessor_config.json", prepared)
            notes += _lost(about.preprocessing, prepared, from_huggingface_config, "transformers")
        elif to == "timm":
            config = timm_config(about)
            write_json_atomic(path / "config.json", config)
            notes += _lost(about.preprocessing, config["pretrained_cfg"], from_timm_config, "timm")
            if "architecture" not in config:
                notes += ("timm has no name for this network, so that it cannot be created from the directory alone",)
    return Conversion(about, found.naming, to, path, len(state), notes)


def _lost(given: Preprocessing, written: Any, read: Callable[[Any], Preprocessing], library: str) -> tuple[str, ...]:
    """A note on the settings that a library's file, as it is ``written`` and ``read``, has no words for."""
    if isinstance(given.bands, int):  # which others have no words for at all, as is noted
        return ()
    recorded = read(written)
    lost = [
        f"{field.name} {getattr(given, field.name)} becomes {getattr(recorded, field.name)}"
        for field in fields(Preprocessing)
        if field.name != "bands" and getattr(given, field.name) != getattr(recorded, field.name)
    ]
    return (
        (f"{library} will prepare images differently, as its file cannot record it: {', '.join(lost)}",) if lost else ()
    )


def _check_loses_nothing(source: str | Path, path: Path, to: Naming) -> None:
    """Raise ``WeightsError`` where what is written to ``path`` would replace its source, or part of a bundle."""
    single = path.suffix in (*_PICKLES, ".safetensors")
    if to == "nextify" and not single:
        return  # ``save_bundle`` replaces whole bundles only
    original, written = located(source), path if single else path / WEIGHTS_FILE
    own = written.resolve()
    if original.exists() and original.resolve() in (own, path.resolve()):
        raise WeightsError(f"{path} holds the weights to convert, which would be lost: choose another name")
    if own.name == WEIGHTS_FILE and (own.parent / JSON_FILE).is_file():
        raise WeightsError(f"{written} belongs to a bundle, which would be lost: choose another name")


def _write_safetensors(path: Path, state: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(path, save({n: t.contiguous() for n, t in state.items()}, {"format": "pt"}))


def timm_config(about: About) -> dict[str, object]:
    """``config.json`` as ``timm.models.push_to_hf_hub`` writes it, for ``timm.create_model("local-dir:…")``."""
    given, size = about.preprocessing, about.preprocessing.size
    config: dict[str, Any] = {
        "num_classes": about.num_classes,
        "pretrained_cfg": {
            "input_size": [about.in_channels, *size],
            "num_classes": about.num_classes,
            "crop_pct": given.crop_ratio,
            "crop_mode": "squash" if given.fit == "squash" else "center",
            "interpolation": given.interpolation,
            "mean": list(given.mean),
            "std": list(given.std),
            "license": about.licence,
        },
    }
    named, scale = designs().get(about.name), about.design.layer_scale
    if named is not None and named.layer_scale != "off" and scale != "off":
        named = named.with_(layer_scale=scale)  # where there is one, its values are the weights'
    if named == about.design:
        config["architecture"] = about.name
    elif arguments := _timm_arguments(about.design):
        config |= {"architecture": "convnext_tiny", "model_args": arguments}
    if about.classes:
        config["label_names"] = list(about.classes)
    return config


def _timm_arguments(design: Design) -> dict[str, object]:
    """The arguments of timm's ``convnext_tiny`` that make a design; empty where none do."""
    if family(design) not in ("convnext", "convnextv2") or design.stem != "patchify4":
        return {}
    return {
        "depths": list(design.depths),
        "dims": list(design.widths),
        "kernel_sizes": design.kernel_size,
        "use_grn": design.response_norm == "global",
        "ls_init_value": None if design.layer_scale == "off" else 1e-6,
        "conv_mlp": design.widths[0] < TIMM_CONV_MLP_BELOW,
    }


def huggingface_config(about: About) -> dict[str, object]:
    """``config.json`` of transformers for a design of the ConvNeXt or ResNet family.

    The final norm's epsilon is written as 1e-6, with which the weights were trained; transformers' default is 1e-12.
    """
    design, kind = about.design, family(about.design)
    names = about.classes or tuple(f"LABEL_{i}" for i in range(about.num_classes))
    common: dict[str, Any] = {
        "num_channels": about.in_channels,
        "depths": list(design.depths),
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
    if about.thresholds:
        common["problem_type"] = SEVERAL_LABELS  # else, its pipeline takes the softmax
    if kind == "resnet":
        return {
            "architectures": ["ResNetForImageClassification"],
            "model_type": "resnet",
            "embedding_size": design.widths[0],
            "hidden_sizes": [4 * width for width in design.widths],
            "layer_type": "bottleneck",
            "hidden_act": "relu",
            "downsample_in_first_stage": False,
            "downsample_in_bottleneck": False,
            **common,
        }
    v2 = "V2" if kind == "convnextv2" else ""
    return {
        "architectures": [f"ConvNext{v2}ForImageClassification"],
        "model_type": f"convnext{v2.lower()}",
        "hidden_sizes": list(design.widths),
        "num_stages": len(design.depths),
        "patch_size": int(design.stem.removeprefix("patchify")),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "layer_scale_init_value": 0.0 if design.layer_scale == "off" else design.layer_scale,
        "image_size": about.preprocessing.size[0],
        **common,
    }
