#!/usr/bin/env bash
# A network that pads circularly (panoramas of 360 degrees, maps of the world, textures) is converted to ncnn by pnnx as one that
# pads with zeros: Conv2d(padding_mode="circular") and pad(mode="circular") become constant padding. Reflection and
# replication are kept. The middle of the picture is right, the seam is not, and there a panorama is cut. The torch module that
# pnnx gives back still pads circularly, so that a check of it passes. Nothing warns.
#
# Seen 2026-11-30 with pnnx 20261020, ncnn 1.0.20261020, torch 2.15.0, NumPy 2.4.6, Python 3.11.7, CPU; the largest difference
# from torch:
#   pad, reflect: pnnx' module 0.00, ncnn 0.00, within the sides 0.00
#   pad, replicate: pnnx' module 0.00, ncnn 0.00, within the sides 0.00
#   pad, circular: pnnx' module 0.00, ncnn 1.98, within the sides 0.00
#   Conv2d, zeros: pnnx' module 0.00, ncnn 0.00, within the sides 0.00
#   Conv2d, reflect: pnnx' module 0.00, ncnn 0.00, within the sides 0.00
#   Conv2d, replicate: pnnx' module 0.00, ncnn 0.00, within the sides 0.00
#   Conv2d, circular: pnnx' module 0.00, ncnn 1.04, within the sides 0.00
#   cat in place of circular: pnnx' module 0.00, ncnn 0.00, within the sides 0.00
# A guess that fails: "a converter that knows four modes of padding keeps the one that is asked for".
# What works: cat of the columns of the other side, in place of the padding.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pnnx==20261020 ncnn==1.0.20261020 torch==2.15.0 numpy==2.4.6
cat > "$folder/padding.py" <<'PY'
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


class Around(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.first, self.mode = nn.Conv2d(3, 8, 1), mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(self.first(x), (1, 1, 1, 1), mode=self.mode)


class Convolved(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, padding_mode=mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x)


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = torch.cat([x[:, :, :, -1:], x, x[:, :, :, :1]], 3)
        return torch.cat([x[:, :, -1:], x, x[:, :, :1]], 2)


torch.manual_seed(0)
ok = []
networks = {f"pad, {mode}": Around(mode) for mode in ("reflect", "replicate", "circular")}
networks |= {f"Conv2d, {mode}": Convolved(mode) for mode in ("zeros", "reflect", "replicate", "circular")}
networks["cat in place of circular"] = Joined()
for name, network in networks.items():
    x = torch.randn(1, 3, 6, 6)
    with torch.no_grad():
        right = network.eval()(x).numpy()
    module, got = by_pnnx_and_ncnn(f"m{len(ok)}", network, x)
    off, inside = np.abs(got - right).max(), np.abs(got - right)[:, :, 2:-2, 2:-2].max()
    ok += [bool(np.allclose(module, right, atol=1e-4)), bool(off > 0.1) == name.endswith(", circular"), bool(inside < 1e-3)]
    print(f"  {name}: pnnx' module {np.abs(module - right).max():.2f}, ncnn {off:.2f}, within the sides {inside:.2f}", file=out)
    if not all(ok):
        print(name, ok, file=sys.stderr)
out.flush()
sys.exit(not all(ok))
PY
"$folder/venv/bin/python" "$folder/padding.py" "$folder" 2> "$folder/errors" || { tail -5 "$folder/errors" >&2; exit 1; }
