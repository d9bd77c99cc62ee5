#!/usr/bin/env bash
# In torch 2.11.0 torch.compiler.is_exporting() is True inside of torch.compile, although it is documented to be
# True under torch.export only: Dynamo folds the call into the constant True, together with is_compiling(). Code that
# leaves its custom operators out while a graph is exported, as the documentation's example shows, leaves them out of
# every compiled graph too: same results, no error, and the kernels are never called. In eager code it is False, as it
# should be. The flag behind it, torch.compiler._is_exporting_flag, is right in all three. torch 2.15.0 reads the flag.
#
# Seen 2026-11-29 with torch 2.11.0 (CPU), Python 3.11.7:
#   eager: is_exporting() False, flag False
#   compile: is_exporting() True, flag False
#   export: is_exporting() True, flag True
# (with torch 2.15.0 the second line reads: compile: is_exporting() False, flag False)
# A guess that fails: "is_compiling() and not is_exporting()" tells torch.compile from torch.export.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.11.0 numpy
cat > "$folder/ask.py" <<'PY'
import torch
from torch import nn


class Asked(nn.Module):
    """Adds 1 where torch says that it exports, and 10 where its flag says so."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_exporting():
            x = x + 1
        if torch.compiler._is_exporting_flag:
            x = x + 10
        return x


def said(run: nn.Module) -> tuple[bool, bool]:
    found = int(run(torch.zeros(1)))
    return bool(found % 10), found >= 10


model = Asked()
ways = {
    "eager": model,
    "compile": torch.compile(model, fullgraph=True, backend="eager"),
    "export": torch.export.export(model, (torch.zeros(1),), strict=True).module(),
}
found = {name: said(run) for name, run in ways.items()}
for name, (called, flag) in found.items():
    print(f"{name}: is_exporting() {called}, flag {flag}")
assert found == {"eager": (False, False), "compile": (True, False), "export": (True, True)}, "it has changed"
PY
"$folder/venv/bin/python" "$folder/ask.py"
