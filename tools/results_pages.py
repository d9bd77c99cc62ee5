"""docs/results/README.md from the committed studies, docs/results/*/results.json: each table with its provenance.

Also their rows in docs/ledger.md, between the comments that name this file.

Command:  python tools/results_pages.py [--check]
"""

from __future__ import annotations

import sys

from generated import ROOT, write_or_check

from nextify.report.tables import markdown
from nextify.report.text import mean_std, path_title, study_title
from nextify.study.results import StudyResults

STUDIES = sorted((ROOT / "docs" / "results").glob("*/results.json"))

NOTES = {
    "cifar10": "CIFAR-10 (Krizhevsky, 2009) re-encoded as JPEG, so accuracies can be slightly below those on the "
    "original pixels. Scale and epochs were chosen so that the 42 runs take about 8 hours on 2 cores: they took 8.0 "
    "hours, two side by side, in five sittings. Other work ran on the same cores for much of the time, so "
    "images/s are low and uneven.\n\n"
    "Is the paper’s direction there? For 8 of the 13 changes it is: training technique, depthwise conv, width, "
    "inverted bottleneck, moving the depthwise conv up, GELU, fewer activations and fewer norms. Stage ratio, "
    "patchify stem, kernel size 7, BN → LN and separate downsampling gain in the paper and lose here. Each change has "
    "the same sign in all three seeds; only four have a verdict (training technique higher; depthwise conv, moving it "
    "up and BN → LN lower). For the roadmap as a whole it is not: the training technique gains 15.2 points (2.7 in "
    "the paper), but the twelve changes to the network lose 15.6, where they gain 3.2 in the paper, so that ConvNeXt "
    "ends about where ResNet with its own recipe began. Longer training, larger images and other scales were not "
    "measured.",
    "cifar10-tiny": "Three epochs of the paper's recipe, fitted: this favours networks that learn fast and says "
    "nothing about long runs. CIFAR-10 (Krizhevsky, 2009) re-encoded as JPEG. Other work ran on the same cores "
    "during part of the training runs, so their images/s are low and uneven. The times of single images and of batches "
    "were measured with nothing else running, on a CPU shared with other machines.",
    "scenes-detection": "Average precision of boxes on `scenes`, images composed of scikit-learn’s digits. Other "
    "work ran on the same cores now and then, so images/s are low and uneven.",
    "scenes-segmentation": "Mean IoU on `scenes`. Other work ran on the same cores for most of the time, and the study "
    "was interrupted twice and resumed, so images/s are low and uneven.",
    "line-up": "The first of two runs in succession (commit 55beb20). The CPU is shared with other machines: "
    "a 2048³ matrix product in fp32 ran at 129 to 185 GFLOP/s before, between and after (3 tries each). The weights "
    "of the ratio were chosen on four earlier pairs of runs, over which it differed by 2.0 % from run to run where "
    "the median differed by 2.5 % (root mean square of 192 ratios). Of the last of these pairs (commit df53cb8), 46 "
    "of 48 medians agreed within 5 %, the largest difference being 5.5 %. Those four runs taken together, an hour "
    "long, agree in 286 of 288 ratios, the largest difference being 5.7 %, and in 265 medians. In earlier pairs 44 "
    "(commit 4cd91c6), 43 (f90d094, three passes), 47 (c1667f1, before ConvNeXt had its own matrix products) and 45 "
    "medians agreed (4bd122f, all rounds of a size together, which gave latency exponents of 1.02 and 0.62 because "
    "the machine became faster along the way).",
    "line-up-again": "The second run.",
    "h200-line-up": "On an NVIDIA H200 with 16 cores of an Intel Xeon at 2.1 GHz, up to 1024² (commit 882fb77, each "
    "of our kernels called through Triton). Stopped when its time was up, after two or three rounds of three and "
    "without `--why`. At 224², and in training up to 384², the networks waited for their calls, so a round's speed "
    "there depends on the CPU; only from 384² on do batches of 64 show the GPU (rounds within 2 % of each "
    "other). From there to 1024², images/s fall as pixels^0.97 (ConvNeXt-T), 0.96 (Swin-T), 0.95 (isotropic "
    "ConvNeXt-S), 0.92 (ResNet-50) and 1.67 (DeiT-S), from the two end points. What did not fit with the others "
    "ran by itself.",
    "h200-table-12": "ConvNeXt next to Swin, as in the paper's Table 12, on an NVIDIA H200 with 16 cores of an Intel "
    "Xeon at 2.1 GHz (commit 882fb77). Swin is timm's, in channels-last memory like ConvNeXt. Our ConvNeXt runs with "
    "its own kernels between the matrix products; with cuDNN's, ConvNeXt-T gave 6,520 images/s in batches of 64, 1.41 "
    "times Swin-T's (before that commit, batches of 32, one round). Stopped when its time was up: inference is "
    "complete, and training was measured for two networks in one round.",
    "h200-table-12-384": "The same at 384², with Swin's windows of 12. Stopped during training, which therefore has "
    "fewer rounds.",
    "line-up-xeon": "On another, less busy CPU, with five calls per turn, the setting at that time. Peak memory: not "
    "measured. From the second size on, each process read the peak of the process that had started it (and the "
    "networks ran one after the other without need); those figures were removed, and the reading has been fixed.",
}
"""What a reader must know of a data set beside its figures, by the folder's name."""


def page() -> str:
    """All studies on one page."""
    parts = [
        "# Our own figures",
        "",
        "<!-- Made by tools/results_pages.py; do not edit. -->",
        "",
        "Each table was written by the command beneath it. The raw list of runs is in `results.json`",
        "([schema](../results-schema.md)). Studies on a CUDA GPU: not measured; costs there: [compare.md](compare.md).",
        "",
    ]
    for path in STUDIES:
        results = StudyResults.read(path)
        folder = path.parent.name
        parts += [f"## {study_title(results)}", ""]
        parts += [NOTES[folder], ""] if folder in NOTES else []
        parts += [f"![bars of {results.metric.title} by step]({folder}/roadmap.png)", "", markdown(results)]
        parts += [f"Files: [results.json]({folder}/results.json), [results.csv]({folder}/results.csv)", ""]
    return "\n".join(parts).rstrip("\n") + "\n"


def ledger() -> str:
    """The ledger with a row for each study."""
    text = (ROOT / "docs" / "ledger.md").read_text(encoding="utf-8")
    start, end = "<!-- Made by tools/results_pages.py; do not edit. -->\n", "<!-- End of what is made. -->"
    before, rest = text.split(start)
    return f"{before}{start}{studies_table()}{end}{rest.split(end)[1]}"


def studies_table() -> str:
    lines = [
        "| what | metric | first row → last row, % | n | data | hardware | command |",
        "|---|---|---|--:|---|---|---|",
    ]
    for path in STUDIES:
        results = StudyResults.read(path)
        study, place, (first, *_, last) = results.study, results.environment, results.rows
        data = f"{study.data.train_images:,} training and {study.data.test_images:,} test images, {study.image_size}²"
        cells = (
            f"{path_title(results)}, scale {study.scale}",
            results.metric.title,
            f"{mean_std(first.mean, first.std)} → {mean_std(last.mean, last.std)}",
            str(last.n),
            f"[{study.data.name}](results/{path.parent.name}/results.json): {data}",
            f"{place['cpu']}, {place['cores']} cores, torch {place['torch']}, {place['date']}",
            f"`{study.command}`",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def files() -> dict[str, str]:
    return {"docs/results/README.md": page(), "docs/ledger.md": ledger()}


if __name__ == "__main__":
    sys.exit(write_or_check(files(), "results_pages.py"))
