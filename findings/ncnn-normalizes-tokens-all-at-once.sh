#!/usr/bin/env bash
# pnnx converts torch's functional.normalize to ncnn's Normalize, which knows the channels of a map and nothing else. Lengths
# along any other axis (the rows of a map, the channels of tokens, each head's part of a token) are computed over something
# else, and p=1 is dropped. The output has the right shape. The scores of cosine attention (Swin V2), which lie between -1 and
# 1, are off by up to 2.9; embeddings of tokens for retrieval are wrong as well. The torch module that pnnx gives back is right,
# so that a check of it passes. Nothing warns.
#
# Seen 2026-11-30 with pnnx 20261020, ncnn 1.0.20261020, torch 2.15.0, NumPy 2.4.6, Python 3.11.7, CPU; the largest difference
# from torch:
#   map, its channels: pnnx' module 0.00, ncnn 0.00; largest value 0.89
#   map, its columns: pnnx' module 0.00, ncnn 0.60; largest value 0.89
#   map, its channels, p=1: pnnx' module 0.00, ncnn 0.40; largest value 0.31
#   channels of tokens: pnnx' module 0.00, ncnn 1.00; largest value 0.89
#   channels of each head: pnnx' module 0.00, ncnn 0.94; largest value 0.96
#   cosine attention: pnnx' module 0.00, ncnn 2.87; largest value 1.00
#   cosine attention, lengths by hand: pnnx' module 0.00, ncnn 0.00; largest value 1.00
# A guess that fails: "what is converted for one axis is converted for another, or refused".
# What works: x / x.square().sum(dim, keepdim=True).sqrt(), which is converted as it is written.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pnnx==20261020 ncnn==1.0.20261020 torch==2.15.0 numpy==2.4.6
cat > "$folder/lengths.py" <<'PY'
import os
import sys
import warnings
from collections.abc import Callable

warnings.filterwarnings("ignore")
os.chdir(sys.argv[1])
out = os.fdopen(os.dup(1), "w")  # the converter writes to the standard output by itself
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
import ncnn
import numpy as np
import pnnx
import torch
from torch import Tensor, nn
from torch.nn import functional


def by_pnnx_and_ncnn(name: str, network: nn.Module, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What pnnx' own module and ncnn answer to one image."""
    module = pnnx.export(network, f"{name}.pt", x, fp16=False)
    runtime = ncnn.Net()
    runtime.opt.use_fp16_packed = runtime.opt.use_fp16_storage = runtime.opt.use_fp16_arithmetic = False
    runtime.load_param(f"{name}.ncnn.param")
    runtime.load_model(f"{name}.ncnn.bin")
    extractor = runtime.create_extractor()
    extractor.input("in0", ncnn.Mat(x[0].numpy()).clone())
    with torch.no_grad():
        return module.eval()(x).numpy(), np.array(extractor.extract("out0")[1])[None]


class Network(nn.Module):
    def __init__(self, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.then = nn.Conv2d(3, 8, 1), then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.first(x))


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)  # (1, 30, 8)


def heads(x: Tensor) -> Tensor:
    return x.reshape(1, 2, 4, 30).transpose(2, 3)  # (1, 2, 30, 4)


def cosines(x: Tensor) -> Tensor:
    x = functional.normalize(heads(x), dim=-1)
    return x @ x.transpose(-2, -1)


def by_hand(x: Tensor) -> Tensor:
    x = heads(x)
    x = x / x.square().sum(-1, keepdim=True).sqrt()
    return x @ x.transpose(-2, -1)


cases = {
    "map, its channels": (lambda x: functional.normalize(x, dim=1), True),
    "map, its columns": (lambda x: functional.normalize(x, dim=-1), False),
    "map, its channels, p=1": (lambda x: functional.normalize(x, p=1, dim=1), False),
    "channels of tokens": (lambda x: functional.normalize(tokens(x), dim=-1), False),
    "channels of each head": (lambda x: functional.normalize(heads(x), dim=-1), False),
    "cosine attention": (cosines, False),
    "cosine attention, lengths by hand": (by_hand, True),
}
torch.manual_seed(0)
x = torch.randn(1, 3, 5, 6)
ok = []
for name, (then, same) in cases.items():
    network = Network(then).eval()
    with torch.no_grad():
        right = network(x).numpy()
    module, got = by_pnnx_and_ncnn(f"m{len(ok)}", network, x)
    off = np.abs(got - right).max()
    ok += [got.shape == right.shape, bool(np.allclose(module, right, atol=1e-4)), bool(off < 1e-3 if same else off > 0.1)]
    print(f"  {name}: pnnx' module {np.abs(module - right).max():.2f}, ncnn {off:.2f}; largest value {np.abs(right).max():.2f}", file=out)
out.flush()
sys.exit(not all(ok))
PY
"$folder/venv/bin/python" "$folder/lengths.py" "$folder" 2> "$folder/errors" || { tail -5 "$folder/errors" >&2; exit 1; }
