"""The accuracy of given weights: a bundle, a file for a network of ours, or a file for one of timm's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nextify.compare.entries import Entry, is_path
from nextify.system.several import several

if TYPE_CHECKING:
    from nextify.data import Images


@dataclass(frozen=True)
class Evaluated:
    """Of the test images, each counted once and prepared as the weights' own description says."""

    top1: float
    """Percent."""
    top5: float
    images: int
    notes: tuple[str, ...]


def read_choices(choices: str | Sequence[str]) -> dict[str, str]:
    """``MODEL=FILE`` as a dict. Raises ``ValueError`` for anything else."""
    found = {}
    for choice in several(choices):
        name, equals, source = choice.partition("=")
        if not equals or not name or not source:
            raise ValueError(f"--weights needs MODEL=FILE, got {choice!r}; for example --weights convnext_tiny=a.pth")
        found[name] = source
    return found


def evaluate(entry: Entry, source: str, images: Images, device: str, threads: int) -> Evaluated:
    """Top-1 and top-5 of an entry with the weights of ``source``.

    Raises:
        WeightsError: weights that cannot be read or are not the network's.
        DataError: classes that the weights do not know.
    """
    import torch

    from nextify.evaluation.evaluate import match_classes, predict_set
    from nextify.evaluation.inference import Inference
    from nextify.evaluation.metrics import top_k
    from nextify.weights import load

    torch.set_num_threads(threads)
    notes: list[str] = []
    if entry.name.startswith("timm:"):
        model, about = _of_timm(entry.name.removeprefix("timm:"), source)
    else:
        loaded = load(source) if is_path(entry.name) else load(source, entry.name)
        model, about = loaded.model, loaded.about
        notes += loaded.notes
    label_of = match_classes(about, images, notes)
    inference = Inference.of(about.recipe)
    notes += inference.notes
    found = predict_set(model.to(device).eval(), images.test, about.preprocessing, device, inference)
    labels = label_of[images.test.labels]
    return Evaluated(top_k(found, labels, 1), top_k(found, labels, 5), len(labels), tuple(notes))


def _of_timm(name: str, source: str) -> tuple[Any, Any]:
    """timm's network with the weights of a file, and what is known of them: its classes, timm's preprocessing."""
    import timm
    from timm.data import resolve_model_data_config

    from nextify.data.foreign import from_timm_config
    from nextify.networks.foreign import build, timm_network
    from nextify.paper.design import RESNET50
    from nextify.weights import About, WeightsError, read_weights
    from nextify.weights.class_names import class_names, names_beside

    file = read_weights(source)
    state = file.state
    last = f"{timm.get_pretrained_cfg(name).classifier}.weight"
    if last not in state:
        raise WeightsError(f"{source} has no {last}: give weights of timm's {name}")
    model = build(timm_network(name), len(state[last]))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{source} does not fit timm's {name}: {str(error).splitlines()[-1].strip()}") from None
    settings = from_timm_config(resolve_model_data_config(model))
    # ``About`` describes networks of ours; of this one only classes and preprocessing are read.
    classes, _ = class_names({**file.metadata, **file.beside}, len(state[last]), file.path.parent)
    classes = classes or names_beside(file.path, len(state[last]))[0]
    return model, About(RESNET50, len(state[last]), name=name, classes=classes, preprocessing=settings)
