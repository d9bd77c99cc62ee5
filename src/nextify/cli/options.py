"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import arg

ClassOrder = Annotated[
    str | None,
    arg(
        metavar="imagefolder|natural|data|FILE",
        help="For weights that do not name their classes: the order they were trained in (imagefolder: torchvision and "
        "Hugging Face; natural: timm; data: as the images number them), or a file of the names, one per line or JSON.",
    ),
]
ClassNames = Annotated[
    str | None,
    arg(
        metavar="FILE",
        help="For weights that do not name their classes: a file of the names in order, one per line or JSON.",
    ),
]
