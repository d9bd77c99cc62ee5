"""What a comparison was asked for, kept in its results.json, so that no comparison replaces the results of another."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nextify.compare.entries import is_path
from nextify.compare.settings import Settings
from nextify.data import Images
from nextify.report.text import listing
from nextify.study.results import Json
from nextify.system.files import UnusableFolder, parse_json
from nextify.weights.bundle import WEIGHTS_FILE, located, sha256


def request(
    settings: Settings,
    images: Images | None,
    threads: int | None,
    counts: bool,
    recipe: str,
    weights: Mapping[str, str],
) -> Json:
    """What decides which figures a comparison has, as JSON has it.

    How often they are measured, seeds and epochs are left out: the same comparison may be repeated with more of them.
    ``settings`` and ``threads`` are those that were asked for; ``recipe`` and ``weights`` count where there are images.
    """
    asked: Json = {"models": [_content(name) if is_path(name) else name for name in settings.models]}
    asked |= {"sizes": list(settings.sizes), **asdict(settings.conditions), "threads": threads, "counts": counts}
    asked |= {"batch_sizes": list(settings.batch_sizes), "training_batch_size": settings.training_batch_size}
    asked |= {"head": settings.head, "images": None, "image_size": None, "recipe": None, "weights": None}
    if images is not None:
        asked |= {"images": images.fingerprint, "image_size": settings.fitted_to, "recipe": recipe}
        asked |= {"weights": {name: _content(source) for name, source in weights.items()}}
    return asked


def _content(source: str) -> str:
    """The SHA-256 of weights on disk, as another training's may take their place; anything else as it is."""
    path = located(source)
    path = path / WEIGHTS_FILE if path.is_dir() else path
    return sha256(path) if path.is_file() else source


def check_other_results(out: Path, asked: Json) -> None:
    """Raise ``UnusableFolder`` where ``out`` holds the results of another comparison, or of something else; damaged
    ones may be replaced."""
    path = out / "results.json"
    try:
        found: Any = parse_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return
    theirs = found.get("asked") if isinstance(found, dict) else None
    if not isinstance(theirs, dict):
        raise UnusableFolder(f"{path} is not of this comparison and would be replaced: choose another --out")
    if other := [name.replace("_", " ") for name, value in asked.items() if theirs.get(name) != value]:
        raise UnusableFolder(
            f"{out} holds another comparison (not the same {listing(other)}), whose results would be lost: choose "
            f"another --out"
        )
