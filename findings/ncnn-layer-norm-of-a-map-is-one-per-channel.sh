#!/usr/bin/env bash
# A LayerNorm over several axes, channels among them (nn.LayerNorm([C, H, W]), layer_norm(x, x.shape[1:]), LayerNorm([tokens,
# channels])), is converted by pnnx to a LayerNorm of C * H * W numbers in ncnn, whose layer goes channel by channel, or token by
# token: each has its own mean and deviation, and a learned weight is applied in the wrong places. One axis (the last), or
# height and width without channels, are right. The torch module that pnnx gives back is right, so that a check of it passes.
# Nothing warns.
#
# Seen 2026-11-30 with pnnx 20261020, ncnn 1.0.20261020, torch 2.15.0, NumPy 2.4.6, Python 3.11.7, CPU; the largest difference
# from torch:
#   [columns]: pnnx' module 0.00, ncnn 0.00; largest value 2.02
#   [rows, columns]: pnnx' module 0.00, ncnn 0.00; largest value 2.54
#   [channels, rows, columns]: pnnx' module 0.00, ncnn 1.96; largest value 3.68
#   [channels, rows, columns], learned weight: pnnx' module 0.00, ncnn 6.25; largest value 6.24
#   layer_norm(x, x.shape[1:]): pnnx' module 0.00, ncnn 1.26; largest value 3.27
#   [channels] of tokens: pnnx' module 0.00, ncnn 0.00; largest value 2.44
#   [tokens, channels]: pnnx' module 0.00, ncnn 1.54; largest value 3.43
#   GroupNorm(1, channels): pnnx' module 0.00, ncnn 0.00; largest value 3.26
# A guess that fails: "a layer that is converted with its size normalizes as many numbers".
# What works: GroupNorm(1, C), which normalizes a map as a whole and keeps a weight per channel.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pnnx==20261020 ncnn==1.0.20261020 torch==2.15.0 numpy==2.4.6
cat > "$folder/norms.py" <<'PY'
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


weighted = nn.LayerNorm([8, 5, 6])
nn.init.normal_(weighted.weight, generator=torch.Generator().manual_seed(1))


cases = {
    "[columns]": (nn.LayerNorm(6), True),
    "[rows, columns]": (nn.LayerNorm([5, 6]), True),
    "[channels, rows, columns]": (nn.LayerNorm([8, 5, 6]), False),
    "[channels, rows, columns], learned weight": (weighted, False),
    "layer_norm(x, x.shape[1:])": (lambda x: functional.layer_norm(x, x.shape[1:]), False),
    "[channels] of tokens": (lambda x: functional.layer_norm(tokens(x), (8,)), True),
    "[tokens, channels]": (lambda x: functional.layer_norm(tokens(x), (30, 8)), False),
    "GroupNorm(1, channels)": (nn.GroupNorm(1, 8), True),
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
"$folder/venv/bin/python" "$folder/norms.py" "$folder" 2> "$folder/errors" || { tail -5 "$folder/errors" >&2; exit 1; }
