#!/usr/bin/env bash
# pnnx, ncnn's converter of torch models, takes a LayerNorm with bias=False for one with elementwise_affine=False: the learned
# weight is gone, in the ncnn model and in the torch module that pnnx gives back. The output is normalized and of the right
# shape, so it looks sound. With a bias of zeros, and with RMSNorm, which has a weight alone, the weight is kept. Nothing warns.
#
# Seen 2026-11-30 with pnnx 20261020, ncnn 1.0.20261020, torch 2.15.0, NumPy 2.4.6, Python 3.11.7, CPU; the largest difference
# from torch, weights and biases from a standard normal distribution:
#   LayerNorm(8): pnnx' module 0.00, ncnn 0.00; largest value 3.33
#   LayerNorm(8, bias=False): pnnx' module 3.71, ncnn 3.71; largest value 2.50
#   LayerNorm(8, elementwise_affine=False): pnnx' module 0.00, ncnn 0.00; largest value 2.30
#   RMSNorm(8): pnnx' module 0.00, ncnn 0.00; largest value 2.41
# A guess that fails: "a converter has either both parameters of a layer or neither".
# What works: bias=True with a bias of zeros before the conversion.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pnnx==20261020 ncnn==1.0.20261020 torch==2.15.0 numpy==2.4.6
cat > "$folder/norms.py" <<'PY'
import os
import sys
import warnings

warnings.filterwarnings("ignore")
os.chdir(sys.argv[1])
out = os.fdopen(os.dup(1), "w")  # the converter writes to the standard output by itself
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
import ncnn
import numpy as np
import pnnx
import torch
from torch import nn


def by_pnnx_and_ncnn(name: str, network: nn.Module, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
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
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 1), norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.first(x).flatten(2).transpose(1, 2))


torch.manual_seed(0)
ok = []
for name, norm in (
    ("LayerNorm(8)", nn.LayerNorm(8)),
    ("LayerNorm(8, bias=False)", nn.LayerNorm(8, bias=False)),
    ("LayerNorm(8, elementwise_affine=False)", nn.LayerNorm(8, elementwise_affine=False)),
    ("RMSNorm(8)", nn.RMSNorm(8)),
):
    network = Network(norm).eval()
    for value in norm.parameters():
        nn.init.normal_(value)
    x = torch.randn(1, 3, 6, 6)
    with torch.no_grad():
        right = network(x).numpy()
    offs = [float(np.abs(got - right).max()) for got in by_pnnx_and_ncnn(f"m{len(ok)}", network, x)]
    ok.append([off > 0.1 for off in offs] == 2 * ["False" in name and "bias" in name])
    print(f"  {name}: pnnx' module {offs[0]:.2f}, ncnn {offs[1]:.2f}; largest value {np.abs(right).max():.2f}", file=out)
    if not ok[-1]:
        print(name, offs, file=sys.stderr)
out.flush()
sys.exit(not all(ok))
PY
"$folder/venv/bin/python" "$folder/norms.py" "$folder" 2> "$folder/errors" || { tail -5 "$folder/errors" >&2; exit 1; }
