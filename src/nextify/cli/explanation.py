"""Running ``nextify explain``, and printing what was found."""

import torch

from nextify.cli.explain import Options
from nextify.cli.prediction import failures
from nextify.cli.printing import note, print_columns, print_json
from nextify.deploy.explain import Explanation, explain
from nextify.evaluation.predict import Prediction, without_own
from nextify.report.explanations import write
from nextify.system.text import printable
from nextify.training.trial import runtime

HEADER = ("image", "class", "probability", "deletion (random order)", "insertion (random order)", "random weights")


def run_explanation(options: Options) -> int:
    torch.set_num_threads(runtime("cpu", options.threads).threads)
    earlier = [options.out] if (options.out / "explanations.json").exists() else []
    images = without_own(options.images, earlier)
    answers = list(explain(options.bundle, images, options.method, options.index))
    found = [one for one in answers if isinstance(one, Explanation)]
    written = write(found, options.out) if found else []
    if options.json:
        print_json([one.to_dict() for one in found])
    elif found:
        rows = [
            (
                printable(one.path),
                printable(one.label),
                f"{100 * one.probability:.2f} %",
                f"{one.deletion.area:.3f} ({one.deletion.random_area:.3f})",
                f"{one.insertion.area:.3f} ({one.insertion.random_area:.3f})",
                f"{one.random_agreement:.2f}",
            )
            for one in found
        ]
        print_columns(HEADER, rows)
        print(f"written: {written[0]}")
    for one in found:
        if not one.depends_on_weights:
            note(f"{one.path}: the map hardly depends on the weights, so it explains nothing about the network")
        elif not one.beats_chance:
            note(f"{one.path}: the map orders the pixels no better than chance")
    return failures([one for one in answers if isinstance(one, Prediction)])
