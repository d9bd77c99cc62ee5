"""Where a network looks: heat maps for a class, each with checks of what it is worth.

Grad-CAM (arXiv 1610.02391), Grad-CAM++ (1710.11063) and HiResCAM (2011.08891) weigh the maps of the last stage that
the Layout leaves at least ``LEAST_SIDE`` pixels a side. Activations are ``(N, H, W, C)`` here, where Captum's layer
methods take the second axis for the channels of any layer; integrated gradients (1703.01365) need no layer and are
Captum's. The checks: deletion and insertion (1806.07421), and maps of networks with random weights (1810.03292).
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, assert_never

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextify.data.preprocessing import normalized
from nextify.deploy.runners import needs
from nextify.evaluation.predict import Prediction, Predictor
from nextify.evaluation.runner import Network, probabilities
from nextify.networks.backbone import features
from nextify.networks.network import ConvNet
from nextify.system.text import plural
from nextify.weights import WeightsError

Method = Literal["grad-cam", "grad-cam++", "hirescam", "integrated-gradients"]
Map = npt.NDArray[np.float32]
LEAST_SIDE = 4
"""Pixels of the maps that are weighed; fewer show no place."""
STEPS = 16
"""Of a deletion or insertion curve, and twice as many of integrated gradients' path."""
DRAWS = 3
"""Networks of random weights that a map is compared with."""
SAME = 0.8
"""Mean rank correlation with their maps from which a map counts as independent of the weights."""
AHEAD = 0.02
"""Area between a curve and that of a random order up to which a map counts as no better than chance."""


@dataclass(frozen=True)
class Curve:
    """Probability of the class after each share of the pixels, the most important first."""

    values: tuple[float, ...]
    random: tuple[float, ...]
    """The same in random order."""

    @property
    def area(self) -> float:
        return float(np.trapezoid(self.values, dx=1 / STEPS))

    @property
    def random_area(self) -> float:
        return float(np.trapezoid(self.random, dx=1 / STEPS))


@dataclass(frozen=True)
class Explanation:
    """The heat map of one image for one class, and its checks."""

    path: str
    method: Method
    index: int
    """Of the class."""
    label: str
    probability: float
    deletion: Curve
    """From the image to a plain one: lower is better."""
    insertion: Curve
    """From a blurred image to the image: higher is better."""
    random_agreement: float
    """Mean rank correlation with the maps of networks of random weights."""
    heat: Map = field(repr=False)
    """``(H, W)`` from 0 to 1 over the network's input."""
    pixels: npt.NDArray[np.uint8] = field(repr=False)
    """``(H, W, C)``: that input before normalization."""

    @property
    def depends_on_weights(self) -> bool:
        return self.random_agreement < SAME

    @property
    def beats_chance(self) -> bool:
        """Whether deletion or insertion tells the map's order of the pixels from a random one."""
        ahead = self.deletion.random_area - self.deletion.area, self.insertion.area - self.insertion.random_area
        return max(ahead) > AHEAD

    def to_dict(self) -> dict[str, object]:
        curves = {
            name: {"values": curve.values, "area": curve.area, "random_area": curve.random_area}
            for name, curve in (("deletion", self.deletion), ("insertion", self.insertion))
        }
        simple = {k: getattr(self, k) for k in ("path", "method", "index", "label", "probability", "random_agreement")}
        return simple | curves | {k: getattr(self, k) for k in ("depends_on_weights", "beats_chance")}

    def overlay(self) -> npt.NDArray[np.uint8]:
        """``(H, W, 3)``: the heat map on the image."""
        over = coloured(self.heat)
        alpha = over[..., 3:] / 255.0
        return np.round(over[..., :3] * alpha + self.pixels * (1 - alpha)).astype(np.uint8)


def explain(
    weights: str, sources: Iterable[str], method: Method = "grad-cam", index: int | None = None
) -> Iterator[Explanation | Prediction]:
    """Explain images of files, folders and patterns; a prediction with an error for one that cannot be read. ``index``:
    the class to explain; None takes each image's most probable one.

    Raises ``WeightsError`` where the weights cannot be loaded, have no classifier, or fewer classes, and
    ``MissingExtra`` where the method needs a package that is not installed."""
    network = Network(weights, kernels="off")
    about, settings, model = network.about, network.preprocessing, network.model
    about.check_single("nextify explain")
    if isinstance(settings.bands, int):
        raise WeightsError(
            f"explanations are drawn on pictures, but {weights} takes {plural(settings.bands, 'channel')}: give a "
            f"classifier of colour images"
        )
    if index is not None and index >= about.num_classes:
        raise WeightsError(f"there is no class {index}: the {about.num_classes} classes are numbered from 0")

    def classify(images: Tensor) -> Map:
        return probabilities(network(images.numpy()), about)

    for entry in Predictor(network).entries(sources):
        if isinstance(entry, Prediction):
            yield entry
            continue
        path, pixels = entry
        image = normalized(pixels[None], torch.device("cpu"), settings.mean, settings.std)[0]
        found = classify(image[None])[0]
        chosen = int(found.argmax()) if index is None else index
        heat = heat_map(model, image, chosen, method)
        yield Explanation(
            *(path, method, chosen, about.classes[chosen] if about.classes else f"class #{chosen}"),
            float(found[chosen]),
            *curves(classify, image, chosen, heat),
            random_agreement(model, partial(heat_map, image=image, index=chosen, method=method), heat),
            heat,
            pixels.numpy(),
        )


def heat_map(model: ConvNet, image: Tensor, index: int, method: Method) -> Map:
    """``(H, W)`` from 0 to 1: what speaks for the class ``index`` in a normalized ``image (C, H, W)``."""
    if method == "integrated-gradients":
        heat = _integrated_gradients(model, image, index)
    else:
        heat = _class_activation(model, image, index, method)
    return (heat / heat.max().clamp(min=1e-30)).cpu().numpy()


def _class_activation(
    model: ConvNet, image: Tensor, index: int, method: Literal["grad-cam", "grad-cam++", "hirescam"]
) -> Tensor:
    after = _explained_stage(model, image.shape[-2:]) + 1
    with torch.no_grad():
        x = model.forward_stem(image[None])
        for stage in model.stages[:after]:
            x = stage(x)
    with torch.enable_grad(), steady_norms(model):
        y = x = x.clone().requires_grad_()  # (1, h, w, C); a clone, as an inference tensor would take no gradient
        for stage in model.stages[after:]:
            y = stage(y)
        (gradient,) = torch.autograd.grad(model.forward_head(y)[0, index], x)
    x = x.detach()
    match method:
        case "hirescam":
            weights = gradient
        case "grad-cam":
            weights = gradient.mean((1, 2), keepdim=True)
        case "grad-cam++":
            below = 2 * gradient**2 + x.sum((1, 2), keepdim=True) * gradient**3
            share = torch.where(below != 0, gradient**2 / below, 0.0)
            weights = (share * gradient.relu()).sum((1, 2), keepdim=True)
        case _:
            assert_never(method)
    heat = (weights * x).sum(-1).relu()
    return F.interpolate(heat[None], image.shape[-2:], mode="bilinear", align_corners=False)[0, 0]


@contextmanager
def steady_norms(model: ConvNet) -> Iterator[None]:
    """Let layer norms pass gradients as if their standard deviation were a constant (arXiv 2202.07304).

    A layer norm undoes any scaling of its input, so that the gradient of its output is orthogonal to that input: an
    object that dominates the pooled features would count for nothing. With a constant in its place the class's logit is
    a sum over the last stage's pixels, as class activation maps assume.
    """

    def steady(norm: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        assert isinstance(norm, nn.LayerNorm)
        x = inputs[0]
        deviation = (x.var(-1, correction=0, keepdim=True) + norm.eps).sqrt().detach()
        return (x - x.mean(-1, keepdim=True)) / deviation * norm.weight + norm.bias

    hooks = [m.register_forward_hook(steady) for m in model.modules() if isinstance(m, nn.LayerNorm)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _explained_stage(model: ConvNet, size: Sequence[int]) -> int:
    sides = [min(size) // feature.stride for feature in features(model.layout)]
    return max((stage for stage, side in enumerate(sides) if side >= LEAST_SIDE), default=0)


def _integrated_gradients(model: ConvNet, image: Tensor, index: int) -> Tensor:
    needs("captum", "explain")
    from captum.attr import IntegratedGradients

    found: Any = IntegratedGradients(model).attribute(
        image[None], target=index, n_steps=2 * STEPS, internal_batch_size=STEPS
    )
    return found[0].detach().abs().sum(0).float()  # type: ignore[no-any-return]


def curves(classify: Callable[[Tensor], Map], image: Tensor, index: int, heat: Map) -> tuple[Curve, Curve]:
    """Deletion and insertion curves of a map of a normalized ``image (C, H, W)``. ``classify`` gives ``(N, K)``
    probabilities of images ``(N, C, H, W)``."""
    reach = max(image.shape[-2:]) // 4
    blurred = F.avg_pool2d(image[None], 2 * reach + 1, 1, reach, count_include_pad=False)[0]
    orders = (-heat.ravel()).argsort(kind="stable"), np.random.default_rng(0).permutation(heat.size)
    found = []
    for before, after in ((image, torch.zeros_like(image)), (blurred, image)):  # 0 is the mean colour
        pair = []
        for order in orders:
            rank = np.empty(heat.size, np.int64)
            rank[order] = np.arange(heat.size)
            changed = torch.from_numpy(rank.reshape(1, 1, *heat.shape))
            shown = torch.arange(STEPS + 1).view(-1, 1, 1, 1) * heat.size / STEPS
            pair.append(classify(torch.where(changed < shown, after, before))[:, index].tolist())
        found.append(Curve(tuple(pair[0]), tuple(pair[1])))
    return found[0], found[1]


def random_agreement(model: ConvNet, explained: Callable[[ConvNet], Map], heat: Map) -> float:
    """Mean rank correlation of ``heat`` with the maps that ``explained`` gives of networks with random weights.

    A map that is the same everywhere counts as 1: it says nothing of the weights.
    """
    from scipy.stats import spearmanr

    if np.ptp(heat) == 0:
        return 1.0
    found = []
    with torch.random.fork_rng(devices=()):
        for seed in range(DRAWS):
            torch.manual_seed(seed)
            other = copy.deepcopy(model)
            other.reset_parameters()
            theirs = explained(other.eval())
            found.append(0.0 if np.ptp(theirs) == 0 else float(spearmanr(heat, theirs, axis=None).statistic))
    return float(np.mean(found))


def coloured(heat: Map) -> npt.NDArray[np.uint8]:
    """``(H, W, 4)`` RGBA of a heat map, from blue to red: the warmer, the less transparent."""
    import matplotlib as mpl

    over: npt.NDArray[np.uint8] = mpl.colormaps["turbo"](heat, bytes=True)
    over[..., 3] = np.round(255 * (0.35 + 0.4 * np.clip(heat, 0, 1)))
    return over
