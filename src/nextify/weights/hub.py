"""Bundles to and from the Hugging Face Hub, with the real client (extra ``hub``), and their model cards."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextify.system.files import write_text_atomic
from nextify.system.text import printable, templates
from nextify.tasks.metric_specs import is_telling
from nextify.weights.bundle import WEIGHTS_FILE, About, load_bundle, save_bundle
from nextify.weights.class_names import CLASSES_FILE
from nextify.weights.dialects import licence_terms
from nextify.weights.naming import WeightsError

if TYPE_CHECKING:
    from jinja2 import Environment

_WANTED = (WEIGHTS_FILE, "pytorch_model.bin", "*.json", CLASSES_FILE, "README.md")


def _client() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise WeightsError("the Hub needs its client: pip install 'nextify[hub]'") from error
    return huggingface_hub


def pull(
    hub_id: str, *, revision: str | None = None, cache_dir: str | Path | None = None, offline: bool = False
) -> Path:
    """Download a model from the Hub and return its local directory.

    Args:
        hub_id: ``owner/name``, or ``owner/name@revision``.
        revision: a branch, tag or commit.
        cache_dir: a cache other than the client's own.
        offline: use only what is in the cache.

    Raises:
        WeightsError: there is no such model, or the Hub cannot be reached.
    """
    hub = _client()
    name, _, at = hub_id.removeprefix("hf:").partition("@")
    try:
        folder = hub.snapshot_download(
            name,
            revision=revision or at or None,
            cache_dir=cache_dir,
            local_files_only=offline,
            allow_patterns=list(_WANTED),
        )
    except Exception as error:  # the client's errors share no base class: HTTP, validation, cache and OS errors
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{name} could not be fetched from the Hub: {first}") from error
    return Path(folder)


def push(bundle: str | Path, hub_id: str, *, private: bool = False, message: str = "Upload with nextify") -> str:
    """Upload a bundle with a generated model card, as one commit, and return its address.

    Args:
        bundle: a bundle's directory or file. A README.md of your own in the directory is kept.
        hub_id: ``owner/name``; created where it does not exist.
        private: whether a repository created here is private.
        message: the commit's message.
    """
    hub = _client()
    content = load_bundle(bundle)
    name = hub_id.removeprefix("hf:")
    with tempfile.TemporaryDirectory() as folder:
        ready = save_bundle(Path(folder) / "bundle", content.state, content.about)
        own = Path(bundle) / "README.md"
        text = own.read_text(encoding="utf-8") if own.is_file() else model_card(content.about, name)
        write_text_atomic(ready / "README.md", text)
        client = hub.HfApi()
        client.create_repo(name, private=private, exist_ok=True)
        commit = client.upload_folder(repo_id=name, folder_path=str(ready), commit_message=message)
    return str(commit)


def model_card(about: About, hub_id: str = "owner/name") -> str:
    """``README.md`` for the Hub: YAML front matter, how to load it, preprocessing, figures with their provenance.

    Text of the bundle (names, sources, licences) is escaped, so that it can change neither the front matter nor the
    layout of the page.
    """
    settings = {"design": asdict(about.design), "recipe": None if about.recipe is None else about.recipe.to_dict()}
    metrics = [metric for metric in about.metrics if is_telling(metric.name, about.num_classes)]
    template = _templates().get_template("model_card.md.jinja")
    return template.render(
        about=about,
        metrics=metrics,
        title=about.name or "ConvNet",
        hub_id=hub_id,
        p=about.preprocessing,
        settings=settings,
        terms=licence_terms(about.licence),
    )


@lru_cache(maxsize=1)
def _templates() -> Environment:
    from markupsafe import Markup

    def plain(value: object) -> object:
        """Text on one line, with backslashes before Markdown's markup, and control characters escaped."""
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        line = re.sub(r"[\\`*\[\]|]|~(?=~)|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(value.split()))
        return printable(line)

    made = templates("nextify.weights", finalize=plain)
    made.filters["yaml"] = lambda text: Markup(_yaml(text))
    made.filters["literal"] = lambda value: Markup(
        json.dumps(value, indent=1 if isinstance(value, dict) else None, ensure_ascii=False)
    )
    return made


def _yaml(text: str) -> str:
    """A YAML scalar: JSON strings are YAML, but for control characters that JSON leaves as they are."""
    if text and all(c.isalnum() or c in "-._" for c in text):
        return text
    return re.sub(r"[\x7f-\x9f\u2028\u2029]", lambda c: f"\\u{ord(c[0]):04x}", json.dumps(text, ensure_ascii=False))
