"""Wrappers around a state dict, and releases that spell the official names in their own way.

Sources: facebookresearch/ConvNeXt-V2 (2553895) ``utils.py`` (``remap_checkpoint_keys``), ``models/fcmae.py`` and
``models/convnextv2_sparse.py``; open-mmlab/mmpretrain ``models/backbones/convnext.py`` and
``tools/model_converters/convnext_to_mmpretrain.py``; facebookresearch/ConvNeXt (048efce) ``object_detection`` and
``semantic_segmentation``; facebookresearch/dinov3 (6876159) ``models/convnext.py``; transformers 5
``modeling_dinov3_convnext.py``.
"""

import math
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

_STEM = re.compile(
    r"(.*?)((convnext(v2)?\.)?embeddings\.patch_embeddings|(resnet\.)?embedder\.embedder\.convolution|features\.0\.0|"
    r"(stages\.0\.)?downsample_layers\.0(\.0)?|stem(\.0|\.conv)?|conv1)\.weight"
)
_AVERAGED = re.compile(r"(^|[._])(ema|averaged|swa)")

_OFFICIAL_SPELLING = (
    (r"(^|\.)depthwise_conv\.", r"\1dwconv."),
    (r"(^|\.)pointwise_conv([12])\.", r"\1pwconv\2."),
    (r"^layer_norm\.", "norm."),
    (r"^stages\.(\d+)\.downsample_layers\.", r"downsample_layers.\1."),
    (r"^stages\.(\d+)\.layers\.(\d+)\.layer_norm\.", r"stages.\1.\2.norm."),
    (r"^stages\.(\d+)\.layers\.(\d+)\.(dwconv|pwconv1|pwconv2|gamma)", r"stages.\1.\2.\3"),
)


def unwrapped(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Strip the prefix in front of the network's names (``module.``, ``model._orig_mod.``, ``backbone.``, …).

    Among several networks in one state dict, an averaged one is taken first. Returns the network's tensors and a note
    on everything that was stripped or left out.
    """
    state = {name: tensor for name, tensor in state.items() if name.rpartition(".")[2] != "n_averaged"}
    if any(name.startswith("backbone.") and "depthwise_conv" in name for name in state):  # MMPretrain's classifier
        state = {re.sub(r"^head\.fc\.", "backbone.head.", name): tensor for name, tensor in state.items()}
    if any(name.startswith("model.stages.0.downsample_layers.") for name in state):  # DINOv3 in transformers
        state = {re.sub(r"^layer_norm\.", "model.layer_norm.", name): tensor for name, tensor in state.items()}
    prefixes = {
        found[1] for name in state if (found := _STEM.fullmatch(name)) and (not found[1] or found[1].endswith("."))
    }
    if not prefixes or "" in prefixes:
        return state, ()
    prefix = min(prefixes, key=lambda p: (_AVERAGED.search(p) is None, -sum(name.startswith(p) for name in state), p))
    outside = [name for name in state if not name.startswith(prefix)]
    note = f"stripped the prefix {prefix!r} from the tensors' names"
    if outside:
        more = ", …" if len(outside) > 4 else ""
        note += f" and left out the tensors without it: {', '.join(outside[:4])}{more}"
    return {n.removeprefix(prefix): tensor for n, tensor in state.items() if n.startswith(prefix)}, (note,)


def official_spelling(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Rewrite FCMAE's, MMPretrain's, DINOv3's and the detection backbones' names into the official ones, with notes."""
    if "downsample_layers.0.0.weight" not in state and "stages.0.downsample_layers.0.weight" not in state:
        return dict(state), ()
    notes: list[str] = []
    decoder = [n for n in state if n.startswith(("decoder.", "proj.", "pred.", "projectors.")) or n == "mask_token"]
    if decoder:
        notes.append(f"left out the pre-training head: {', '.join(sorted({n.split('.')[0] for n in decoder}))}")
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in decoder:
            continue
        for pattern, replacement in _OFFICIAL_SPELLING:
            name = re.sub(pattern, replacement, name)
        found.update(_dense(name, tensor))
    for leaf in ("weight", "bias"):
        copy = found.get(f"norms.3.{leaf}")
        if copy is not None and torch.equal(copy, found.get(f"norm.{leaf}", copy)):
            found.setdefault(f"norm.{leaf}", found.pop(f"norms.3.{leaf}"))
        if f"norm3.{leaf}" in found and not {f"norm.{leaf}", f"norm2.{leaf}"} & set(found):
            found[f"norm.{leaf}"] = found.pop(f"norm3.{leaf}")
    channels = next((t.shape[0] for n, t in reversed(found.items()) if n.endswith("pwconv2.bias")), 0)
    if "norm.weight" not in found and "head.weight" not in found and channels:
        found |= {"norm.weight": torch.ones(channels), "norm.bias": torch.zeros(channels)}
        notes.append("the weights are an encoder without a final norm, which starts fresh")
    return found, tuple(notes)


def _dense(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """One tensor of MinkowskiEngine's sparse layers as that of the dense layer.

    Kernels are ``(K*K, I, O)``, or ``(K*K, C)`` where depthwise, with columns before rows.
    """
    if name.endswith(".kernel"):
        side = math.isqrt(tensor.shape[0])
        kernel = tensor.T[:, None] if tensor.ndim == 2 else tensor.permute(2, 1, 0)  # (O, I, K*K)
        yield (
            f"{name.removesuffix('kernel')}weight",
            kernel.reshape(*kernel.shape[:2], side, side).transpose(3, 2).contiguous(),
        )
        return
    name = re.sub(r"\.(ln|linear)\.(weight|bias)$", r".\2", name)
    yield name, tensor.reshape(-1) if name.endswith(".bias") or ".grn." in name else tensor


def licence(state: Mapping[str, Tensor], path: str) -> str:
    """The licence that a release's names or file name tell; ``unknown`` otherwise."""
    names = " ".join(state)
    if re.search(r"convnextv2_\w+_fcmae\.pt", path.lower()):  # as the official repository's README says
        return "cc-by-nc-4.0"
    if "eupe" in path.lower() or "projectors." in names:
        return "fair-noncommercial-research-license"
    transformers = "stages.0.downsample_layers.0.weight" in names and "depthwise_conv" in names
    return "dinov3-license" if "dinov3" in path.lower() or "norms.3.weight" in names or transformers else "unknown"


def licence_terms(licence: str) -> str:
    """What a licence outside the usual ones asks of everyone who fine-tunes; empty for others."""
    return {
        "dinov3-license": "The DINOv3 licence applies to every derivative, including fine-tuned weights",
        "fair-noncommercial-research-license": "The weights and all derivatives are for non-commercial research only",
    }.get(licence, "")
