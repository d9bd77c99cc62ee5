"""The command line: output, JSON, error lines and exit codes."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import types
import warnings
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import nextify
import nextify.cli
from nextify.cli import COMMANDS, main
from nextify.paper.design import RESNET50, Design, InertChoice
from nextify.study.engine import EngineError
from nextify.training.tracking import MissingTracker
from tests.helpers import TINY, Captured, save_noise, tiny_bundle


def out(capsys: Captured, *arguments: str) -> str:
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def refused(capsys: Captured, code: int, *arguments: str) -> str:
    """The one line on stderr of a command that fails."""
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("nextify: ")
    return captured.err.strip()


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_overview_lists_each_command_on_a_line(capsys: Captured, arguments: tuple[str, ...]) -> None:
    lines = out(capsys, *arguments).splitlines()
    for name, line in COMMANDS.items():
        assert [text for text in lines if text.split() == [name, *line.split()]]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_file(name: str) -> None:
    assert (Path(nextify.cli.__file__).parent / f"{name}.py").exists()


def test_version(capsys: Captured) -> None:
    assert out(capsys, "--version") == f"nextify {nextify.__version__}\n"


def test_python_m_nextify() -> None:
    done = subprocess.run([sys.executable, "-m", "nextify", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"nextify {nextify.__version__}\n")


def test_models(capsys: Captured) -> None:
    lines = out(capsys, "models").splitlines()
    assert len(lines) == 1 + len(nextify.list_models())
    assert lines[1].split() == ["resnet50", "25.56", "M", "4.09", "G", "4.09", "G", "76.13", "%"]
    assert len(out(capsys, "models", "resnet50_*").splitlines()) == 18


def test_models_as_json(capsys: Captured) -> None:
    models = {m["name"]: m for m in json.loads(out(capsys, "models", "--json"))}
    assert models["convnext_tiny"] == {
        "name": "convnext_tiny",
        "parameters": 28_589_128,
        "macs": 4_455_531_264,
        "published_gflops": 4.5,
        "published_top1": 82.1,
    }
    assert models["convnextv2_tiny"]["published_top1"] is None


def test_show(capsys: Captured) -> None:
    text = out(capsys, "show", "convnext_tiny")
    assert "d7×7, 96 → LN → 1×1, 384 → GELU → 1×1, 96 → ×γ (+)" in text
    assert "28,589,128" in text
    assert "82.1 %" in text
    rows = [line.split() for line in text.splitlines() if line.startswith("stage 3 ") and "14×14" in line]
    assert rows == [["stage", "3", "14×14", "11,112,960", "2,171,893,248", "4,139,520"]]


def test_show_as_json_with_a_changed_decision(capsys: Captured) -> None:
    arguments = ("show", "resnet50", "--set", "kernel_size=7", "--set", "norm=layer", "--num-classes", "10", "--json")
    shown = json.loads(out(capsys, *arguments))
    design = nextify.Design().with_(kernel_size=7, norm="layer")
    assert shown["design"]["kernel_size"] == 7
    assert shown["total"]["macs"] == nextify.macs(design, num_classes=10)
    assert sum(part["parameters"] for part in shown["parts"]) == shown["total"]["parameters"]
    assert shown["published_top1"] is None
    assert shown["parts"][1]["resolution"] == [56, 56]


def test_show_draws(capsys: Captured, tmp_path: Path) -> None:
    file = tmp_path / "block.svg"
    assert str(file) in out(capsys, "show", "resnet50_gelu", "--svg", str(file))
    assert ET.parse(file).getroot().tag.endswith("svg")


def test_show_says_what_is_inert(capsys: Captured) -> None:
    assert main(["show", "resnet50", "--set", "layer_scale=0.1"]) == 0
    assert "nextify: note: layer_scale after a norm" in capsys.readouterr().err


def test_diff(capsys: Captured) -> None:
    text = out(capsys, "diff", "resnet50_move_up", "resnet50_kernel_7")
    assert "kernel_size: 3 → 7" in text
    assert "  d3×3, 96→96      →  d7×7, 96→96\n" in text
    assert "+80,532,480" in text
    assert "The architectures are the same." in out(capsys, "diff", "resnet50", "resnet50_training_technique")


def test_diff_as_json(capsys: Captured) -> None:
    shown = json.loads(out(capsys, "diff", "resnet50_layer_norm", "convnext_tiny", "--json"))
    assert shown["decisions"]["downsampling"] == {"before": "in_block", "after": "separate"}
    assert {"part": "head", "before": None, "after": "LN, 768"} in shown["layers"]
    assert shown["cost"]["after"]["parameters"] == 28_589_128


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shw",), "no command 'shw'; did you mean show?"),
        (("qqq",), "no command 'qqq'; there are roadmap, "),
        (("models", "zzz*"), "no model matches 'zzz*'; nextify models lists all"),
        (("show", "resnet5"), "no model 'resnet5'; did you mean resnet50"),
        (("diff", "resnet50", "convnext_tinny"), "did you mean convnext_tiny"),
        (
            ("show", "resnet50", "--set", "kernel_size=4"),
            "at least 1 and at most 255, got 4",
        ),
        (("show", "resnet50", "--set", "kernel=7"), "--set Design has no kernel; did you mean kernel_size?"),
        (("show", "resnet50", "--set", "kernel_size"), "--set needs FIELD=VALUE"),
        (("show", "resnet50", "--set", "groups=5"), "groups=5 does not divide"),
        (("show", "resnet50", "--set", "depths=3"), "need one value per stage each"),
        (("show", "resnet50", "--set", "kernel_size=big"), "at least 1 and at most 255, got 'big'"),
        (("show", "resnet50", "--set", "stem=4"), "stem must be conv7_pool, "),
        (("show", "convnext_tiny", "--image-size", "16"), "each side must be at least 32 pixels"),
        (("show", "convnext_tiny", "--image-size", "0"), "--image-size must be 1 or more"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(capsys: Captured, arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(capsys, 2, *arguments)


@pytest.mark.parametrize("arguments", [("show",), ("show", "resnet50", "--bogus"), ("models", "--image-size", "big")])
def test_wrong_options_exit_with_2(capsys: Captured, arguments: tuple[str, ...]) -> None:
    assert main(arguments) == 2
    assert "--help" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["models", "show", "diff"])
def test_help_of_a_command(capsys: Captured, command: str) -> None:
    text = out(capsys, command, "--help")
    assert f"usage: nextify {command}" in text
    assert "--json" in text


def test_a_file_that_cannot_be_written(capsys: Captured, tmp_path: Path) -> None:
    file = tmp_path / "missing" / "block.svg"
    line = refused(capsys, 1, "show", "resnet50", "--svg", str(file))
    assert "No such file or directory" in line
    assert "missing" in line


@dataclass(frozen=True)
class Options:
    """Raises what it is given."""


def raising(error: BaseException, module: str = __name__) -> Any:
    """A command whose run raises, as if its code stood in the given module."""
    names = {"__name__": module, "Options": Options, "error": error}
    exec("def run(options: Options) -> int:\n    raise error\n", names)
    return types.SimpleNamespace(Options=Options, run=names["run"])


def run_raising(monkeypatch: pytest.MonkeyPatch, error: BaseException, module: str = __name__) -> int:
    monkeypatch.setattr(nextify.cli, "import_module", lambda name: raising(error, module))
    return main(["show"])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 1, "no space left on the disk (/x); free some"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "/x: Permission denied; check the path"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (nextify.paper.design.DesignError("two\nlines"), 2, "nextify: two lines"),
        (EngineError("trials end with code 9"), 1, "nextify: trials end with code 9"),
    ],
)
def test_errors_and_their_exit_codes(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    assert run_raising(monkeypatch, error) == code
    captured = capsys.readouterr().err
    assert line in captured
    assert captured.count("\n") == 1


@pytest.mark.parametrize(
    "error", [KeyError("no step 'x'; there are y"), ValueError("give seeds"), MissingTracker("pip …")]
)
def test_plain_errors_that_our_code_raises_are_a_line(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    assert run_raising(monkeypatch, error, "nextify.study") == (1 if isinstance(error, ImportError) else 2)
    assert capsys.readouterr().err == f"nextify: {error.args[0]}\n"


@pytest.mark.parametrize(
    ("error", "module"),
    [
        (KeyError("x"), "nextify.study"),
        (ValueError("bad shape in here"), "torch"),
        (RuntimeError("bug"), "nextify"),
        (ImportError("cannot import name 'x' from 'nextify.y'"), "nextify.study"),
        (ModuleNotFoundError("No module named 'torch'"), "nextify.study"),
    ],
)
def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception, module: str) -> None:
    with pytest.raises(type(error)):
        run_raising(monkeypatch, error, module)


def test_a_closed_pipe_is_quiet() -> None:
    command = f"{sys.executable} -m nextify models | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.startswith("name")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_a_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "nextify", "models"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("nextify: no space left on the disk")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("design", [TINY, RESNET50.with_(depths=(1, 1, 1, 1))])
def test_predicting_imports_little_beyond_torch(tmp_path: Path, design: Design) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", ("a", "b"), 32, 1, design=design)
    save_noise(tmp_path / "photo.png", 0)
    code = (
        "import sys, torch; before = {*sys.modules}; from nextify.cli import main; "
        "code = main(['predict', *sys.argv[1:], '--device', 'cpu']); few = "
        "{'timm', 'torchvision', 'torch._dynamo', 'triton', 'matplotlib', 'scipy', 'sklearn', 'sympy'}; "
        "print(code, *few & {*sys.modules} - before)"
    )
    command = [sys.executable, "-c", code, str(bundle), str(tmp_path / "photo.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "0"


def test_a_warning_of_ours_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(sys, "argv", ["nextify", "--version"])
    assert main() == 0
    assert warnings.formatwarning("inert", InertChoice, "zoo.py", 62) == "nextify: warning: inert\n"
    assert "lib.py:1: UserWarning: theirs" in warnings.formatwarning("theirs", UserWarning, "lib.py", 1)
