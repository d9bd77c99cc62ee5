#!/usr/bin/env bash
# torch's group_norm on a CPU is several times slower on a channels_last map than on a contiguous one, forward and backward,
# though convolutions are faster channels_last and the usual advice is to convert the whole network. With many small groups
# of a bfloat16 map (32 groups, 64 channels: a detector's head) the detour of a contiguous copy there and back costs far
# less than it saves. layer_norm over the last axis has no such step.
#
# Seen 2026-11-29 with torch 2.15.0 on an AMD EPYC, Python 3.11.7, one thread, medians of 15:
#   channels_last 7.93 ms, contiguous 0.40 ms, ratio 19.9
# A guess that fails: "memory format changes the speed of norms by little, and channels_last is the faster one".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy
cat > "$folder/measure.py" <<'PY'
import statistics
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
weight, bias = torch.ones(64, dtype=torch.bfloat16), torch.zeros(64, dtype=torch.bfloat16)


def milliseconds(layout: torch.memory_format) -> float:
    x = torch.randn(8, 64, 12, 16).bfloat16().contiguous(memory_format=layout).requires_grad_()
    grad = torch.randn(8, 64, 12, 16).bfloat16().contiguous(memory_format=layout)
    taken = []
    for _ in range(20):
        start = time.process_time()
        F.group_norm(x, 32, weight, bias).backward(grad)
        taken.append(1e3 * (time.process_time() - start))
    return statistics.median(taken[5:])


last, first = [], []
for _ in range(3):  # in turn
    last.append(milliseconds(torch.channels_last))
    first.append(milliseconds(torch.contiguous_format))
slow, fast = min(last), min(first)
print(f"channels_last {slow:.2f} ms, contiguous {fast:.2f} ms, ratio {slow / fast:.1f}")
assert slow > 3 * fast, "no longer several times slower"
PY
"$folder/venv/bin/python" "$folder/measure.py"
