#!/usr/bin/env bash
# brevitas.graph.calibrate.norm_correction_mode corrects batch norms after quantization: their statistics become those of what the
# quantized layers give. It divides the old variance by the ratio of deviations where it should be the ratio of variances. A norm whose
# input has become twice as wide ends at a variance of 2 in place of 4, so its output is 1.4 times too wide. It also leaves the norm in
# training mode, with momentum None.
#
# Seen 2026-12-01 with brevitas 0.13.4, torch 2.15.0, Python 3.11.7; a norm with mean 0 and variance 1, inputs of mean 0.5, variance 4:
#   corrected variance 2.00 (the inputs': 4.01), output's deviation 1.42, training True, momentum None
# A guess that fails: "after the correction, the norm's output is standardized".
# What works: running mean and variance by one's own pass over the calibration images, with momentum None and model.eval() afterwards.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  brevitas==0.13.4 torch==2.15.0 numpy==2.4.6
cat > "$folder/correct.py" <<'PY'
import sys

import torch
from brevitas.graph.calibrate import norm_correction_mode

torch.manual_seed(0)
norm = torch.nn.BatchNorm2d(3, affine=False).eval()
x = 2 * torch.randn(512, 3, 8, 8) + 0.5
with torch.no_grad(), norm_correction_mode(norm):
    norm(x)
training, momentum = norm.training, norm.momentum
variance, exact = float(norm.running_var.mean()), float(x.var())
deviation = float(norm.eval()(x).std())
print(f"corrected variance {variance:.2f} (the inputs': {exact:.2f}), output's deviation {deviation:.2f}, "
      f"training {training}, momentum {momentum}")
sys.exit(not (abs(variance - 2) < 0.02 and abs(exact - 4) < 0.05 and abs(deviation - 1.41) < 0.02 and training))
PY
"$folder/venv/bin/python" "$folder/correct.py"
