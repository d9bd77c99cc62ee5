"""Bundles to and from the Hugging Face Hub, with the real client (extra ``hub``), and their model cards."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from nextify.system.files import write_text_atomic
from nextify.weights.bundle import WEIGHTS_FILE, About, load_bundle, save_bundle
from nextify.weights.class_names import CLASSES_FILE
from nextify.weights.naming import WeightsError

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
    """Download a model from the Hub and give its local directory.

    Args:
        hub_id: ``owner/name``, with ``@revision`` behind it or beside it.
        revision: a branch, tag or commit.
        cache_dir: another cache than the client's own.
        offline: use only what is in the cache.

    Raises:
        WeightsError: there is no such model, or no way to reach it.
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
        raise WeightsError(f"{name} could not be had from the Hub: {first}") from error
    return Path(folder)


def push(bundle: str | Path, hub_id: str, *, private: bool = False, message: str = "Upload with nextify") -> str:
    """Upload a bundle with a generated model card, as one commit; gives the commit's address.

    Args:
        bundle: a bundle's directory or file. A README.md of your own in the directory is kept.
        hub_id: ``owner/name``; created where it does not exist.
        private: of a repository created here.
        message: of the commit.
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
    """``README.md`` for the Hub: YAML front matter, how to load it, preprocessing, figures with their provenance."""
    title = about.name or "ConvNet"
    p = about.preprocessing
    yes_no = {True: "yes", False: "no"}
    front = [
        "---",
        f"license: {_yaml(about.licence)}",
        "library_name: nextify",
        "pipeline_tag: image-classification",
        "tags:",
        "- image-classification",
        "- convnext" if "convnext" in title else "- convnet",
        *_results(about, title),
        "---",
    ]
    size = f"{p.size[0]}×{p.size[1]}"
    resize = f"short side to {p.resize_size}, center crop" if p.fit == "crop" else "both sides"
    body = [
        f"# {title}",
        "",
        f"{about.num_classes} classes, images of {about.in_channels} channels. Licence: {about.licence}."
        + (f" Source: {about.source}." if about.source else ""),
        "",
        "```python",
        "from PIL import Image",
        "from nextify.weights import load",
        "",
        f'loaded = load("hf:{hub_id}")',
        'logits = loaded.model(loaded.preprocessing(Image.open("image.jpg"))[None])',
        "```",
        "",
        "## Preprocessing",
        "",
        f"{size} pixels; {resize}; {p.interpolation}, antialiased: {yes_no[p.antialias]} (ratio {p.crop_ratio:.3f}); "
        f"mean {p.mean}, std {p.std} of pixels from 0 to 1.",
        "",
        "## Figures",
        "",
    ]
    if about.recipe is not None and about.recipe.test_mirror == "on":
        body += ["Measured on the mean of each image's logits and its mirror image's.", ""]
    if about.metrics:
        body += ["| metric | value | data | images | measured by |", "|---|---|---|---|---|"]
        body += [
            f"| {m.name} | {m.value:g} | {m.dataset} | {m.images or 'not stated'} | {m.provenance or 'not stated'} |"
            for m in about.metrics
        ]
    else:
        body.append("None stated.")
    body += ["", "## Design", "", "```json", json.dumps(_plain(about), indent=1), "```", ""]
    return "\n".join([*front, "", *body])


def _plain(about: About) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "design": asdict(about.design),
        "recipe": None if about.recipe is None else about.recipe.to_dict(),
    }


def _results(about: About, title: str) -> list[str]:
    """The front matter's ``model-index``, which the Hub shows as results."""
    if not about.metrics:
        return []
    lines = ["model-index:", f"- name: {_yaml(title)}", "  results:"]
    for metric in about.metrics:
        lines += [
            "  - task:",
            "      type: image-classification",
            "    dataset:",
            f"      name: {_yaml(metric.dataset)}",
            f"      type: {_yaml(metric.dataset)}",
            "    metrics:",
            f"    - type: {_yaml(metric.name)}",
            f"      value: {metric.value:g}",
        ]
    return lines


def _yaml(text: str) -> str:
    """A YAML scalar: JSON strings are YAML."""
    return text if text and all(c.isalnum() or c in "-._" for c in text) else json.dumps(text, ensure_ascii=False)
