#!/usr/bin/env bash
# onnxoptimizer turns zeros around an image into minus infinity. Its default passes fuse a Pad with zeros into the pool behind
# it. A pool's own padding is no zero, though: MaxPool never chooses it. So where all values near the border are negative,
# the zero that was the largest value there is gone. After a ReLU nothing changes, which hides it; Keras' ResNet50V2 pads the
# output of its first convolution, before any activation. A Pad with minus infinity, which could be fused, is left alone. An
# AveragePool that has padding of its own and does not count it counts it after the fusion. Nothing warns, the shapes are right.
#
# Seen 2026-11-30 with onnxoptimizer 0.4.2, onnx 1.23.2, NumPy 2.4.6, Python 3.11.7; an image of 8x8 of mean -2, pools of 3x3, all
# run by onnx's ReferenceEvaluator and compared with sums by hand:
#   zeros, MaxPool of pads 0: off by 0.00, optimized to MaxPool: off by 1.87 in 28 of 64
#   minus infinity, MaxPool of pads 0: off by 0.00, optimized to Pad + MaxPool: off by 0.00 in 0 of 64
#   zeros, AveragePool of pads 0: off by 0.00, optimized to AveragePool: off by 0.00 in 0 of 64
#   zeros, AveragePool of pads 1: off by 0.00, optimized to AveragePool: off by 0.46 in 36 of 100
# A guess that fails: "an optimizer's default passes keep what a model computes".
# What works: onnxoptimizer.optimize(model, [p for p in onnxoptimizer.get_fuse_and_elimination_passes() if p != "fuse_pad_into_pool"]).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxoptimizer==0.4.2 onnx==1.23.2 numpy==2.4.6
cat > "$folder/pools.py" <<'PY'
import sys

import numpy as np
import onnxoptimizer
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

image = np.random.default_rng(0).normal(-2, 1, (1, 1, 8, 8)).astype(np.float32)


def network(pool: str, fill: float, pads: int):
    """An image, padded by one pixel on each side, and a pool of 3x3."""
    values = {"by": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "fill": np.array(fill, np.float32)}
    nodes = [
        helper.make_node("Pad", ["image", "by", "fill"], ["padded"]),
        helper.make_node(pool, ["padded"], ["out"], kernel_shape=[3, 3], pads=4 * [pads]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, *size]) for name, size in (("image", (8, 8)), ("out", "hw"))]
    stored = [numpy_helper.from_array(value, name) for name, value in values.items()]
    return helper.make_model(helper.make_graph(nodes, "pool", ends[:1], ends[1:], stored), opset_imports=[helper.make_opsetid("", 18)])


def by_hand(pool: str, fill: float, pads: int) -> np.ndarray:
    padded = np.pad(image[0, 0].astype(float), 1, constant_values=fill)
    padded = np.pad(padded, pads, constant_values=np.nan)  # the pool's own padding: neither a maximum nor counted
    windows = sliding_window_view(padded, (3, 3))
    return np.nanmax(windows, (2, 3)) if pool == "MaxPool" else np.nanmean(windows, (2, 3))


found = []
for pool, fill, pads in (("MaxPool", 0.0, 0), ("MaxPool", -np.inf, 0), ("AveragePool", 0.0, 0), ("AveragePool", 0.0, 1)):
    model = network(pool, fill, pads)
    optimized = onnxoptimizer.optimize(model)
    true = by_hand(pool, fill, pads)
    before, after = (np.abs(ReferenceEvaluator(m).run(None, {"image": image})[0][0, 0] - true) for m in (model, optimized))
    nodes = [node.op_type for node in optimized.graph.node]
    wrong = (after > 1e-4).sum()
    print(f"zeros, {pool} of pads {pads}:" if fill == 0 else f"minus infinity, {pool} of pads {pads}:", end=" ")
    print(f"off by {before.max():.2f}, optimized to {' + '.join(nodes)}: off by {after.max():.2f} in {wrong} of {true.size}")
    found.append((before.max() < 1e-4, wrong > 0, "Pad" in nodes))
sys.exit(found != [(True, True, False), (True, False, True), (True, False, False), (True, True, False)])
PY
"$folder/venv/bin/python" "$folder/pools.py"
