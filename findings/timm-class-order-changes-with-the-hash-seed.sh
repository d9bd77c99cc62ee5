#!/usr/bin/env bash
# timm numbers classes by a natural sort of a *set* of names. Names that the sort cannot tell apart ("1" and "01",
# "Ant" and "ant") keep the set's order, which is that of Python's string hashes. So the same folder gives another
# class_to_idx in another process: a head trained in one is evaluated against other classes in the next.
#
# Seen 2026-11-28 with timm 1.0.31 (torch 2.15.0, torchvision 0.29.2, Python 3.11.7, CPU): four hash seeds, four orders.
# A guess that fails: "the order of the class folders is a function of their names".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check timm==1.0.31 torch==2.15.0 torchvision==0.29.2
cat > "$folder/order.py" <<'PY'
import sys
from pathlib import Path

from PIL import Image
from timm.data import create_dataset

root = Path(sys.argv[1])
for name in ("Ant", "ant", "1", "01"):
    (root / name).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(root / name / "a.png")
print(create_dataset("", str(root)).reader.class_to_idx)
PY
for seed in 0 1 2 3; do
    echo "PYTHONHASHSEED=$seed $(PYTHONHASHSEED=$seed "$folder/venv/bin/python" "$folder/order.py" "$folder/images" | tee -a "$folder/orders")"
done
orders=$(sort -u "$folder/orders" | wc -l)
echo "$orders orders of the same four classes"
[ "$orders" -gt 1 ]  # fails once timm breaks ties by the name itself
