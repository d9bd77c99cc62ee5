"""``nextify doctor``, the completion of commands, and what errors say at their end."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from nextify.cli import COMMANDS, GROUPS, SEE, main, speed
from nextify.system import environment, native
from tests.helpers import Captured


def report(capsys: Captured, *arguments: str, code: int = 0) -> dict[str, dict[str, dict[str, str]]]:
    assert main(["doctor", "--json", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.err == ""
    return {title: {one["name"]: one for one in found} for title, found in json.loads(captured.out).items()}


def test_the_quick_report_names_versions_machine_extras_and_folders(capsys: Captured) -> None:
    found = report(capsys, "--quick")
    assert list(found) == ["versions", "machine", "extras", "folders"]
    assert found["versions"]["torch"]["found"] == environment.version("torch")
    assert found["machine"]["instructions"]["found"] == native.level()
    assert found["extras"]["data"]["found"] == "installed"
    assert "GiB free" in found["folders"]["results"]["note"]


def test_the_report_for_people_has_the_same_lines(capsys: Captured) -> None:
    assert main(["doctor", "--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line and not line.startswith((" ", "!"))] == [
        "versions", "machine", "extras", "folders"
    ]  # fmt: skip
    assert any(line.split()[:2] == ["torch", environment.version("torch")] for line in lines)


def test_what_is_missing_or_too_old_is_named_with_its_remedy(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    real = environment.version
    monkeypatch.setattr(environment, "version", lambda name: {"timm": "1.0.2", "scipy": None}.get(name, real(name)))
    found = report(capsys, "--quick", code=1)["versions"]
    assert [name for name, one in found.items() if one["wrong"]] == ["timm", "scipy"]
    assert "pip install 'timm" in found["timm"]["note"]


def test_an_extra_that_is_missing_says_what_it_would_bring(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    real = environment.version
    monkeypatch.setattr(environment, "version", lambda name: None if name == "captum" else real(name))
    found = report(capsys, "--quick")["extras"]["explain"]
    assert found["found"] is None
    assert found["note"].startswith("integrated gradients")
    assert found["note"].endswith("pip install 'nextify[explain]' (captum)")


def test_a_folder_that_may_not_be_written_is_named(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.chdir(tmp_path)
    found = report(capsys, "--quick", code=1)["folders"]["results"]
    assert found["note"] == f"{tmp_path} may not be written"


def test_a_file_in_the_place_of_a_folder_and_a_deleted_folder_are_named(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "deleted").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.chdir(tmp_path / "deleted")
    (tmp_path / "deleted").rmdir()
    found = report(capsys, "--quick", code=1)["folders"]
    assert found["downloads"]["note"] == f"{tmp_path / 'file'} may not be written"
    assert "was deleted" in found["results"]["note"]
    assert not found["compiled kernels"]["wrong"]  # the temporary directory takes its place


def test_a_folder_that_may_not_be_looked_into_is_named(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    found = report(capsys, "--quick", code=1)["folders"]
    assert found["downloads"]["note"].endswith("nextify: Permission denied")


def test_the_whole_report_says_which_kernels_ran(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SECONDS", 0.01)
    found = report(capsys)
    assert found["devices"]["cpu"]["found"]
    assert set(found["kernels"]) >= {"affine", "jpeg", "gelu", "blocks"}
    assert all(one["note"] for one in found["kernels"].values())
    assert {"inference", "training"} <= set(found["speed"])
    assert " ms per batch" in found["speed"]["training"]["note"]


def test_commands_are_grouped_by_what_one_wants(capsys: Captured) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    places = [text.index(f"\n{title}:\n") for title in GROUPS]
    assert places == sorted(places)
    assert all(
        line.split()[1] in COMMANDS for line in text.partition("Examples:\n")[2].splitlines() if "  nextify" in line
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_takes_the_completion_of_all_commands(capsys: Captured) -> None:
    assert main(["--completion", "bash"]) == 0
    script = capsys.readouterr().out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=20)
    assert all(name in script for name in COMMANDS)
    typed = "COMP_WORDS=(nextify train --kernels o); COMP_CWORD=3; _tyro_nextify nextify o --kernels"
    command = ["bash", "-c", f'{script}\n{typed}; echo "${{COMPREPLY[@]}}"']
    done = subprocess.run(command, text=True, capture_output=True, check=True, timeout=20)
    assert done.stdout.split() == ["on", "off"]


@pytest.mark.parametrize("arguments", [(), ("fish",), ("tcsh",), ("bash", "zsh")])
def test_other_shells_are_refused(capsys: Captured, arguments: tuple[str, ...]) -> None:
    assert main(["--completion", *arguments]) == 2
    assert capsys.readouterr().err == "nextify: --completion takes one shell: bash or zsh\n"


def test_errors_with_a_page_of_their_own_name_it(capsys: Captured, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    assert main(["train", "convnext_atto", "--data", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.endswith("(docs/data.md)\n")
    assert main(["convert", str(tmp_path / "weights.pth"), str(tmp_path / "out.safetensors"), "--to", "timm"]) == 2
    assert capsys.readouterr().err.endswith(f"(see {SEE['WeightsError']})\n")
