#!/usr/bin/env bash
# torcheval's top-k accuracy counts the classes that score higher than the right one, so every tie is a hit: a network whose
# outputs are all NaN, or all the same, has a top-5 accuracy of 100 % over 1,000 classes, and one whose bfloat16 logits share
# a common offset nearly that, since bfloat16 has 4 levels per 0.25 around 10. hit_rate and reciprocal_rank count alike. With
# k=1 the same function takes the argmax, and finds chance. scikit-learn ranks tied classes by their index; it and torch's topk
# give chance for both k, or refuse NaN.
#
# Seen 2026-11-30 with torcheval 0.0.7, torch 2.15.0, scikit-learn 1.9.1, NumPy 2.4.6, Python 3.11.7, CPU; 2,000 labels drawn
# from 1,000 classes, so that chance is 0.1 and 0.5 %:
#   noise, float32: top-1 0.1 %, top-5 0.4 %, hit rate 0.4 %, reciprocal rank 0.007; top-5 by torch's topk 0.4 %, scikit-learn 0.4 %
#   noise / 100 + 10, float32: top-1 0.1 %, top-5 0.4 %, hit rate 0.4 %, reciprocal rank 0.007; top-5 by torch's topk 0.4 %, scikit-learn 0.4 %
#   noise / 100 + 10, bfloat16: top-1 0.1 %, top-5 99.8 %, hit rate 99.8 %, reciprocal rank 0.651; top-5 by torch's topk 0.4 %, scikit-learn 0.4 %
#   all 0: top-1 0.1 %, top-5 100.0 %, hit rate 100.0 %, reciprocal rank 1.000; top-5 by torch's topk 0.4 %, scikit-learn 0.5 %
#   all NaN: top-1 0.1 %, top-5 100.0 %, hit rate 100.0 %, reciprocal rank 1.000; top-5 by torch's topk 0.4 %, scikit-learn refused
# A guess that fails: "top-5 accuracy is top-1 accuracy with 5 in place of 1" and "a network that has collapsed shows a bad figure".
# What works: (logits.float().topk(5).indices == labels[:, None]).any(1), after a check that the logits are finite and not tied.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torcheval==0.0.7 torch==2.15.0 scikit-learn==1.9.1 numpy==2.4.6 typing_extensions
cat > "$folder/ties.py" <<'PY'
import sys
import warnings

warnings.filterwarnings("ignore")
import numpy as np
import torch
from sklearn.metrics import top_k_accuracy_score
from torcheval.metrics.functional import hit_rate, multiclass_accuracy, reciprocal_rank

torch.manual_seed(0)
labels = torch.randint(1000, (2000,))
noise = torch.randn(2000, 1000)
ok = []
for name, logits, wrong in (
    ("noise, float32", noise, False),
    ("noise / 100 + 10, float32", noise / 100 + 10, False),
    ("noise / 100 + 10, bfloat16", (noise / 100 + 10).bfloat16(), True),
    ("all 0", torch.zeros(2000, 1000), True),
    ("all NaN", torch.full((2000, 1000), float("nan")), True),
):
    one, five = (100 * multiclass_accuracy(logits, labels, k=k).item() for k in (1, 5))
    hits = 100 * hit_rate(logits, labels, k=5).mean().item()
    rank = reciprocal_rank(logits, labels).mean().item()
    topk = 100 * (logits.topk(5).indices == labels[:, None]).any(1).float().mean().item()
    other = "refused" if logits.isnan().any() else f"{100 * top_k_accuracy_score(labels, logits.float(), k=5, labels=np.arange(1000)):.1f} %"
    print(
        f"  {name}: top-1 {one:.1f} %, top-5 {five:.1f} %, hit rate {hits:.1f} %, reciprocal rank {rank:.3f}; "
        f"top-5 by torch's topk {topk:.1f} %, scikit-learn {other}"
    )
    ok += [one < 0.3, (five > 99) == wrong, (hits > 99) == wrong, topk < 1.5]
sys.exit(not all(ok))
PY
"$folder/venv/bin/python" "$folder/ties.py"
