"""docs/results/README.md from the committed studies, docs/results/*/results.json: each table with its provenance.

Command:  python tools/results_pages.py [--check]
"""

from __future__ import annotations

import sys

from generated import ROOT, write_or_check

from nextify.report.tables import markdown
from nextify.report.text import study_title
from nextify.study.results import StudyResults

NOTES = {
    "cifar10": "CIFAR-10 (Krizhevsky, 2009) re-encoded as JPEG: accuracies can lie slightly below those on the "
    "original pixels.",
    "cifar10-tiny": "Three epochs of the paper's recipe, fitted: networks that learn fast are ahead, and nothing is "
    "said of long trainings. CIFAR-10 (Krizhevsky, 2009) re-encoded as JPEG. Other work ran on the same cores during "
    "part of the trainings, so their images/s are low and uneven; the times of one image and of batches were measured "
    "with nothing beside them, on a processor shared with other machines.",
    "line-up": "The first of two runs in succession (commit 55beb20). The processor is shared with other "
    "machines: a 2048³ matrix product in fp32 ran at 129 to 185 GFLOP/s before, between and after (3 tries each). "
    "The weights of the undisturbed ratio were chosen by four pairs before this one, over which it differed by 2.0 "
    "% from run to run where the median did by 2.5 (root mean square of 192; the last of them, commit df53cb8, by "
    "medians 46 of 48, the largest 5.5 %). Those four runs together, an hour long, agree in 286 of 288 undisturbed "
    "ratios, the largest difference 5.7 %, and in 265 medians. Before: medians 44 (commit 4cd91c6), 43 (f90d094, "
    "three passes), 47 (c1667f1, before ConvNeXt had matrix products of its own) and 45 (4bd122f, all rounds of a "
    "size together, which gave latency exponents of 1.02 and 0.62, since the machine became faster on the way).",
    "line-up-again": "The second run.",
    "h200-line-up": "On an NVIDIA H200 beside 16 cores of an Intel Xeon at 2.1 GHz, up to 1024² (commit 882fb77, "
    "each kernel of ours called by way of Triton). Ended after the time that was left: two or three rounds of "
    "three, without `--why`. At 224², and in training up to 384², networks waited for their calls: a round's speed "
    "there depends on the processor, and only from 384² on do batches of 64 show the GPU (rounds within 2 % of each"
    " other). From there to 1024² images/s fall as pixels^0.97 (ConvNeXt-T), 0.96 (Swin-T), 0.95 (isotropic "
    "ConvNeXt-S), 0.92 (ResNet-50) and 1.67 (DeiT-S), by the two ends. What did not fit beside the others ran by "
    "itself.",
    "h200-table-12": "ConvNeXt beside Swin, the paper's Table 12, on an NVIDIA H200 beside 16 cores of an Intel "
    "Xeon at 2.1 GHz (commit 882fb77). Swin is timm's, in channels-last memory like ConvNeXt. Our ConvNeXt runs "
    "with its own kernels between the matrix products; with cuDNN's, ConvNeXt-T gave 6,520 images/s in batches of "
    "64, and over Swin-T 1.41 (before that commit, batches of 32, one round). Ended after the time that was left: "
    "inference is complete, training was measured for two networks, one round.",
    "h200-table-12-384": "The same at 384², with Swin's windows of 12. Ended in training, of which there are "
    "fewer rounds.",
    "line-up-xeon": "On another processor, less busy, by five calls a turn as before. Peak memory: not measured. From "
    "the second size on, each process read the peak of the one that had started it (and the networks were measured one "
    "after the other without need); these figures were struck out and the reading is mended.",
}
"""What a reader must know of a data set beside its figures, by the folder's name."""


def page() -> str:
    """All studies on one page."""
    parts = [
        "# Our own figures",
        "",
        "<!-- Made by tools/results_pages.py; do not edit. -->",
        "",
        "Each table was written by the command beneath it. The raw list of trainings is in `results.json`",
        "([schema](../results-schema.md)). Studies on a CUDA GPU: not measured; costs there: [compare.md](compare.md).",
        "",
    ]
    for path in sorted((ROOT / "docs" / "results").glob("*/results.json")):
        results = StudyResults.read(path)
        folder = path.parent.name
        parts += [f"## {study_title(results)}", ""]
        parts += [NOTES[folder], ""] if folder in NOTES else []
        parts += [f"![bars of top-1 by step]({folder}/roadmap.png)", "", markdown(results)]
        parts += [f"Files: [results.json]({folder}/results.json), [results.csv]({folder}/results.csv)", ""]
    return "\n".join(parts).rstrip("\n") + "\n"


if __name__ == "__main__":
    sys.exit(write_or_check({"docs/results/README.md": page()}, "results_pages.py"))
