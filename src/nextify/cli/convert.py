"""``nextify convert SRC DST --to …``: convert weights from one library's format to another's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from nextify.cli.options import UNSET, ClassNames, check_weights
from nextify.cli.printing import note
from nextify.system.text import printable


@dataclass(frozen=True)
class Options:
    """Convert weights between official ConvNeXt, timm, torchvision, Hugging Face and nextify."""

    source: Annotated[Positional[str], arg(metavar="SRC")]
    """The weights to read: a file or directory from any of these, hf:owner/name, or timm:name."""
    destination: Annotated[Positional[Path], arg(metavar="DST")]
    """The file or directory to write: a .safetensors, a .pth, or a directory."""
    to: Literal["official", "timm", "torchvision", "huggingface", "nextify"]
    """The library whose tensor names and shapes to write; nextify writes a bundle."""
    design: Annotated[str | None, UNSET] = None
    """The weights' design; needed only for nextify weights without metadata that fit several designs."""
    class_order: ClassNames = None

    def check(self) -> None:
        """Raises ``FileNotFoundError`` where there are no weights."""
        check_weights(self.source)


def run(options: Options) -> int:
    from nextify.weights import convert

    done = convert(
        options.source, options.destination, options.to, design=options.design, class_order=options.class_order
    )
    note(*done.notes)
    name = printable(done.about.name) or "an unnamed design"
    print(f"{name}: {done.tensors} tensors from {done.source} to {done.target}, in {done.path}")
    print(f"licence: {printable(done.about.licence)}")
    return 0
