#!/usr/bin/env bash
# torch.autograd.function.once_differentiable is there so that a function whose backward is not differentiable raises an error
# when it is differentiated twice. It only does where the gradient that arrives at the function requires one itself. After
# `loss.sum()`, the usual case, that gradient is a constant, so what backward returns has no graph at all: create_graph=True gives a
# gradient with requires_grad=False, and a gradient penalty that is added to a loss is a constant. It has a value, is
# logged and falls by itself, and trains nothing; no error, no warning. With anything trained behind the function
# (here a factor w) the error comes.
#
# Seen 2026-11-28 with torch 2.15.0 (CPU), x = 2, the function x^3, the loss x + (d x^3 / dx)^2, whose derivative is 289:
#   plain torch: x.grad = 289
#   once_differentiable, summed: no error, the first gradient requires a gradient: False, x.grad = 1
#   once_differentiable, times a trained w: RuntimeError
# A guess that fails: "a function marked once_differentiable can never give wrong second derivatives in silence".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy
cat > "$folder/once.py" <<'PY'
import sys

import torch
from torch.autograd.function import once_differentiable


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


def penalized(function):
    """The derivative of x + (d function / dx)^2 at 2, and whether the first gradient has one."""
    x = torch.tensor([2.0], requires_grad=True)
    (first,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    (x.sum() + first.square().sum()).backward()
    return x.grad.item(), first.requires_grad


true, _ = penalized(lambda x: x**3)
print(f"plain torch: x.grad = {true:g}")
found, has = penalized(Cube.apply)
print(f"once_differentiable, summed: no error, the first gradient requires a gradient: {has}, x.grad = {found:g}")
w = torch.ones(1, requires_grad=True)
try:
    penalized(lambda x: w * Cube.apply(x))
    raised = "nothing"
except RuntimeError:
    raised = "RuntimeError"
print(f"once_differentiable, times a trained w: {raised}")
sys.exit(not (true == 289 and found == 1 and not has and raised == "RuntimeError"))
PY
"$folder/venv/bin/python" "$folder/once.py"
