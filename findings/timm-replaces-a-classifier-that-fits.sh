#!/usr/bin/env bash
# timm throws away the classifier of a checkpoint that fits the model. create_model(name, num_classes=7, pretrained=True,
# pretrained_cfg_overlay={"file": ...}), the way to start from one's own file, compares the model's 7 classes with the 1000 that
# the model's configuration states, not with the file, and leaves the new random classifier in place of the file's trained one.
# Nothing warns, the other tensors are loaded, and accuracy is that of chance until it is trained again. checkpoint_path, or
# num_classes=7 within the overlay as well, keep it.
#
# Seen 2026-11-30 with timm 1.0.31, torch 2.15.0, torchvision 0.29.2, Python 3.11.7, CPU; convnext_atto with 7 classes, saved and
# loaded, largest difference of its logits from those before:
#   overlay with file: logits off by 30.63; all other tensors are the file's: True
#   overlay with file and num_classes: logits off by 0.00; all other tensors are the file's: True
#   checkpoint_path: logits off by 0.00; all other tensors are the file's: True
# A guess that fails: "weights whose names and shapes are the model's are loaded".
# What works: checkpoint_path="x7.pth" without pretrained=True, or {"file": "x7.pth", "num_classes": 7}.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check timm==1.0.31 torch==2.15.0 torchvision==0.29.2
cat > "$folder/classifier.py" <<'PY'
import sys
import warnings

warnings.filterwarnings("ignore")
import timm
import torch

file = f"{sys.argv[1]}/x7.pth"
torch.manual_seed(0)
saved = timm.create_model("convnext_atto", num_classes=7).eval()
torch.nn.init.normal_(saved.head.fc.weight)
torch.save(saved.state_dict(), file)
images = torch.randn(2, 3, 64, 64)
ok = []
for name, options, same in (
    ("overlay with file", {"pretrained": True, "pretrained_cfg_overlay": {"file": file}}, False),
    ("overlay with file and num_classes", {"pretrained": True, "pretrained_cfg_overlay": {"file": file, "num_classes": 7}}, True),
    ("checkpoint_path", {"checkpoint_path": file}, True),
):
    model = timm.create_model("convnext_atto", num_classes=7, **options).eval()
    with torch.no_grad():
        off = (model(images) - saved(images)).abs().max().item()
    others = all(torch.equal(value, saved.state_dict()[key]) for key, value in model.state_dict().items() if "head.fc" not in key)
    ok += [(off == 0) == same, others]
    print(f"  {name}: logits off by {off:.2f}; all other tensors are the file's: {others}")
sys.exit(not all(ok))
PY
"$folder/venv/bin/python" "$folder/classifier.py" "$folder"
