#!/usr/bin/env bash
# An exported model has no train() and eval(); torchao's move_exported_model_to_eval and …_to_train stand in for them, and those who
# train with simulated quantization are told to call them. They find batch norms and dropouts by a pattern that was traced once with
# default constants, and put that pattern's constants in their place: eps becomes 1e-5, momentum 0.1, and every dropout's probability
# 0.5. Networks whose norms have eps 1e-3 (MobileNetV3, EfficientNet, Inception) evaluate to something else, and a training that goes
# on after one evaluation drops half of everything. Nothing warns.
#
# Seen 2026-12-01 with torchao 0.18.0, torch 2.15.0, Python 3.11.7; a norm with eps 1e-3, momentum 0.01, and Dropout(0.1):
#   as exported        norm (momentum, eps) 0.01, 0.001   dropout 0.1
#   moved to eval      norm (momentum, eps) 0.1, 1e-05    dropout 0.5
#   moved to train     norm (momentum, eps) 0.1, 1e-05    dropout 0.5
#   outputs in evaluation: 1.407 times those of model.eval() (variance 1e-3)
# A guess that fails: "it is model.eval() for an exported model", as its documentation says.
# What works: export the model in evaluation mode; or write the constants back into the graph's nodes after each move, and recompile.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torchao==0.18.0 torch==2.15.0 numpy==2.4.6
cat > "$folder/move.py" <<'PY'
import sys
import warnings

import torch
from torch import nn
from torchao.quantization.pt2e import move_exported_model_to_eval, move_exported_model_to_train

warnings.filterwarnings("ignore")
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=1e-3, momentum=0.01), nn.Dropout(0.1))
model[1].running_var.fill_(1e-3)
x = torch.randn(4, 3, 16, 16)
exported = torch.export.export(model.train(), (x,)).module()


def constants():
    norm, dropout = (
        next(n for n in exported.graph.nodes if word in str(n.target)) for word in ("batch_norm", "dropout")
    )
    return (*(a for a in norm.args if isinstance(a, float)), dropout.args[1])


def show(title):
    momentum, eps, drop = found = constants()
    print(f"{title:18} norm (momentum, eps) {momentum:g}, {eps:g}".ljust(58) + f"dropout {drop:g}")
    return found


exact = show("as exported")
move_exported_model_to_eval(exported)
evaluated = show("moved to eval")
with torch.no_grad():
    ratio = float((exported(x) / model.eval()(x)).mean())
move_exported_model_to_train(exported)
trained = show("moved to train")
print(f"outputs in evaluation: {ratio:.3f} times those of model.eval()")
sys.exit(not (exact == (0.01, 1e-3, 0.1) and evaluated == trained == (0.1, 1e-5, 0.5) and abs(ratio - 1.407) < 0.01))
PY
"$folder/venv/bin/python" "$folder/move.py"
