"""``nextify explain BUNDLE IMAGE…``: where a network looks, and what its heat maps are worth."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from nextify.cli.options import UNSET, Json, Threads, check_folder, check_images_named, check_weights, unset
from nextify.paper.settings import Range


@dataclass(frozen=True, kw_only=True)
class Options:
    """Draw what speaks for a class in each image, and check the maps by deletion, insertion and random weights.

    Unreadable images are reported on stderr; the others are still explained, and the exit code is 1.
    """

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """A bundle left by nextify train, or other weights: a file, hf:owner/name or timm:name."""
    images: Annotated[Positional[tuple[str, ...]], unset(metavar="IMAGE …")]
    """Files, folders (searched recursively), or patterns such as 'photos/**/*.jpg'."""
    method: Literal["grad-cam", "grad-cam++", "hirescam", "integrated-gradients"] = "grad-cam"
    """How the maps are made; integrated-gradients needs pip install 'nextify[explain]'."""
    index: Annotated[Annotated[int, Range(least=0, most=10**6)] | None, UNSET] = None
    """Index of the class to explain, from 0. Default: each image's most probable one."""
    out: Path = Path("explanations")
    """Folder for the maps (PNG), explanations.json and explanations.html."""
    threads: Threads = None
    """CPU threads. Default: all."""
    json: Json = False

    def check(self) -> None:
        """Raises ``ValueError`` for no image, ``FileNotFoundError`` for no bundle, ``UnusableFolder`` for --out."""
        check_images_named(self.images)
        check_weights(self.bundle)
        check_folder(self.out)


run = "nextify.cli.explanation:run_explanation"
