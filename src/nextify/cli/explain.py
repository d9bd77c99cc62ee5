"""``nextify explain BUNDLE IMAGE…``: where a network looks, and what its heat maps are worth."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from nextify.cli.options import UNSET, Json, Threads, check_folder, check_weights
from nextify.cli.printing import note, print_columns, print_json
from nextify.paper.settings import Range
from nextify.system.text import printable
from nextify.training.trial import runtime


@dataclass(frozen=True, kw_only=True)
class Options:
    """Draw what speaks for a class in each image, and check the maps: deletion, insertion, random weights.

    Unreadable images are reported on stderr; the others are still explained, and the exit code is 1.
    """

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """A bundle left by nextify train, or other weights: a file, hf:owner/name or timm:name."""
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE …")]
    """Files, folders (searched recursively), or patterns such as 'photos/**/*.jpg'."""
    method: Literal["grad-cam", "grad-cam++", "hirescam", "integrated-gradients"] = "grad-cam"
    """How; integrated-gradients needs pip install 'nextify[explain]'."""
    index: Annotated[Annotated[int, Range(least=0, most=10**6)] | None, UNSET] = None
    """Index of the class to explain, from 0. Default: each image's most probable one."""
    out: Path = Path("explanations")
    """Folder for the maps (PNG), explanations.json and explanations.html."""
    threads: Threads = None
    """CPU threads. Default: all."""
    json: Json = False

    def check(self) -> None:
        """Raises ``ValueError`` for no image, ``FileNotFoundError`` for no bundle, ``UnusableFolder`` for --out."""
        if not self.images:
            raise ValueError("no image given: name files, folders or patterns after the bundle")
        check_weights(self.bundle)
        check_folder(self.out)


def run(options: Options) -> int:
    import torch

    from nextify.deploy.explain import Explanation, explain
    from nextify.evaluation.predict import Prediction
    from nextify.report.explanations import write

    torch.set_num_threads(runtime("cpu", options.threads).threads)
    answers = list(explain(options.bundle, options.images, options.method, options.index))
    found = [one for one in answers if isinstance(one, Explanation)]
    failed = [one for one in answers if isinstance(one, Prediction)]
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
        print_columns(("image", "class", "probability", "deletion", "insertion", "random weights"), rows)
        print(f"written: {written[0]}")
    for one in found:
        if not one.depends_on_weights:
            note(f"{one.path}: the map hardly depends on the weights, so it explains nothing of the network")
    for unread in failed:
        print(f"nextify: {printable(unread.path)}: {printable(unread.error)}", file=sys.stderr)
    return 1 if failed else 0
