#!/usr/bin/env bash
# A network that AOTInductor compiled for a plain (N, 1, H, W) input gives other results for equal numbers with the
# strides of channels last: (N, H, W, 1) images, permuted, as NumPy and OpenCV deliver gray ones. That channels last is
# misread is known, and so is the remedy, x.contiguous(). Here it does nothing: torch calls the tensor contiguous
# already, since the stride of an axis of length 1 does not count, and returns it as it is. So does NumPy's
# ascontiguousarray. Neither loading nor calling checks strides. Eager torch and torch.export's own program are right.
#
# Seen 2026-11-29 with torch 2.15.0 (CPU), g++ 12.2.0, Python 3.11.7, largest difference to eager torch:
#   plain (256, 256, 16, 1): program 0.0e+00, AOTInductor 0.0e+00
#   permuted (256, 1, 16, 1): program 0.0e+00, AOTInductor 1.8e-01
#   permuted, contiguous() (256, 1, 16, 1): program 0.0e+00, AOTInductor 1.8e-01
#   permuted, cloned (256, 256, 16, 1): program 0.0e+00, AOTInductor 0.0e+00
# A guess that fails: what is_contiguous() calls contiguous can be given to a compiled network.
# What works: x.clone(memory_format=torch.contiguous_format), or comparing x.stride().
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy
cat > "$folder/run.py" <<'PY'
import torch
from torch import nn

torch.manual_seed(0)
layers = nn.Conv2d(1, 8, 4, 4), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
model = nn.Sequential(*layers).eval()
permuted = torch.randn(2, 16, 16, 1).permute(0, 3, 1, 2)
plain = permuted.clone(memory_format=torch.contiguous_format)
assert permuted.is_contiguous() and torch.equal(permuted, plain)

program = torch.export.export(model, (plain,))
compiled = torch._inductor.aoti_load_package(torch._inductor.aoti_compile_and_package(program))
ways = {
    "plain": plain,
    "permuted": permuted,
    "permuted, contiguous()": permuted.contiguous(),
    "permuted, cloned": permuted.clone(memory_format=torch.contiguous_format),
}
found = []
with torch.inference_mode():
    expected = model(plain)
    for name, x in ways.items():
        differences = [float((run(x) - expected).abs().max()) for run in (program.module(), compiled)]
        print(f"{name} {x.stride()}: program {differences[0]:.1e}, AOTInductor {differences[1]:.1e}")
        found.append([difference > 1e-3 for difference in differences])
assert found == [[False, False], [False, True], [False, True], [False, False]], "it has changed"
PY
cd "$folder"
TORCHINDUCTOR_CACHE_DIR="$folder/cache" "$folder/venv/bin/python" run.py
