"""Masked autoencoders: encoders of any file or bundle, and decoders where there is one.

Official checkpoints (facebookresearch/ConvNeXt-V2 ``models/fcmae.py``) name the decoder's tensors ``proj``,
``mask_token``, ``decoder.0`` and ``pred``. A pre-training of ours leaves those in ``decoder.safetensors`` beside its
bundle, which holds the encoder alone.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from nextify.networks.masked.design import RATIO, MaskedDesign, fitted_masks
from nextify.networks.masked.network import MaskedAutoencoder
from nextify.paper.design import Design
from nextify.system.files import write_bytes_atomic
from nextify.weights.bundle import is_bundle, located
from nextify.weights.design_detection import differences, shapes
from nextify.weights.naming import State, Table, WeightsError, shaped, smallest
from nextify.weights.reading import read_weights
from nextify.weights.sources import Source, find

DECODER = "decoder.safetensors"
_DECODER = Table.read("official", """
projection.weight               proj.weight              O,I,1,1
projection.bias                 proj.bias
mask_token                      mask_token               1,C,1,1
decoder.spatial.*               decoder.0.dwconv.*
decoder.norm.*                  decoder.0.norm.*
decoder.pointwise1.*            decoder.0.pwconv1.*
decoder.response_norm.weight    decoder.0.grn.gamma      1,1,1,C
decoder.response_norm.bias      decoder.0.grn.beta       1,1,1,C
decoder.pointwise2.*            decoder.0.pwconv2.*
prediction.weight               pred.weight              O,I,1,1
prediction.bias                 pred.bias
""")  # fmt: skip


def find_autoencoder(source: str | Path, design: str | Design | None = None) -> Source:
    """Read an encoder from anywhere, and its decoder, if there is one, from the same file or from beside a bundle of
    ours; tensors have the names of ``MaskedAutoencoder``. Raises ``WeightsError`` as for ``weights.load``."""
    found = find(source, design)
    found.bundle.about.check_single("a pre-training")
    state = {f"encoder.{n}": t for n, t in found.bundle.state.items() if not n.startswith("head.classifier.")}
    return replace(found, bundle=replace(found.bundle, state=state | _decoder(Path(source))))


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
    for name, tensor in state.items():
        ours = _DECODER.to_ours(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if ours is not None:
            found[ours] = smallest(tensor, ours)
    return found


def save_decoder(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write the decoder of an autoencoder's weights beside its bundle, in the official names and shapes. Raises
    ``OSError`` where it cannot be written."""
    found = {}
    for name, tensor in state.items():
        theirs, shape = _DECODER.to_theirs(name)
        if theirs is not None:
            found[theirs] = shaped(tensor.detach().cpu(), shape).contiguous().clone()
    write_bytes_atomic(folder / DECODER, save(found, {"format": "pt"}))


def check_fits(state: Mapping[str, Tensor], model: MaskedAutoencoder, source: str) -> None:
    """Raises ``WeightsError`` where an encoder and decoder in our names are not a model's in names and shapes."""
    try:
        differences(state, shapes(model)).refuse(source)
    except WeightsError as error:
        raise WeightsError(f"{error}\nif {DECODER} belongs to another network, remove it, and a new decoder is "
                           f"trained") from None  # fmt: skip


def load_autoencoder(
    source: str | Path, design: str | Design | None = None, *, image_size: int | None = None, mask_ratio: float = RATIO
) -> MaskedAutoencoder:
    """An autoencoder with the weights of ``source``, in evaluation mode; ``reconstruct`` restores images with it.

    ``source`` is an official FCMAE checkpoint with its decoder, or the bundle of a pre-training, beside which its
    decoder lies. The side of the images in pixels, ``image_size``, decides the mask unit; None is the side they were
    pre-trained at. Raises ``WeightsError`` where there is no decoder, or the weights are no autoencoder's."""
    bundle = find_autoencoder(source, design).bundle
    if "mask_token" not in bundle.state:
        raise WeightsError(f"{source} has an encoder but no decoder, so it cannot reconstruct images: train one with "
                           f"nextify pretrain --weights {source}")  # fmt: skip
    masks, _ = fitted_masks(bundle.about.design, image_size or bundle.about.preprocessing.size[0], mask_ratio)
    width = bundle.state["mask_token"].numel()
    model = MaskedAutoencoder(MaskedDesign(bundle.about.design, masks.unit, mask_ratio, width))
    check_fits(bundle.state, model, str(source))
    model.load_state_dict(bundle.state)
    return model.eval()
