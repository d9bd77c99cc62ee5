#!/usr/bin/env bash
# onnx's own ReferenceEvaluator, the judge of other runtimes, normalizes as many channels as there are images in the batch. Its
# LRN (local response normalization, of AlexNet and GoogLeNet) loops over the first axis where it is to loop over channels:
# of one image only channel 0 is divided by its neighbours, the other channels only by bias to the power of beta, and the same
# image gives another result in a batch of two. Its LpNormalization sums powers without absolute values: with p=1, where signs
# cancel, it divides by the plain sum. onnxruntime does both as the specification says. Nothing warns.
#
# Seen 2026-11-30 with onnx 1.23.2, onnxruntime 1.32.0, NumPy 2.4.6, Python 3.11.7; images of 4 channels, 5x5 pixels:
#   LRN, 1 images: reference off by 5.49, in 3 of 4 channels; onnxruntime off by 0.00
#   LRN, 2 images: reference off by 6.11, in 2 of 4 channels; onnxruntime off by 0.00
#   LRN, 4 images: reference off by 0.00, in 0 of 4 channels; onnxruntime off by 0.00
#   LpNormalization, 1 images: reference off by 16.20, in 4 of 4 channels; onnxruntime off by 0.00
#   LpNormalization, 2 images: reference off by 16.20, in 4 of 4 channels; onnxruntime off by 0.00
#   LpNormalization, 4 images: reference off by 16.20, in 4 of 4 channels; onnxruntime off by 0.00
# A guess that fails: "the reference is right, or at least does not mix up the axes".
# What works: onnxruntime, or formulas by hand, as the second opinion for these two operators.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/norms.py" <<'PY'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

SIZE, ALPHA, BETA, BIAS = 3, 0.5, 0.75, 2.0
images = np.random.default_rng(0).normal(0, 5, (4, 4, 5, 5)).astype(np.float32)


def model(operator: str, **attributes: float):
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4, 5, 5]) for name in "xy"]
    return helper.make_model(helper.make_graph([node], "norm", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def lrn(x: np.ndarray) -> np.ndarray:
    squares = np.pad(x.astype(float) ** 2, ((0, 0), (1, 1), (0, 0), (0, 0)))
    near = sum(squares[:, i : i + x.shape[1]] for i in range(SIZE))
    return x / (BIAS + ALPHA / SIZE * near) ** BETA


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.abs(x.astype(float)).sum(1, keepdims=True)


ok = []
for name, hand, proto in (
    ("LRN", lrn, model("LRN", size=SIZE, alpha=ALPHA, beta=BETA, bias=BIAS)),
    ("LpNormalization", unit, model("LpNormalization", axis=1, p=1)),
):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 2, 4):
        x = images[:count]
        off = []
        for out in (ReferenceEvaluator(proto).run(None, {"x": x})[0], session.run(None, {"x": x})[0]):
            difference = np.abs(out - hand(x)).max((0, 2, 3))
            off.append((int((difference > 1e-3).sum()), difference.max()))
        (wrong, most), (_, runtime) = off
        print(f"{name}, {count} images: reference off by {most:.2f}, in {wrong} of 4 channels; onnxruntime off by {runtime:.2f}")
        ok.append((wrong, bool(runtime < 1e-3)))
sys.exit(ok != [(3, True), (2, True), (0, True), (4, True), (4, True), (4, True)])
PY
"$folder/venv/bin/python" "$folder/norms.py"
