"""Masked autoencoders: encoders of any file or bundle, and decoders where there is one.

Official checkpoints (facebookresearch/ConvNeXt-V2 ``models/fcmae.py``) name the decoder's tensors ``proj``,
``mask_token``, ``decoder.0`` and ``pred``. A pre-training of ours leaves those in ``decoder.safetensors`` beside its
bundle, which holds the encoder alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from nextify.networks.masked.design import RATIO, MaskedDesign, fitted_masks
from nextify.networks.masked.network import MaskedAutoencoder
from nextify.paper.design import Design
from nextify.system.files import write_bytes_atomic
from nextify.weights.bundle import About, explain, is_bundle, located
from nextify.weights.design_detection import differences
from nextify.weights.naming import State, WeightsError
from nextify.weights.reading import read_weights
from nextify.weights.sources import find

DECODER = "decoder.safetensors"
_OFFICIAL = (
    ("projection.", "proj."),
    ("mask_token", "mask_token"),
    ("decoder.spatial.", "decoder.0.dwconv."),
    ("decoder.norm.", "decoder.0.norm."),
    ("decoder.pointwise1.", "decoder.0.pwconv1."),
    ("decoder.response_norm.weight", "decoder.0.grn.gamma"),
    ("decoder.response_norm.bias", "decoder.0.grn.beta"),
    ("decoder.pointwise2.", "decoder.0.pwconv2."),
    ("prediction.", "pred."),
)
"""How our names begin, and theirs."""
_CHANNELS_FIRST = ("projection.weight", "prediction.weight")
"""1x1 convolutions of theirs."""


@dataclass(frozen=True)
class FoundAutoencoder:
    """The weights of an autoencoder as they were found."""

    about: About
    state: State
    """As ``MaskedAutoencoder`` names them; without a decoder's tensors where there are none."""
    notes: tuple[str, ...]

    @property
    def decoder(self) -> bool:
        """Whether they have a decoder."""
        return "mask_token" in self.state


def find_autoencoder(source: str | Path, design: str | Design | None = None) -> FoundAutoencoder:
    """Read an encoder from anywhere, and its decoder from the same file or from beside a bundle of ours. Raises
    ``WeightsError`` as for ``weights.load``."""
    found = find(source, design)
    found.bundle.about.check_single("a pre-training")
    state = {f"encoder.{n}": t for n, t in found.bundle.state.items() if not n.startswith("head.classifier.")}
    return FoundAutoencoder(found.bundle.about, state | _decoder(Path(source)), found.notes)


def _decoder(path: Path) -> State:
    """A decoder in our names; empty where there is none."""
    if path.exists() and is_bundle(path):
        path = located(path).parent / DECODER
    return decoder_in_our_names(read_weights(path).state) if path.is_file() else {}


def decoder_in_our_names(state: Mapping[str, Tensor]) -> State:
    """The tensors of an official decoder; empty where there is none. What wraps their names is stripped."""
    token = next((name for name in state if name.rpartition(".")[2] == "mask_token"), None)
    if token is None:
        return {}
    prefix = token.removesuffix("mask_token")
    found: State = {}
    for ours, theirs in _OFFICIAL:
        for name, tensor in state.items():
            if name.startswith(prefix + theirs):
                own = ours + name.removeprefix(prefix + theirs)
                if "response_norm" in own or own == "mask_token":
                    tensor = tensor.reshape(-1)
                found[own] = tensor.flatten(1) if own in _CHANNELS_FIRST else tensor
    return found


def save_decoder(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write the decoder of an autoencoder's weights beside its bundle, in the official names and shapes. Raises
    ``OSError`` where it cannot be written."""
    found = {}
    for name, tensor in state.items():
        for ours, theirs in _OFFICIAL:
            if name.startswith(ours):
                tensor = tensor.detach().cpu()
                if "response_norm" in name:
                    tensor = tensor[None, None, None]
                elif name == "mask_token":
                    tensor = tensor[None, :, None, None]
                elif name in _CHANNELS_FIRST:
                    tensor = tensor[..., None, None]
                found[theirs + name.removeprefix(ours)] = tensor.contiguous().clone()
    write_bytes_atomic(folder / DECODER, save(found, {"format": "pt"}))


def check_fits(state: Mapping[str, Tensor], model: MaskedAutoencoder, source: str) -> None:
    """Raises ``WeightsError`` where an encoder and decoder in our names are not a model's in names and shapes."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    try:
        explain(differences(state, own), source)
    except WeightsError as error:
        raise WeightsError(f"{error}\nif {DECODER} belongs to another network, remove it, and a new decoder is "
                           f"trained") from None  # fmt: skip


def load_autoencoder(
    source: str | Path, design: str | Design | None = None, *, image_size: int = 224, mask_ratio: float = RATIO
) -> MaskedAutoencoder:
    """An autoencoder with the weights of ``source``, in evaluation mode; ``reconstruct`` restores images with it.

    Args:
        source: an official FCMAE checkpoint with its decoder, or the bundle of a pre-training, beside which its
            decoder lies.
        image_size: side of the images in pixels, by which the mask unit is chosen.

    Raises:
        WeightsError: there is no decoder, or the weights are no autoencoder's.
    """
    found = find_autoencoder(source, design)
    if not found.decoder:
        raise WeightsError(f"{source} has an encoder but no decoder, so it cannot reconstruct images: train one with "
                           f"nextify pretrain --weights {source}")  # fmt: skip
    masks, _ = fitted_masks(found.about.design, image_size, mask_ratio)
    width = found.state["mask_token"].numel()
    model = MaskedAutoencoder(MaskedDesign(found.about.design, masks.unit, mask_ratio, width))
    check_fits(found.state, model, str(source))
    model.load_state_dict(found.state)
    return model.eval()
