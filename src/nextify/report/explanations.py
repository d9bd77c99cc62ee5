"""Explanations written out: a heat map on each image (PNG), JSON, and an HTML page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from nextify.report.template import render
from nextify.report.text import percent
from nextify.system.files import make_folder, write_bytes_atomic, write_json_atomic, write_text_atomic

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from nextify.deploy.explain import Curve, Explanation


def write(found: Sequence[Explanation], out: Path) -> list[Path]:
    """Write ``explanations.html``, ``explanations.json`` and two PNGs per image; return their paths, the page first."""
    make_folder(out)
    pictures, cards = [], []
    for number, one in enumerate(found, 1):
        stem = f"{number}-{re.sub(r'[^A-Za-z0-9._-]+', '-', Path(one.path).stem)[:60]}"
        seen, overlay = out / f"{stem}.png", out / f"{stem}-{one.method}.png"
        write_bytes_atomic(seen, _png(one.pixels))
        write_bytes_atomic(overlay, _png(one.overlay()))
        pictures += [seen, overlay]
        cards.append((one, seen.name, overlay.name, _points(one.deletion), _points(one.insertion)))
    write_json_atomic(out / "explanations.json", [one.to_dict() for one in found])
    write_text_atomic(out / "explanations.html", render("explanations.html.jinja", cards=cards, percent=percent))
    return [out / "explanations.html", out / "explanations.json", *pictures]


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _points(curve: Curve) -> tuple[str, str]:
    """The curve and the random one as an SVG polyline's points in a box of 100 by 60."""
    last = len(curve.values) - 1
    return tuple(  # type: ignore[return-value]
        " ".join(f"{100 * i / last:.1f},{60 - 60 * value:.1f}" for i, value in enumerate(values))
        for values in (curve.values, curve.random)
    )
