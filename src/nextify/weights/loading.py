"""Networks with weights from anywhere."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from nextify.data.preprocessing import Preprocessing
from nextify.networks.layout import layout
from nextify.networks.network import Classifier, ConvNet, Ensemble
from nextify.paper.design import Design
from nextify.system.text import printable
from nextify.weights.bundle import About
from nextify.weights.class_names import ClassOrder
from nextify.weights.design_detection import (
    channel_count,
    class_count,
    differences,
    expected_shapes,
    infer_design,
    shapes,
)
from nextify.weights.naming import State, WeightsError, recognize
from nextify.weights.sources import find

log = logging.getLogger("nextify")


@dataclass(frozen=True)
class Loaded:
    """A network with weights, and what they are."""

    model: Classifier
    about: About
    notes: tuple[str, ...]
    """What was assumed or adapted, a sentence each."""
    output_norms: State = field(default_factory=dict)
    """Norms of a backbone's outputs, by the names that ``Backbone`` gives them."""

    def single(self, what: str) -> ConvNet:
        """The network. Raises ``WeightsError`` for an ensemble, which ``what`` does not take."""
        self.about.check_single(what)
        assert isinstance(self.model, ConvNet)
        return self.model

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become inputs. Raises ``WeightsError`` where the network takes neither gray nor colour images."""
        about = self.about
        if about.preprocessing.channels != about.in_channels:
            raise WeightsError(
                f"{about.source or about.name or 'the weights'}: the network takes {about.in_channels} channels, but "
                f"images have {about.preprocessing.channels}; adapt it with nextify.weights.load(…, in_channels=3)"
            )
        return about.preprocessing


def load(
    source: str | Path,
    design: str | Design | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    stochastic_depth: float = 0.0,
    class_order: ClassOrder | None = None,
) -> Loaded:
    """A network with the weights of ``source``, in evaluation mode. Logs the licence, and whatever was adapted.

    Args:
        source: a path (a bundle, or a ``.safetensors`` or ``.pth`` of official ConvNeXt, timm, torchvision, Hugging
            Face or nextify), ``hf:owner/name`` or ``owner/name`` on the Hub (``@revision`` behind), or ``timm:name``.
        design: what it must be; read off the weights where not given.
        num_classes: asks for another classifier, freshly drawn, where the weights have another count.
        in_channels: asks for another stem, adapted as timm does (``adapt_channels``), where the weights have another.
        stochastic_depth: for further training.
        class_order: the class names in the order of the logits, or a file of them, for weights that name none.

    Raises:
        WeightsError: not readable, not recognized, not safe, or not of the design asked for.
    """
    found = find(source, design, class_order)
    about, notes = found.bundle.about, list(found.notes)
    if about.members > 1:
        if (num_classes or about.num_classes, in_channels or about.in_channels) != (
            about.num_classes,
            about.in_channels,
        ):
            about.check_single("another classifier or stem")
        one = layout(about.design, about.in_channels)
        several = Ensemble([ConvNet(one, about.num_classes, stochastic_depth) for _ in range(about.members)])
        _put(several, found.bundle.state)
        _log(about, source, notes)
        return Loaded(several.eval(), about, tuple(notes))
    state = adapt(found.bundle.state, num_classes, in_channels, notes)
    classes = class_count(state) if num_classes is None else num_classes
    channels = channel_count(state)
    plan = layout(about.design, channels)
    if num_classes is None and expected_shapes(about.design, classes, channels).keys() <= state.keys():
        with torch.device("meta"):  # draws no initial weights, of which none would stay
            model = ConvNet(plan, classes, stochastic_depth)
        # to_empty() would do this too, but imports sympy, for most of a second.
        blank = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in model.state_dict().items()}
        model.load_state_dict(blank, assign=True)
    else:
        model = ConvNet(plan, classes, stochastic_depth)
    dtype = state["stem.conv.weight"].dtype
    if dtype != torch.float32:
        notes.append(f"the weights are {str(dtype).removeprefix('torch.')}; the network keeps them in float32")
    _put(model, state)
    if classes != about.num_classes:
        about = replace(about, num_classes=classes, classes=(), thresholds=(), metrics=())
    if channels != about.in_channels:
        about = replace(about, in_channels=channels, metrics=())
    settings = about.preprocessing
    if channels == 1 and settings.channels != 1:  # the mean over the colours, as in timm
        gray = replace(settings, mean=(sum(settings.mean) / 3,), std=(sum(settings.std) / 3,))
        about = replace(about, preprocessing=gray)
    _log(about, source, notes)
    return Loaded(model.eval(), about, tuple(notes), found.output_norms)


def _log(about: About, source: str | Path, notes: Sequence[str]) -> None:
    for line in (f"{about.name or 'model'}: weights from {source}, licence {about.licence}", *notes):
        log.warning("%s", printable(line))


def load_into(model: nn.Module, source: str | Path, *, adapt_head: bool = False, adapt_stem: bool = False) -> About:
    """Put the weights of ``source`` into a network that exists; its other class or channel count only on request.

    Args:
        model: a ``ConvNet`` (or anything with its tensor names).
        source: as for ``load``.
        adapt_head: leave the network's classifier as it is where the weights have another class count.
        adapt_stem: adapt the weights' stem to the network's channels.
    """
    own = model.state_dict()
    design = None
    with suppress(WeightsError):  # other tensors than a network's own do not tell it
        design = infer_design(recognize(own))
    found = find(source, design)
    notes = list(found.notes)
    found.bundle.about.check_single("load_into")
    state = adapt(
        found.bundle.state, class_count(own) if adapt_head else None, channel_count(own) if adapt_stem else None, notes
    )
    _put(model, state, keep_head=adapt_head)
    about = found.bundle.about
    _log(about, source, notes)
    return about


def _put(model: nn.Module, state: Mapping[str, Tensor], *, keep_head: bool = True) -> None:
    differences(state, shapes(model), "head.classifier." if keep_head else "").refuse("the state dict")
    model.load_state_dict(dict(state), strict=False)


def adapt(state: State, num_classes: int | None, in_channels: int | None, notes: list[str]) -> State:
    """Another class or channel count, where asked for; says so in ``notes``."""
    state = dict(state)
    had = class_count(state)
    if num_classes is not None and num_classes != had:
        state = {n: t for n, t in state.items() if not n.startswith("head.classifier.")}
        if num_classes == 0:
            notes.append(f"left out the classifier of {had} classes")
        else:
            notes.append(f"the classifier is new: {num_classes} classes, while the weights have {had}")
    channels = channel_count(state)
    if in_channels is not None and in_channels != channels:
        stem = state["stem.conv.weight"]
        state["stem.conv.weight"] = adapt_channels(stem, in_channels)
        how = "summed" if in_channels == 1 else "repeated and rescaled"
        notes.append(f"the stem's {channels} channels were {how} to {in_channels}")
    return state


def adapt_channels(weight: Tensor, in_channels: int) -> Tensor:
    """A stem's weights ``(O, I, K, K)`` for another channel count, as timm's ``adapt_input_conv``: summed for one
    channel, so that a gray image gives what its three equal channels gave; otherwise repeated in order and scaled by
    ``I / in_channels``, so that the sum over channels keeps its size."""
    channels = weight.shape[1]
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    copies = -(-in_channels // channels)
    return weight.repeat(1, copies, 1, 1)[:, :in_channels] * (channels / in_channels)
