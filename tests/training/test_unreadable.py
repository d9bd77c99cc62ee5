"""An image that is found bad during a training costs neither the training nor its steps so far."""

from __future__ import annotations

import gc
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nextify.cli import main
from nextify.data import DataError, Images, open_images
from nextify.paper.recipe import RandomResized
from nextify.system.files import UnusableFolder
from nextify.system.lease import taken
from nextify.training.result import of_earlier_versions
from nextify.training.train import train
from tests.helpers import noise, save_noise


@pytest.mark.parametrize("workers", [0, 1])
def test_the_same_command_goes_on_without_the_image(workers: int, tmp_path: Path) -> None:
    root, out = tmp_path / "set", tmp_path / "out"
    for i in range(20):
        for part in ("train", "val"):
            save_noise(root / part / "ab"[i % 2] / f"{i}.png", i, size=(16, 16))
    buffer = io.BytesIO()
    Image.fromarray(noise(99, 16, 16)).save(buffer, "TIFF", compression="tiff_adobe_deflate")
    with Image.open(buffer) as image:
        (start,) = image.tag_v2[273]  # type: ignore[attr-defined]
    damaged = bytearray(buffer.getvalue())
    damaged[start : start + 40] = b"\xff" * 40
    (root / "train" / "b" / "bad.tif").write_bytes(damaged)

    def images(skip: bool) -> Images:
        return open_images(str(root), decoded_limit=0, cache=out / "cache", skip_unreadable=skip)

    asked: dict[str, Any] = {"epochs": 2, "scale": "tiny", "image_size": 16, "workers": workers, "threads": 1}
    asked |= {"settings": {"batch_size": 4, "crop": RandomResized()}}
    with pytest.raises(DataError, match=r"train/b/bad.tif cannot be read .*resumes from step") as caught:
        train("convnext_atto", images(False), out=out, **asked)
    (folder,) = out.glob("*/checkpoint.pt")
    step = int(str(caught.value).rpartition(" ")[2])
    del caught
    gc.collect()  # ends the worker that the error's traceback holds, as the end of a command does
    steps: list[int] = []
    result = train("convnext_atto", images(True), out=out, progress=lambda p: steps.append(p.step), **asked)
    assert result.bundle.parent == folder.parent
    assert not steps or min(steps) >= step
    report = json.loads((folder.parent / "preflight.json").read_text())
    assert ["train/b/bad.tif"] in report["left_out"].values()
    assert "bad.tif" not in (folder.parent / "split.csv").read_text()


@pytest.mark.parametrize(
    "command", [("train", "convnext_atto", "--scale", "tiny", "--epochs", "1"), ("roadmap", "--steps", "baseline")]
)
def test_the_option_of_commands_that_train(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(40):
        save_noise(tmp_path / "set" / "ab"[i % 2] / f"{i}.png", i, size=(16, 16))
    (tmp_path / "set" / "a" / "bad.png").write_bytes(b"no image")
    asked = [*command, "--data", str(tmp_path / "set"), "--out", str(tmp_path / "out"), "--threads", "1", "--dry-run"]
    assert main(asked) == 2
    assert "leave them out with --skip-unreadable" in capsys.readouterr().err
    assert main([*asked, "--skip-unreadable"]) == 0
    assert "1 image cannot be read and is left out: a/bad.png" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint.pt.before", "result.json", "recipe.json", "log.jsonl"])
def test_a_pipe_among_the_results_is_named(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UnusableFolder, match=rf"{name} is not a regular file: move it elsewhere"), taken(tmp_path):
        pass
    if name.endswith(".json"):
        with pytest.raises(UnusableFolder, match="is not a regular file"):
            of_earlier_versions([tmp_path])
