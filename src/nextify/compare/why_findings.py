"""What ``compare.why`` measured, in sentences about layout, precision and operators. Pure functions on plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nextify.evaluation.profiling import median

Row = Mapping[str, Any]
WORTH_SAYING = 0.05
"""Share of the time from which an operator is named."""


def why_findings(why: Sequence[Row], families: Mapping[str, str]) -> Iterator[str]:
    """Sentences about layout, precision and operators, each from the figures of one network."""
    for one in why:
        variants = {(v["layout"], v["precision"]): v for v in one["variants"]}
        precisions = list(dict.fromkeys(precision for _, precision in variants))
        place = f"{one['model']} at {one['image_size']}² in batches of {one['batch_size']}"
        if families.get(one["model"]) in ("ResNet", "ConvNeXt", "isotropic ConvNeXt", "other"):
            for precision in precisions:
                pair = variants["contiguous", precision], variants["channels_last", precision]
                yield _costs(f"{place}, {precision}", "NCHW (contiguous)", "channels-last", *pair)
        for precision in precisions[1:]:
            pair = variants["channels_last", precision], variants["channels_last", precisions[0]]
            yield _costs(place, precision, precisions[0], *pair)
        yield from _operators(place, variants)


def _costs(place: str, name: str, other: str, ours: Row, theirs: Row) -> str:
    changes = [100 * (a / b - 1) for a, b in zip(ours["rounds_ms"], theirs["rounds_ms"], strict=True)]
    low, middle, high = min(changes), median(changes), max(changes)
    spread = f"n = {len(changes)} rounds, {low:+.0f} to {high:+.0f} %".replace("-", "−")
    if low <= 0 <= high:
        return f"{place}: {name} and {other} cannot be told apart in time ({spread})."
    if middle > 0:
        return f"{place}: {name} takes {middle:.0f} % more time than {other} ({spread})."
    return f"{place}: {name} takes {-middle:.0f} % less time than {other} ({spread})."


def _operators(place: str, variants: Mapping[tuple[str, str], Row]) -> Iterator[str]:
    for precision in dict.fromkeys(precision for _, precision in variants):
        shares = variants["channels_last", precision]["shares"]
        named = [f"{kind} {100 * share:.0f} %" for kind, share in shares.items() if share >= WORTH_SAYING]
        yield f"{place}, {precision}, channels-last: {', '.join(named)} of the time (one profiled call)."
    depthwise = {place: v["shares"].get("depthwise convolutions", 0.0) for place, v in variants.items()}
    if max(depthwise.values()) >= WORTH_SAYING:
        names = {"contiguous": "NCHW", "channels_last": "NHWC"}
        said = ", ".join(f"{100 * share:.0f} % in {names[layout]} {p}" for (layout, p), share in depthwise.items())
        yield f"{place}: depthwise convolutions take {said} of the time."
