"""``nextify quantize BUNDLE --data PATH``: int8 that keeps its accuracy, or the best that does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from nextify.cli.options import Folder, Json, Reading, Seed, Threads, check_replaced, check_weights
from nextify.data.source import check_source
from nextify.paper.settings import Range


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write a bundle in int8 if that is faster and shown to keep its accuracy, otherwise in bf16 or fp32.

    Training images are used to calibrate. Some of the held-out images are used to choose between candidates; the
    others, unseen until then, test the chosen one.
    """

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """A bundle left by nextify train, or other weights."""
    data: str
    """digits, cifar10, hf:OWNER/NAME, or a path, with training and held-out images."""
    max_drop: Annotated[float, Range(least=0, most=100)] = 0.5
    """Largest loss of top-1 that is accepted, in points, with 95 % confidence."""
    to: Literal["openvino", "onnx"] = "openvino"
    seed: Seed = 0
    """Seed of the choice of images."""
    out: Folder = None
    """Folder to write. Default: next to the bundle, named BUNDLE-FORMAT-quantized."""
    threads: Threads = None
    """CPU threads. Default: all."""
    json: Json = False
    reading: OmitArgPrefixes[Reading] = Reading()

    def check(self) -> None:
        """Raises ``FileNotFoundError``, ``SourceError`` or ``UnusableFolder`` for what is not there, and ``ValueError``
        where something else would be overwritten."""
        check_weights(self.bundle)
        check_source(self.data)
        check_replaced(self.folder, self.bundle)

    @property
    def folder(self) -> Path:
        """The one to write."""
        return self.out or default_folder(self.bundle, f"{self.to}-quantized")


def default_folder(bundle: str, ending: str) -> Path:
    """Next to a bundle on disk; in the current folder for weights from elsewhere."""
    path = Path(bundle).expanduser()
    if not path.exists():
        return Path(f"{path.name.replace(':', '-')}-{ending}")
    path = path.resolve()
    return path.with_name(f"{path.name if path.is_dir() else path.stem}-{ending}")


run = "nextify.cli.quantizing:run_quantize"
