"""The bundle: what is saved and shipped. Safetensors weights and one JSON; no pickle.

Two forms with the same content: a directory of ``model.safetensors`` and ``nextify.json``, or one ``.safetensors`` file
with the JSON in its metadata under ``nextify``. The JSON's fields are those of ``About`` (schema 1). Both are written
whole or not at all; a directory's JSON names the checksum of its weights, so that the two always belong together.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from nextify.data.bands import Bands
from nextify.data.dense.annotations import IGNORED, DenseTask, Id
from nextify.data.preprocessing import OFFICIAL, Preprocessing
from nextify.networks.dense.design import DenseDesign
from nextify.networks.dense.network import DenseNetwork
from nextify.paper.design import Design
from nextify.paper.recipe import Recipe
from nextify.system.files import JSON_FILE as JSON_FILE
from nextify.system.files import followed, fresh_folder, occupied, write_bytes_atomic, write_json_atomic
from nextify.system.text import plural, printable, shortened
from nextify.weights.design_detection import Misfit, differences, mismatches, shapes
from nextify.weights.dialects import licence_terms
from nextify.weights.naming import State, WeightsError
from nextify.weights.reading import ExportError, parse_json, read_json, read_weights

SCHEMA = 1
WEIGHTS_FILE = "model.safetensors"
_METADATA_KEY = "nextify"
MULTILABEL = "multilabel"


@dataclass(frozen=True)
class Metric:
    """One measured figure, and where it comes from."""

    name: str
    """Such as ``top1``, in percent."""
    value: float
    dataset: str
    images: int = 0
    """Images it was measured on; 0 where not stated."""
    provenance: str = ""
    """Who measured it, and how: a command, a paper."""


@dataclass(frozen=True)
class About:
    """Everything a bundle says about its weights."""

    design: Design
    num_classes: int
    in_channels: int = 3
    name: str = ""
    """Of the design, where it has one."""
    classes: tuple[str, ...] = ()
    """Names in the order of the logits; empty where they are unknown."""
    preprocessing: Preprocessing = OFFICIAL
    recipe: Recipe | None = None
    """What they were trained with; None where that is unknown."""
    metrics: tuple[Metric, ...] = ()
    temperature: float = 1.0
    """What logits are divided by before they become probabilities; fitted on images that were not trained on."""
    thresholds: tuple[float, ...] = ()
    """Of a network for several labels per image: the probability from which each label is given. Empty for one class
    per image."""
    licence: str = "unknown"
    """SPDX identifier; ``yours`` of one's own training, ``unknown`` where a file does not tell it."""
    source: str = ""
    """Where the weights come from: a training, a file, a Hub id."""
    members: int = 1
    """Networks whose logits are averaged; of several each has its tensors below ``members.0``, ``members.1``, …"""
    nextify: str = ""
    """Version that wrote the bundle."""

    def __post_init__(self) -> None:
        given: object = self.classes
        if isinstance(given, str):
            raise WeightsError(f"classes must be a tuple of names, got the string {given!r}; give (name, …)")
        if unfit := [name for name in self.classes if not isinstance(name, str)]:
            raise WeightsError(f"classes must be names (text), got {shortened(unfit[0])}")
        if self.classes and len(self.classes) != self.num_classes:
            raise WeightsError(f"{len(self.classes)} class names for {self.num_classes} classes; give one name each")
        if self.thresholds and len(self.thresholds) != self.num_classes:
            raise WeightsError(f"{len(self.thresholds)} thresholds for {self.num_classes} classes; give one each")
        if odd := [t for t in self.thresholds if type(t) not in (int, float) or not 0 <= t <= 1]:
            raise WeightsError(f"thresholds must be probabilities from 0 to 1, got {shortened(odd[0])}")

    def check_single(self, what: str) -> None:
        """Raise ``WeightsError`` for an ensemble, which ``what`` does not take."""
        if self.members > 1:
            raise WeightsError(
                f"{what} takes one network, but this ensemble holds {self.members}: give the bundle of one of them"
            )

    def check_classifier(self, source: str | Path) -> None:
        """Raise ``WeightsError`` for the weights of ``source`` without a classifier, as pre-training leaves them."""
        if not self.num_classes:
            raise WeightsError(
                f"{source} has no classifier: choose weights that have one, or train one with nextify train --weights"
            )

    def check_one_class(self, what: str) -> None:
        """Raise ``WeightsError`` for a network that gives several labels per image, which ``what`` does not take."""
        if self.thresholds:
            raise WeightsError(
                f"{what} supports only one class per image, but {self.name or 'this network'} gives several labels "
                f"(multi-label): choose other weights"
            )


def chosen_licence(inherited: str, chosen: str | None) -> str:
    """The licence of a training's result: the one chosen, else that of the weights it started from. Raises
    ``WeightsError`` where the weights' licence passes on to everything made from them."""
    if chosen is not None and chosen != inherited and (terms := licence_terms(inherited)):
        raise WeightsError(f"{terms}: leave --licence out, or start from other weights")
    return chosen or inherited


@dataclass(frozen=True)
class Bundle:
    about: About
    state: State


@dataclass(frozen=True)
class DenseAbout:
    """What a bundle says about the weights of a detector or segmenter."""

    design: DenseDesign
    classes: tuple[str, ...]
    """Names in the order of the labels."""
    canvas: tuple[int, int]
    """Height and width of the network's input; an image is fitted to it (``data/dense/placement.py``)."""
    mean: tuple[float, ...]
    """Of pixels from 0 to 1."""
    std: tuple[float, ...]
    name: str = ""
    """Of the backbone's design, where it has one."""
    recipe: Recipe | None = None
    metrics: tuple[Metric, ...] = ()
    licence: str = "unknown"
    source: str = ""
    category_ids: tuple[Id, ...] = ()
    """Of a detector trained on COCO's annotations: the id of each class there. Empty otherwise."""
    ignore_index: int | None = None
    """Of a segmenter trained on index masks: the index that was ignored beside 255; None for none."""
    nextify: str = ""

    @property
    def task(self) -> DenseTask:
        return self.design.task

    @property
    def num_classes(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class DenseBundle:
    about: DenseAbout
    state: State

    def network(self) -> DenseNetwork:
        """The network with the weights, in evaluation mode."""
        about = self.about
        network = DenseNetwork(about.design, about.num_classes, about.canvas)
        network.load_state_dict(self.state)
        return network.eval()


AnyAbout = TypeVar("AnyAbout", About, DenseAbout)


def to_json(about: About | DenseAbout) -> dict[str, object]:
    """The JSON object of a bundle; see ``docs/weights.md``."""
    recipe = None if about.recipe is None else about.recipe.to_dict()
    if isinstance(about, DenseAbout):
        stated = {"schema": SCHEMA, "task": about.task, **asdict(about)}
        return {**stated, "design": about.design.to_dict(), "recipe": recipe}
    stated = {"schema": SCHEMA, **asdict(about), "preprocessing": about.preprocessing.to_dict(), "recipe": recipe}
    if about.members == 1:
        del stated["members"]
    if about.thresholds:  # named as a task, so that versions that do not know it refuse it
        return {**stated, "task": MULTILABEL}
    del stated["thresholds"]
    return stated


def signed_json(about: About | DenseAbout) -> dict[str, object]:
    """``to_json`` with this version of nextify and a checksum of what must not be edited."""
    import nextify

    content = to_json(replace(about, nextify=nextify.__version__))
    return content | {"about_sha256": _checksum(content)}


def from_json(content: Mapping[str, Any], path: str | Path) -> About:
    """The inverse of ``to_json`` for a classifier. Raises ``WeightsError`` for JSON that a newer nextify wrote, that is
    no bundle's, or that is a detector's or segmenter's."""
    _check_json(content, path)
    if _is_dense(content):
        raise WeightsError(
            f"{path} holds a network for {printable(str(content['task']))}, but a classifier is needed: give the "
            f"bundle of a classifier (docs/dense.md#not-supported-yet)"
        )
    try:
        values = _values(About, content, ("design", "num_classes", "preprocessing"))
        if bool(values.get("thresholds")) is not ("task" in content):
            raise WeightsError("a network for several labels has a task and thresholds, and others have neither")
        values["design"] = Design.from_dict(values["design"])
        values["preprocessing"] = _fill(Preprocessing, values["preprocessing"])
        about: About = _fill(About, values)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise WeightsError(f"{path} is damaged or was edited: {error}") from error
    return about


def _check_json(content: Mapping[str, object], path: str | Path) -> None:
    """Raise ``WeightsError`` for what is no bundle's JSON, is newer than this nextify, or was edited."""
    schema = content.get("schema")
    if type(schema) is not int or schema < 1:
        raise WeightsError(f"{path} is not a nextify bundle: it has no schema (a whole number from 1)")
    if schema > SCHEMA:
        raise WeightsError(f"{path} has schema {schema}; this nextify reads up to {SCHEMA}: pip install -U nextify")
    try:
        found = _checksum(content)
    except RecursionError:
        raise WeightsError(f"{path} is damaged: its lists or objects are nested too deeply") from None
    if content.get("about_sha256", found) != found:
        raise WeightsError(
            f"{path} is damaged or was edited: its design, classes or preprocessing have changed since it was "
            f"written; copy it again, or load the weights alone and save them as a new bundle"
        )


def dense_from_json(content: Mapping[str, Any], path: str | Path) -> DenseAbout:
    """The inverse of ``to_json`` for a detector or segmenter. Raises ``WeightsError`` as ``from_json``."""
    _check_json(content, path)
    if not _is_dense(content):
        raise WeightsError(f"{path} holds a classifier, but a detector or segmenter is needed: give the bundle of one")
    try:
        values = _values(DenseAbout, content, ("design", "classes", "canvas", "mean", "std"))
        values["design"] = DenseDesign.from_dict(values["design"])
        if (ids := values.get("category_ids")) and len(ids) != len(values["classes"]):
            raise WeightsError(f"category_ids must be one number or text for each class, got {shortened(ids)}")
        about: DenseAbout = _fill(DenseAbout, values)
        if about.task != content["task"]:
            raise WeightsError(f"a {about.design.head} head is for {about.task}, not {shortened(content['task'])}")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise WeightsError(f"{path} is damaged or was edited: {error}") from error
    return about


def _are(values: Any, *kinds: type) -> bool:
    return isinstance(values, list) and all(type(value) in kinds for value in values)


_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("num_classes", "in_channels"), ("a whole number from 0", lambda v: type(v) is int and v >= 0)),
    "members": ("a whole number from 1", lambda v: type(v) is int and v >= 1),
    "temperature": ("a number above 0", lambda v: type(v) in (int, float) and 0 < v < math.inf),
    **dict.fromkeys(("name", "licence", "source", "nextify"), ("text", lambda v: isinstance(v, str))),
    "classes": ("names (text)", lambda v: _are(v, str)),
    **dict.fromkeys(("metrics", "thresholds"), ("a list", lambda v: isinstance(v, list))),
    **dict.fromkeys(("design", "preprocessing"), ("an object", lambda v: isinstance(v, dict))),
    "canvas": ("two whole numbers from 1", lambda v: _are(v, int) and len(v) == 2 and min(v) >= 1),
    "mean": ("three numbers", lambda v: _are(v, int, float) and len(v) == 3),
    "std": ("three numbers above 0", lambda v: _are(v, int, float) and len(v) == 3 and min(v) > 0),
    "category_ids": ("numbers or texts", lambda v: _are(v, int, float, str)),
    "ignore_index": (
        f"a whole number from 0 to {IGNORED}",
        lambda v: v is None or (_are([v], int) and 0 <= v <= IGNORED),
    ),
}
"""What the fields of a bundle's JSON must be."""


def _values(kind: type[Any], content: Mapping[str, Any], needed: Sequence[str]) -> dict[str, Any]:
    """The fields of ``kind`` in a bundle's JSON. Raises ``WeightsError`` for one that is missing or odd."""
    if lacking := [name for name in needed if name not in content]:
        raise WeightsError(f"it has no {lacking[0]}")
    values = {field.name: content[field.name] for field in fields(kind) if field.name in content}
    for name, (what, fits) in _FIELDS.items():
        if name in values and not fits(values[name]):
            raise WeightsError(f"{name} must be {what}, got {shortened(values[name])}")
    if values.get("recipe") is not None:
        values["recipe"] = Recipe.from_dict(values["recipe"])
    values["metrics"] = tuple(_fill(Metric, metric) for metric in values.get("metrics", ()))
    for metric in values["metrics"]:
        kinds = ((metric.name, str), (metric.value, int | float), (metric.dataset, str), (metric.provenance, str))
        if not all(isinstance(value, kind) for value, kind in kinds) or type(metric.images) is not int:
            raise WeightsError(f"metrics must each have a name, numbers and text, got {shortened(metric)}")
    return values


def any_from_json(content: Mapping[str, object], path: str | Path) -> About | DenseAbout:
    """What a bundle's JSON says, of whichever task. Raises ``WeightsError`` as ``from_json``."""
    return dense_from_json(content, path) if _is_dense(content) else from_json(content, path)


def _is_dense(content: Mapping[str, object]) -> bool:
    """Whether a bundle's JSON is that of a detector or segmenter."""
    return content.get("task", MULTILABEL) != MULTILABEL


def _checksum(content: Mapping[str, object]) -> str:
    """Of everything that decides what the weights compute and what their outputs mean."""
    if _is_dense(content):
        names = ["task", "design", "classes", "canvas", "mean", "std"]
        names += [name for name in ("category_ids", "ignore_index") if content.get(name) not in (None, [], ())]
    else:
        names = ["design", "num_classes", "in_channels", "classes", "preprocessing"]
        names += ["task", "thresholds"] if "task" in content else []
        # At 1 they are left out, as bundles without them know them.
        names += [name for name in ("temperature", "members") if content.get(name, 1) != 1]
    deciding = {name: content.get(name) for name in names}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def _fill(kind: type[Any], values: Mapping[str, object]) -> Any:
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def save_bundle(path: str | Path, state: Mapping[str, Tensor], about: About | DenseAbout) -> Path:
    """Write a bundle: one file where ``path`` ends in ``.safetensors``, else a directory.

    Args:
        path: where to; a directory that exists is replaced if it is a bundle, and refused otherwise.
        state: tensors in our names, such as ``model.state_dict()``.
        about: what they are; the version of nextify is filled in.

    Raises:
        WeightsError: the tensors are not those of ``about.design``, or the directory holds something else.
        OSError: it cannot be written; what was there before is untouched.
    """
    from safetensors.torch import save

    path = Path(path)
    _misfit(state, about).refuse(f"the weights for {path}")
    content = signed_json(about)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if path.suffix == ".safetensors":
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
        write_bytes_atomic(path, save(tensors, {"format": "pt", _METADATA_KEY: text}))
        return path
    data = save(tensors, {"format": "pt"})
    content["weights_sha256"] = hashlib.sha256(data).hexdigest()
    check_replaceable(path)
    with fresh_folder(path) as fresh:
        write_bytes_atomic(fresh / WEIGHTS_FILE, data)
        write_json_atomic(fresh / JSON_FILE, content)
    return path


def save_ensemble(path: str | Path, bundles: Sequence[str | Path], metrics: tuple[Metric, ...] = ()) -> Path:
    """Write one bundle of several classifiers, whose logits are averaged when it is used (``networks/network.py``).

    A member's temperature goes into its classifier. The cost is that of all members.

    Args:
        path: as of ``save_bundle``.
        bundles: different ones of one design, with the same classes, preprocessing, recipe and licence; whether they
            were trained on the same images is not checked.
        metrics: of the ensemble.

    Raises:
        WeightsError: fewer than two bundles, ones that do not belong together, or one that ``path`` would replace.
        FileNotFoundError: there is no such bundle.
    """
    if isinstance(bundles, str | Path):
        raise WeightsError(f"an ensemble needs several bundles, got one path, {bundles}: give a list of them")
    places = [located(one).resolve() for one in (*bundles, path)]
    if len(places) < 3:
        raise WeightsError(f"an ensemble needs two networks or more, got {len(places) - 1}")
    if len(set(places)) < len(places):
        twice = next(one for i, one in enumerate(places) if one in places[:i])
        raise WeightsError(f"{twice} is named twice: give different bundles, and another path for the ensemble")
    first, state = load_bundle(bundles[0]).about, dict[str, Tensor]()
    for i, one in enumerate(map(load_bundle, bundles)):
        for name in ("members", "design", "classes", "num_classes", "preprocessing", "thresholds", "recipe", "licence"):
            if getattr(one.about, name) != getattr(first, name):
                raise WeightsError(f"{bundles[i]} and {bundles[0]} differ in {name}, so they cannot form an ensemble")
        first.check_single("an ensemble")
        state |= {f"members.{i}.{name}": tensor for name, tensor in with_temperature(one).items()}
    source = f"ensemble of {len(bundles)}: {first.source}"
    about = replace(first, members=len(bundles), temperature=1.0, metrics=metrics, source=source)
    return save_bundle(path, state, about)


def with_temperature(bundle: Bundle) -> dict[str, Tensor]:
    """A classifier's tensors, its temperature in those of the last layer."""
    temperature = bundle.about.temperature
    if temperature == 1:
        return dict(bundle.state)
    return {name: t / temperature if name.startswith("head.classifier.") else t for name, t in bundle.state.items()}


def check_replaceable(path: Path, source: str | Path | None = None) -> None:
    """Raises ``WeightsError`` where ``source``, or something else than a folder of ours, would be overwritten."""
    if reason := occupied(path, source):
        raise WeightsError(reason)


def located(path: str | Path) -> Path:
    """``path``, or the bundle inside where it is the folder of a training, for which ``latest`` may stand, or around
    where it is a bundle's file of weights, as the JSON beside it says what they are."""
    path = followed(path)
    if path.name == WEIGHTS_FILE and (path.parent / JSON_FILE).is_file() and _metadata(path) is None:
        return followed(path.parent)
    inside = path / "bundle"
    return inside if not (path / JSON_FILE).exists() and (inside / JSON_FILE).is_file() else path


def is_bundle(path: str | Path) -> bool:
    """Whether there is a bundle at ``path``; reads no tensors."""
    path = located(path)
    return (path / JSON_FILE).is_file() if path.is_dir() else _metadata(path) is not None


def _metadata(path: Path) -> str | None:
    """The JSON in a bundle of one file, without reading tensors; None where the file is no bundle."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get(_METADATA_KEY)
    except SafetensorError:
        return None


def load_bundle(path: str | Path) -> Bundle:
    """Read and check the bundle of a classifier. Raises ``FileNotFoundError``, and ``WeightsError`` for one that is
    truncated, foreign, newer than this nextify, of another task, or whose weights do not belong to its JSON."""
    return Bundle(*_read(located(path), from_json))


def load_dense(path: str | Path) -> DenseBundle:
    """Read and check the bundle of a detector or segmenter. Raises as ``load_bundle``."""
    return DenseBundle(*_read(located(path), dense_from_json))


def _read(path: Path, parsed: Callable[[Mapping[str, object], Path], AnyAbout]) -> tuple[AnyAbout, State]:
    if path.is_dir():
        if not (path / JSON_FILE).is_file():
            raise WeightsError(f"{path} is not a nextify bundle: it has no {JSON_FILE}")
        content = read_json(path / JSON_FILE)
        about = parsed(content, path / JSON_FILE)
        if "export" in content:
            raise ExportError(
                f"{path} was written by nextify export and holds no weights to load: give its bundle; exports are "
                f"taken by nextify predict, nextify serve and, of classifiers, nextify.deploy.runners.open_runner"
            )
        file = read_weights(path / WEIGHTS_FILE)
        if not belongs(path / WEIGHTS_FILE, content):
            raise WeightsError(f"{path / WEIGHTS_FILE} and {JSON_FILE} are not from the same bundle; copy both again")
    else:
        file = read_weights(path)
        text = file.metadata.get(_METADATA_KEY)
        if text is None:
            raise WeightsError(f"{path} is not a nextify bundle; nextify.weights.load reads other libraries' files")
        about = parsed(_object(text, path), path)
    _misfit(file.state, about).refuse(str(path))
    return about, file.state


def stated(path: str | Path) -> About | DenseAbout | None:
    """What a bundle says, of whichever task, without reading tensors; None for what is no bundle. Raises
    ``WeightsError`` where it cannot be understood."""
    path = located(path)
    if (path / JSON_FILE).is_file():
        return any_from_json(read_json(path / JSON_FILE), path / JSON_FILE)
    text = _metadata(path)
    return None if text is None else any_from_json(_object(text, path), path)


def _misfit(state: Mapping[str, Tensor], about: About | DenseAbout) -> Misfit:
    if isinstance(about, About):
        if about.members > len(state):
            raise WeightsError(
                f"the bundle is damaged: it claims {about.members:,} members, but holds {plural(len(state), 'tensor')}"
            )
        return mismatches(state, about.design, about.num_classes, about.in_channels, about.members)
    with torch.device("meta"):
        return differences(state, shapes(DenseNetwork(about.design, about.num_classes, about.canvas)))


def _object(text: str, path: Path) -> dict[str, object]:
    """The JSON in a bundle of one file. Raises ``WeightsError``."""
    try:
        content: dict[str, Any] = parse_json(text)
    except ValueError as error:
        raise WeightsError(f"the metadata of {path} is damaged: {error}") from error
    return content


def belongs(weights: Path, content: Mapping[str, object]) -> bool:
    """Whether a file's checksum is the one that the JSON beside it names, if any. Raises ``OSError``."""
    found = sha256(weights)
    return bool(content.get("weights_sha256", found) == found)


def sha256(path: Path) -> str:
    """Of a file that may be asked for again. Raises ``OSError``."""
    status = path.stat()
    return _sha256(path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@lru_cache(maxsize=256)
def _sha256(path: Path, *stamp: int) -> str:
    """Of a file, computed once as long as its ``stamp`` stays the same: a training asks several times."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def chosen_bands(path: str | Path) -> Bands | None:
    """The bands of an image that a bundle was trained on; None for colours, and for what is no bundle."""
    about = stated(path)
    return about.preprocessing.bands if isinstance(about, About) else None
