"""docs/results/README.md from the committed studies, docs/results/*/results.json: each table with its provenance.

Command:  python tools/results_pages.py [--check]
"""

from __future__ import annotations

import json
import sys

from generated import ROOT, write_or_check

from nextify.report.table import markdown
from nextify.report.text import data_name, path_title

NOTES = {
    "cifar10": "CIFAR-10 (Krizhevsky, 2009) re-encoded as JPEG: accuracies can lie slightly below those on the "
    "original pixels.",
    "cifar10-tiny": "Three epochs of the paper's recipe, fitted: networks that learn fast are ahead, and nothing is "
    "said of long trainings. CIFAR-10 (Krizhevsky, 2009) re-encoded as JPEG. Other work ran on the same cores during "
    "part of the trainings, so their images/s are low and uneven; the times of one image and of batches were measured "
    "with nothing beside them, on a processor shared with other machines.",
    "line-up": "The first of two runs in succession. Between them the ratios to ConvNeXt-T agree within 5 % in all 16 "
    "at batch 1, in 7 of 16 in batches of 8 and in 10 of 16 in training, where the first round of a network is often "
    "slow: memory was given back to the system and got again. `nextify compare` has kept it since: in two runs of "
    "`nextify compare --sizes 224 --minutes 1.5`, the eight ratios at batch 1 and in training agreed within 4 %; the "
    "whole line-up has not been run again on this processor. Peak memory: not measured. From the second size on, each "
    "process read the peak of the one that had started it (and the networks were measured one after the other without "
    "need); these figures were struck out and the reading is mended.",
    "line-up-again": "The second run.",
    "line-up-epyc": "On another processor, since memory is kept, peak memory is read from the process itself, small "
    "sizes get more rounds and the rounds are fitted to the time left. The processor is shared with other machines: a "
    "2048³ matrix product ran at 88 to 189 GFLOP/s within 30 seconds (n = 249, median 163). Beside two earlier runs of "
    "that day there, the ratios to ConvNeXt-T agree within 5 % in 11 and 9 of 16 at batch 1 and in 11 and 11 of 16 in "
    "training: runs that agree within 5 % throughout have not been seen.",
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
        "([schema](../results-schema.md)). On a CUDA GPU: not measured.",
        "",
    ]
    for path in sorted((ROOT / "docs" / "results").glob("*/results.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        folder = path.parent.name
        parts += [f"## {path_title(results)} on {data_name(results)}", ""]
        parts += [NOTES[folder], ""] if folder in NOTES else []
        parts += [f"![bars of top-1 by step]({folder}/roadmap.png)", "", markdown(results)]
        parts += [f"Files: [results.json]({folder}/results.json), [results.csv]({folder}/results.csv)", ""]
    return "\n".join(parts).rstrip("\n") + "\n"


if __name__ == "__main__":
    sys.exit(write_or_check({"docs/results/README.md": page()}, "results_pages.py"))
