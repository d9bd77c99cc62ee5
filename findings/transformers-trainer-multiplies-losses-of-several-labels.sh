#!/usr/bin/env bash
# The Trainer of transformers multiplies loss and gradient by gradient_accumulation_steps where images have several labels
# (problem_type "multi_label_classification", and "regression" too). It leaves the division by the steps to networks that
# pass on how many labels there are; ViT, DINOv2, DeiT, Swin and their kin do, and their loss divides by it, if there is
# one label per image. The loss for several labels takes that number, drops it, and averages over each small batch. So the
# same network, with the same options, trains right on one task and with 8 times the rate on the next, or is clipped there at
# every step. Losses that are logged are as many times too large; losses of an evaluation are right. ConvNeXt is right.
# (Issue 47688, open, is about networks that do not pass the number on, and whose losses of one label grow too.)
#
# Seen 2026-11-30 with transformers 5.23.0, accelerate 1.15.0, torch 2.15.0 (CPU), NumPy 2.4.6, Python 3.11.7; 8 images in one
# step, in batches of 8, 2 and 1; loss that is logged, and how far one step of SGD moves the classifier's bias:
#   ViT, single_label_classification: 1 batch 1.355, 0.2161; 4 batches 1.355, 0.2161; 8 batches 1.355, 0.2161
#   ViT, multi_label_classification: 1 batch 0.694, 0.0143; 4 batches 2.777, 0.0573; 8 batches 5.554, 0.1147
#   ConvNeXt, single_label_classification: 1 batch 1.382, 0.2609; 4 batches 1.382, 0.2609; 8 batches 1.382, 0.2609
#   ConvNeXt, multi_label_classification: 1 batch 0.696, 0.0051; 4 batches 0.696, 0.0051; 8 batches 0.696, 0.0051
# A guess that fails: "accumulating gradients over more, smaller batches is the same step".
# What works: trainer.loss_is_scaled_for_ga = False for such a task (and only for it).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  transformers==5.23.0 accelerate==1.15.0 torch==2.15.0 numpy==2.4.6
cat > "$folder/steps.py" <<'PY'
import contextlib
import io
import math
import sys

import torch
import transformers
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

transformers.logging.set_verbosity_error()
IMAGES, CLASSES = 8, 4
draw = torch.Generator().manual_seed(1)
images = torch.randn(IMAGES, 3, 32, 32, generator=draw)
labels = {
    "single_label_classification": torch.randint(CLASSES, (IMAGES,), generator=draw),
    "multi_label_classification": torch.randint(2, (IMAGES, CLASSES), generator=draw).float(),
}


def network(name: str, task: str) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    if name == "ViT":
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = ViTConfig(image_size=32, patch_size=8, num_labels=CLASSES, problem_type=task, **sizes)
        return ViTForImageClassification(config)
    config = ConvNextConfig(depths=[1] * 4, hidden_sizes=[8] * 4, num_labels=CLASSES, problem_type=task)
    return ConvNextForImageClassification(config)


def step(name: str, task: str, batches: int) -> tuple[float, float]:
    """Loss that is logged, and how far the bias moves, in one step."""
    model = network(name, task)
    before = model.classifier.bias.detach().clone()
    options = TrainingArguments(
        sys.argv[1], per_device_train_batch_size=IMAGES // batches, gradient_accumulation_steps=batches, max_steps=1,
        learning_rate=1.0, lr_scheduler_type="constant", optim="sgd", max_grad_norm=0, logging_steps=1, report_to=[],
        save_strategy="no", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    data = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels[task], strict=True)]
    trainer = Trainer(model, options, train_dataset=data)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    return trainer.state.log_history[0]["loss"], float((model.classifier.bias.detach() - before).norm())


grown = []
for name in ("ViT", "ConvNeXt"):
    for task in labels:
        found = {batches: step(name, task, batches) for batches in (1, 4, 8)}
        each = (f"{n} batch{'es' * (n > 1)} {loss:.3f}, {moved:.4f}" for n, (loss, moved) in found.items())
        print(f"{name}, {task}:", "; ".join(each))
        ratios = [found[8][part] / found[1][part] for part in (0, 1)]
        wanted = 8 if (name, task) == ("ViT", "multi_label_classification") else 1
        grown.append(all(math.isclose(ratio, wanted, rel_tol=1e-3) for ratio in ratios))
sys.exit(not all(grown))
PY
HF_HUB_OFFLINE=1 HF_HOME="$folder/home" "$folder/venv/bin/python" "$folder/steps.py" "$folder/run"
