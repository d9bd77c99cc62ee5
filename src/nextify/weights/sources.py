"""Weights from anywhere, in our names: a bundle, a foreign file, timm, the Hub."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nextify.data.foreign import from_huggingface_config, from_timm_config, library_settings
from nextify.data.preprocessing import Preprocessing
from nextify.networks.layers import LAYER_NORM_EPS
from nextify.networks.zoo import designs, find_design
from nextify.paper.design import Design
from nextify.system.text import some
from nextify.weights.bundle import About, Bundle, is_bundle, load_bundle
from nextify.weights.class_names import ClassOrder, class_names, given_names, names_beside
from nextify.weights.design_detection import Misfit, channel_count, class_count, infer_design, mismatches
from nextify.weights.dialects import licence, licence_terms
from nextify.weights.hub import pull
from nextify.weights.naming import Naming, Recognized, State, WeightsError, recognize
from nextify.weights.reading import read_json, read_weights

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
IN_TIMM = r"convnext(v2)?_(atto|femto|pico|nano|tiny|small|base|large|xlarge|huge)"
"""Our designs of which timm has trained weights."""
SEVERAL_LABELS = "multi_label_classification"
"""What transformers calls it as a ``problem_type``."""
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Source:
    """Weights as they were found, in our names, with everything that is known about them."""

    bundle: Bundle
    naming: Naming
    notes: tuple[str, ...]
    output_norms: State = field(default_factory=dict)
    """Norms of a backbone's outputs, by the names that ``Backbone`` gives them."""


def find(source: str | Path, design: str | Design | None = None, class_order: ClassOrder | None = None) -> Source:
    """Read weights from anywhere, translated into our names and checked against the design.

    Class names are ``class_order``'s, or else the weights' own, or else those of a ``classes.txt`` beside them. Raises
    ``WeightsError`` as ``load``."""
    check_place(source)
    names = given_names(class_order)
    found = _find(source, design, own_names=names is None)
    _check_tensors(found.bundle.state, source)
    about = found.bundle.about
    if names is not None and len(names) != about.num_classes:
        raise WeightsError(f"--class-order names {len(names)} classes, but {source} has {about.num_classes}")
    notes = found.notes
    if names is None and about.classes:
        return found
    if names is None:
        names, of_names = names_beside(Path(source), about.num_classes)
        notes += of_names
    elif about.classes and about.classes != names:
        notes += ("the given class names replace those of the weights",)
    return replace(found, notes=notes, bundle=replace(found.bundle, about=replace(about, classes=names)))


def check_place(source: object) -> None:
    """Raise ``TypeError`` for weights that are no path or name, such as a network."""
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise TypeError(
            f"weights must be a path or a name, got {kind}: save a network with nextify.weights.save_bundle, or its "
            f"state_dict() with torch.save"
        )


def _check_tensors(state: State, source: str | Path) -> None:
    """Refuse tensors that no network can compute with."""
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise WeightsError(f"{source}: {name} is of {kind}, not floating point; give the weights unquantized")
        if tensor.sum(dtype=torch.float32).isfinite():  # one pass; a sum that overflows is looked at again
            continue
        if bad := int((~tensor.float().isfinite()).sum()):
            raise WeightsError(
                f"{source}: {bad:,} of {tensor.numel():,} weights of {name} are NaN or infinite, as after a training "
                f"that overflowed; use an earlier checkpoint"
            )


def _find(source: str | Path, design: str | Design | None, *, own_names: bool) -> Source:
    text = str(source)
    if text.startswith("timm:"):
        return _checked(_from_timm(text.removeprefix("timm:")), design)
    path = Path(text.removeprefix("hf:"))
    if text.startswith("hf:") or (not path.exists() and not path.suffix and _HUB_ID.fullmatch(text)):
        try:
            folder = pull(text.removeprefix("hf:"))
        except WeightsError as error:
            if text.startswith("hf:"):
                raise
            raise WeightsError(f"there is no path {text}, and reading it as a Hub id failed: {error}") from error
        found = find(folder, design) if own_names else _find(folder, design, own_names=False)
        about = replace(found.bundle.about, source=f"hf:{text.removeprefix('hf:')}")
        return replace(found, bundle=replace(found.bundle, about=about))
    if is_bundle(path):
        return _checked(Source(load_bundle(path), "nextify", ()), design)
    if path.is_dir():
        return _from_directory(path, design, own_names=own_names)
    if path.name in _WEIGHT_FILES and path.is_file() and (path.parent / "config.json").is_file():
        return _from_directory(path.parent, design, own_names=own_names, weights=path)
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}; a Hub id is written hf:owner/name, a timm model timm:name")
    file = read_weights(path)
    beside = {**file.metadata, **file.beside} if own_names else {}
    options = _saved_options(file.beside)
    pooling = {"global_pool": options["gp"]} if options.get("gp") else {}
    _refuse_timm_model(options.get("model"), options.get("model_kwargs"), path, **pooling)
    settings, of_args = saved_preprocessing(file.beside)
    return _from_foreign(file.state, design, str(path), file.notes + of_args, settings, beside=beside)


def _checked(source: Source, design: str | Design | None) -> Source:
    if design is not None:
        _require(source.bundle.about.design, design, source.bundle.about.source)
    return source


def _require(found: Design, wanted: str | Design, where: str) -> None:
    if differences := _differences(found, find_design(wanted)):
        name = f"{wanted}" if isinstance(wanted, str) else "the design asked for"
        listed = ", ".join(f"{field} {have} instead of {want}" for field, (have, want) in differences.items())
        raise WeightsError(f"{where} holds {name_of(found) or 'another design'}, not {name}: {listed}")


@lru_cache(maxsize=128)
def name_of(design: Design) -> str:
    """The first name of a design in the zoo, whatever its layer scale starts at; empty without one."""
    return next((name for name, known in designs().items() if not _differences(design, known)), "")


def _differences(design: Design, other: Design) -> dict[str, tuple[object, object]]:
    """Those that weights show: whether there is a layer scale, not its initial value."""
    differences = design.differences(other)
    if "off" not in differences.get("layer_scale", ("off",)):
        del differences["layer_scale"]
    return differences


def _from_foreign(
    state: State,
    design: str | Design | None,
    where: str,
    notes: tuple[str, ...] = (),
    preprocessing: Preprocessing | None = None,
    *,
    beside: Mapping[str, object],
    several: bool = False,
    **known: Any,
) -> Source:
    """``several``: whether the network gives several labels per image."""
    recognized = recognize(state)
    notes += recognized.notes
    if known.get("licence", "unknown") == "unknown":
        known["licence"] = licence(state, where)
    if terms := licence_terms(known["licence"]):
        notes += (f"licence {known['licence']}: {terms[0].lower()}{terms[1:]}",)
    if design is not None and recognized.naming == "nextify":
        found = find_design(design)
    else:
        found = infer_design(recognized)
        if design is not None:
            _require(found, design, where)
    require_fit(recognized, found, where)
    name = name_of(found)
    classes = class_count(recognized.state)
    names, of_names = class_names(beside, classes, Path(where) if Path(where).is_dir() else Path(where).parent)
    notes += of_names
    if preprocessing is None:
        preprocessing = assumed_preprocessing(recognized.naming, name, classes)
        notes += (
            f"{where} does not say how to prepare images: assumed a short side of {preprocessing.resize_size}, "
            f"a crop of {preprocessing.size[0]}, {preprocessing.interpolation}",
        )
    if several := several and classes > 0:
        notes += (
            f"{where} gives several labels per image: each from a probability of 0.5, as no thresholds are known",
        )
    about = About(
        design=found,
        num_classes=classes,
        in_channels=channel_count(recognized.state),
        thresholds=(0.5,) * classes if several else (),
        name=name,
        classes=names,
        preprocessing=preprocessing,
        source=f"{where} ({recognized.naming})",
        **known,
    )
    bundle = Bundle(about, _complete(recognized.state))
    return Source(bundle, recognized.naming, notes, recognized.output_norms)


def _complete(state: State) -> State:
    """Batch norms' counters, which old files lack, as zeros."""
    counters = {
        name.replace("running_mean", "num_batches_tracked"): torch.zeros((), dtype=torch.long)
        for name in state
        if name.endswith("running_mean")
    }
    return {**counters, **state}


def require_fit(recognized: Recognized, design: Design, where: str) -> None:
    """One error with the file's own names beside ours."""

    def theirs(entry: str) -> str:
        name, space, rest = entry.partition(" is ")
        foreign = recognized.table.to_theirs(name)[0]
        return entry if foreign in (None, name) else f"{foreign} ({name}){space}{rest}"

    misfit = mismatches(recognized.state, design)
    missing, unexpected, misshapen = ([theirs(entry) for entry in entries] for entries in misfit)
    name = name_of(design) or "the design detected"
    misfit = Misfit(missing, [*recognized.unexpected, *unexpected], misshapen)
    misfit.refuse(f"{where} ({recognized.naming}'s names, {name})")


def assumed_preprocessing(naming: Naming, name: str, classes: int) -> Preprocessing:
    """What released weights of this naming are evaluated with; used only where a file is silent."""
    if naming == "torchvision" and classes == 1000:
        with suppress(ValueError):
            return library_settings("torchvision", name)
    return Preprocessing()


def saved_preprocessing(beside: Mapping[str, object]) -> tuple[Preprocessing | None, tuple[str, ...]]:
    """The preprocessing in the options that timm's ``train.py`` saves under ``args``, and a note; or none."""
    options = _saved_options(beside)
    wanted = ("img_size", "input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")
    given = {key: options[key] for key in wanted if options.get(key) not in (None, "", "random")}
    size = given.get("input_size") or given.get("img_size")
    if not given.keys() & {"img_size", "input_size", "mean", "std", "crop_pct"}:
        return None, ()
    try:
        sides = (int(size), int(size)) if isinstance(size, int | float) else size
        settings = from_timm_config({**given, "input_size": sides})
    except (TypeError, ValueError) as error:
        return None, (f"ignored {', '.join(given)} in the saved args: {error}",)
    listed = ", ".join(f"{key}={value}" for key, value in given.items())
    return settings, (f"images are prepared as the saved args say ({listed}); the rest is timm's default",)


def _saved_options(beside: Mapping[str, object]) -> Mapping[str, Any]:
    """The options of a training, as a checkpoint has them under ``args``."""
    args = beside.get("args")
    return args if isinstance(args, Mapping) else getattr(args, "__dict__", {})


def _from_directory(path: Path, design: str | Design | None, *, own_names: bool, weights: Path | None = None) -> Source:
    """A directory as timm or transformers save it: ``config.json`` beside the ``weights``, or those that it has."""
    weights = weights or next((path / name for name in _WEIGHT_FILES if (path / name).is_file()), None)
    if weights is None:
        below = sorted({found.parent for name in ("nextify.json", *_WEIGHT_FILES) for found in path.glob(f"*/{name}")})
        remedy = f"; give {some([str(folder) for folder in below])}" if below else ""
        raise WeightsError(f"{path} holds no weights: neither nextify.json nor {' nor '.join(_WEIGHT_FILES)}{remedy}")
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    known: dict[str, Any] = {"licence": _card_licence(path)}
    preprocessing = None
    if (path / "preprocessor_config.json").is_file():
        preprocessing = from_huggingface_config(read_json(path / "preprocessor_config.json"))
    elif isinstance(config.get("pretrained_cfg"), dict):
        preprocessing = from_timm_config(config["pretrained_cfg"])
        known["licence"] = config["pretrained_cfg"].get("license") or known["licence"]
    _refuse_config(config, path)
    _refuse_timm_model(config.get("architecture"), config.get("model_args"), path)
    file = read_weights(weights)
    beside = {**config, **file.metadata, "checkpoint": file.beside} if own_names else {}
    several = config.get("problem_type") == SEVERAL_LABELS
    return _from_foreign(
        file.state, design, str(path), file.notes, preprocessing, beside=beside, several=several, **known
    )


def _refuse_config(config: Mapping[str, object], path: Path) -> None:
    """What a config says that the tensors cannot show, and we do not build."""
    if config.get("downsample_in_bottleneck"):
        raise WeightsError(
            f"{path} strides in the first 1x1 layer (downsample_in_bottleneck); nextify's ResNet strides in the 3x3 one"
        )
    if config.get("downsample_in_first_stage"):
        raise WeightsError(f"{path} strides in the first stage (downsample_in_first_stage); nextify's ResNet does not")
    if isinstance(epsilon := config.get("layer_norm_eps"), float) and epsilon > 1e-5:  # 1e-12, the default, is as 1e-6
        raise WeightsError(f"{path} has a layer norm of epsilon {epsilon:g}, nextify's {LAYER_NORM_EPS:g}")
    usual = "relu" if config.get("model_type") == "resnet" else "gelu"
    if config.get("hidden_act", usual) != usual:
        raise WeightsError(f"{path} has {config['hidden_act']} activations; nextify's models of its kind have {usual}")


def _refuse_timm_model(name: object, options: object, path: Path, **further: object) -> None:
    """As ``_refuse_config``, of what timm would build, if it knows the name: that is built, without weights."""
    if not isinstance(name, str):
        return
    import timm

    if not timm.is_model(name):
        return
    try:
        with torch.device("meta"):
            model = timm.create_model(name, **{**(options if isinstance(options, Mapping) else {}), **further})
    except Exception:  # by another version of timm; the tensors must tell
        return
    _refuse_model(model, f"{path} holds a {name} that")


def _refuse_model(model: nn.Module, what: str) -> None:
    """Raise ``WeightsError`` for a model of timm's that has the tensors of ours and computes something else; ``what``
    begins the sentence."""
    usual = {"ConvNeXt": "GELU", "ResNet": "ReLU"}.get(type(model).__name__)
    for module in model.modules():
        kind = type(module).__name__
        if kind == "GELUTanh":
            raise WeightsError(f"{what} has GELU's tanh approximation; nextify's GELU is the exact one")
        if usual and "activation" in type(module).__module__ and kind != usual:
            raise WeightsError(f"{what} has {kind} activations; nextify's models of its kind have {usual}")
        if isinstance(module, nn.LayerNorm) and abs(module.eps - LAYER_NORM_EPS) > 1e-9:
            raise WeightsError(f"{what} has layer norms of epsilon {module.eps}, nextify's {LAYER_NORM_EPS}")
        if isinstance(module, nn.Conv2d) and module.dilation != (1, 1):
            raise WeightsError(f"{what} has dilated convolutions (output_stride); nextify's models have none")
        if "max" in str(getattr(module, "pool_type", "")):
            raise WeightsError(f"{what} pools by {module.pool_type}; nextify's models average")


def _card_licence(path: Path) -> str:
    """The licence of a model card's front matter."""
    card = path / "README.md"
    if card.is_file() and (found := re.search(r"^license:\s*(\S+)", card.read_text(encoding="utf-8"), re.MULTILINE)):
        return found[1].strip("\"'")
    return "unknown"


def _from_timm(name: str) -> Source:
    """timm's own pretrained weights, downloaded and checked by timm."""
    import timm

    model = timm.create_model(name, pretrained=True)
    config = dict(model.pretrained_cfg)
    _refuse_model(model, f"timm's {name}")
    return _from_foreign(
        model.state_dict(),
        None,
        f"timm:{name}",
        (),
        from_timm_config(config),
        beside={"label_names": config.get("label_names")},
        licence=config.get("license") or "unknown",
    )
