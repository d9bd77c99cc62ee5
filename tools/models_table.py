"""Generate docs/models.md from the code: ``python tools/models_table.py [--check]``."""

from __future__ import annotations

import sys

from generated import write_or_check

from nextify.networks.layout import cost
from nextify.networks.zoo import designs
from nextify.paper.design import DESIGNS
from nextify.paper.published import MODELS, published_gflops, published_top1
from nextify.paper.roadmap import ROADMAPS

HEADER = "| name | parameters | multiply-adds | G as printed | top-1 %, printed |\n|---|--:|--:|--:|--:|"

INTRODUCTION = """Every name works in `nextify.create_model(name)`, `nextify show`, `nextify diff` and `nextify models`.
Parameters include a 1000-class head; multiply-adds count convolutions and linear layers for one 224×224 RGB image.
Accuracies are the paper's (arXiv 2201.03545v2, ImageNet-1K, 224×224), not ours; – means that it gives none.
`convnext_pooled` and `resnet_pooled` are our own designs, for small images and training from scratch
([results](training.md#cifar-10-from-scratch-on-two-cpu-cores)).
"""


def table(names: list[str]) -> str:
    known = designs()
    lines = [HEADER]
    for name in names:
        price, top1 = cost(known[name]), published_top1(name)
        shown = "–" if top1 is None else f"{top1:.2f}" if name.startswith("resnet") else f"{top1:.1f}"
        gflops = published_gflops(name)
        printed = "–" if gflops is None else f"{gflops:.2f}" if name.startswith("resnet") else f"{gflops:.1f}"
        lines.append(f"| `{name}` | {price.parameters:,} | {price.macs:,} | {printed} | {shown} |")
    return "\n".join(lines)


def published_table() -> str:
    lines = [
        "| name | top-1, 384² | top-1, 22K → 1K, 224² | top-1, 22K → 1K, 384² | parameters as printed |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, model in MODELS.items():
        accuracies = (model.top1_384, model.top1_in22k, model.top1_in22k_384)
        shown = " | ".join("–" if a is None else f"{a:.1f}" for a in accuracies)
        lines.append(f"| `{name}` | {shown} | {model.parameters_millions:g} M |")
    return "\n".join(lines)


def document() -> str:
    sections = [
        "# Models\n\n<!-- Made by tools/models_table.py; do not edit. -->\n",
        INTRODUCTION,
        "## Families\n\n" + table(list(DESIGNS)) + "\n",
        "Further accuracies from the paper:\n\n" + published_table() + "\n",
    ]
    for regime, roadmap in ROADMAPS.items():
        rows = table([f"{regime}_{row.name}" for row in roadmap])
        sections.append(f"## {roadmap.title}, step by step\n\n{rows}\n")
    sections.append(
        "Two rows of the first roadmap cost less than the paper says: [both figures](design.md#two-published-costs).\n"
    )
    return "\n".join(sections)


def files() -> dict[str, str]:
    return {"docs/models.md": document()}


if __name__ == "__main__":
    sys.exit(write_or_check(files(), "models_table.py"))
