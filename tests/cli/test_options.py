"""Every option of every command takes a value or says in one line why not, before torch is imported."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest
from rich.console import Console

import nextify.cli.training
import nextify.training.probe
import nextify.training.trial
from nextify.cli import COMMANDS, main
from nextify.cli.progress import StudyProgress, TrainingProgress
from nextify.data import Images
from nextify.study.engine import Advanced, Started
from nextify.study.study import StudyEstimate
from nextify.system import processes
from nextify.training.loop import Progress
from nextify.training.prepare import prepare
from nextify.training.probe import Speed, probe
from nextify.training.request import Request
from nextify.training.train import prepare_in, with_fewer_epochs
from nextify.training.trial import Runtime, RuntimeOptionError, runtime
from tests.helpers import Captured
from tests.training.helpers import small_trial

TEXTS = [
    "", " ", "0", "1", "2", "-1", "-5", "20", "1.5", "-0.5", "1e-300", "1e308", "1e999", "nan", "inf", "-inf", "-0",
    "on", "off", "True", "None", "null", "9" * 23, "9" * 5000, "1" + "0" * 21, str(2**31), str(2**63), "0x10", "1_000",
    "٣", "½", ",", "=", "1,2", "(1,2)", "learning_rate=off", "epochs=nan", "crop.scale=-1,2", "kernel_size=True",
    "a\nb", "../nowhere", "/dev/null/x", "-", "--", "auto", "cuda:99", "résumé", "\U0001f600",
]  # fmt: skip
NEEDED = {
    "starts": ("fresh:convnext_atto", "--data", "digits"),
    "pretrain": ("convnextv2_atto", "--data", "digits"),
    "train": ("convnext_atto", "--data", "digits"),
    "evaluate": (".", "--data", "digits"),
    "inspect": (".", "--data", "digits"),
    "robustness": (".", "--data", "digits"),
    "search": ("--budget", "latency<10ms"),
    "predict": (".", "x.png"),
    "explain": (".", "x.png"),
    "serve": (".",),
    "convert": (".", "x.safetensors", "--to", "timm"),
    "export": (".", "--to", "onnx"),
    "quantize": (".", "--data", "digits"),
    "show": ("resnet50",),
    "diff": ("resnet50", "convnext_tiny"),
}


def options_of(kind: type) -> Iterator[str]:
    """Names of a command's options."""
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield from options_of(hint)
        elif name in {field.name for field in fields(kind)}:
            yield f"--{name.replace('_', '-')}"


@pytest.mark.parametrize("share", [37, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_takes_a_value_or_says_in_a_line_why_not(
    command: str, share: int, capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = import_module(f"nextify.cli.{command}")
    reached: list[Any] = []

    def run(options: Any) -> int:
        reached.append(options)
        return 0

    run.__annotations__["options"] = module.Options
    monkeypatch.setattr(module, "run", run)
    monkeypatch.chdir(tmp_path)
    number = 0
    for option in options_of(module.Options):
        for text in TEXTS:
            number += 1
            if number % share:
                continue
            code = main([command, *NEEDED.get(command, ()), option, text])
            said = capsys.readouterr().err
            if code == 0:
                assert not said, (option, text)
            else:
                assert code in (1, 2), (option, text)
                assert said.startswith("nextify: "), (option, text)
                assert said.count("\n") == 1, (option, text)
    assert reached


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--minutes", "inf"), "--minutes must be above 0 and at most 10,000,000, got inf"),
        (("--minutes", "nan"), "--minutes must be a number above 0"),
        (("--seed", "9" * 23), "--seed must be 0 or more and at most 2,147,483,647"),
        (("--split-seed", "-1"), "--split-seed must be 0 or more"),
        (("--checkpoint-seconds", "nan"), "--checkpoint-seconds must be a number at least 0"),
        (("--evaluations", str(10**21)), "--evaluations must be 1 or more and at most 1,000,000"),
        (("--epochs", str(10**21)), "--epochs must be 1 or more and at most 1,000,000"),
        (("--threads", "0"), "--threads must be 1 or more"),
        (("--freeze", "-1"), "--freeze must be 0 or more"),
        (("--epochs", "many"), "--epochs: INT wanted, got 'many'; see nextify train --help"),
        (
            ("--channels", "1", "2", "b"),
            "--channels: [INT [INT ...]] wanted, got '1', '2', 'b'; see nextify train --help",
        ),
        (
            ("--set", "norm=batch", "optimizer=adamw"),
            "Unrecognized options: optimizer=adamw (put --set before each setting, as in --set optimizer=adamw)",
        ),
        (("--scale", "huge"), "invalid choice 'huge' for argument '--scale'"),
        (("--epoch", "1"), "Perhaps you meant: --epochs"),
        (("--set", "crop.scale=-1,2"), "--set crop.scale must be two numbers, each above 0"),
        (("--set", "optimizer.momentum=5"), "--set optimizer.momentum must be a number at least 0"),
        (("--set", "kernel_size=True"), "--set kernel_size must be an odd whole number"),
        (("--set", "rand_augment=-5"), "--set rand_augment.magnitude must be a number at least 0"),
        (("--set", "optimizer.betas=1,1"), "--set optimizer.betas must be two numbers"),
        *((("--licence", text), "--licence must be an SPDX") for text in ("", " ", "a b", "mit\nx", "«mit»")),
        (("--set", "calibration=0.9"), "--set calibration must be a number above 0 and at most 0.5 or off"),
        (("--set", "progressive_resizing=7"), "--set progressive_resizing must be a number above 0 and below 1 or off"),
    ],
)
def test_options_that_cannot_be(arguments: tuple[str, ...], message: str, capsys: Captured, tmp_path: Path) -> None:
    assert main(["train", *NEEDED["train"], "--out", str(tmp_path), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", ".", "x.png", "--top", "a"), "--top: INT wanted, got 'a'; see nextify predict --help"),
        (("predict", ".", ""), "an image's path is empty: name files, folders or patterns after the bundle"),
        (("explain", ".", "x.png", ""), "an image's path is empty: name files, folders or patterns after the bundle"),
        (("compare", "--minutes", "long"), "--minutes: FLOAT wanted, got 'long'; see nextify compare --help"),
        (("compare", "--minutes", "0"), "--minutes must be above 0"),
        (("compare", "--sizes", "224", "0"), "--sizes must be one value or more, each a whole number at least 1"),
        (("compare", "--rounds", "-1"), "--rounds must be 1 or more"),
        (("compare", "--seeds", "0"), "--seeds must be 1 or more"),
        (("compare", "--threads", "0"), "--threads must be 1 or more"),
        (("compare", "--data", "/nowhere"), "no such folder or file: /nowhere"),
        (("compare", "--weights", "a=b"), "--weights are evaluated on images: give --data too"),
        (("compare", "--counts", "--why"), "--counts runs nothing"),
    ],
)
def test_numbers_are_asked_for_in_words(arguments: tuple[str, ...], message: str, capsys: Captured) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "settings",
    [{"threads": 0}, {"evaluations": 0}, {"workers": -1}, {"checkpoint_seconds": float("nan")}, {"accumulation": 1.5}],
)
def test_a_runtime_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(RuntimeOptionError, match=f"--{next(iter(settings)).replace('_', '-')} must be"):
        Runtime(**settings)


@pytest.mark.parametrize(
    ("asked", "launched", "threads"),
    [("", 1, 8), ("3", 1, 3), (" 2,1", 1, 2), ("0", 1, 1), ("64", 1, 8), ("many", 1, 8), ("1", 2, 4)],
)
def test_threads_are_capped_as_torch_caps_them(
    asked: str, launched: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(nextify.training.trial, "cores", lambda: 8)
    monkeypatch.setattr(processes, "launched", lambda: launched)
    monkeypatch.setattr(processes, "on_this_machine", lambda: (0, launched))
    assert runtime("cpu").threads == threads
    assert runtime("cpu", threads=5).threads == 5


WRONG = [
    ("train", "convnext_ato", "--data", "digits"),
    ("train", "convnext_atto", "--data", "/nowhere"),
    ("evaluate", ".", "--data", ""),
    ("train", "convnext_atto", "--data", "digits", "--weights", "/nowhere"),
    ("train", "convnext_atto", "--data", "digits", "--out", "FILE/out"),
    ("roadmap", "--data", "/nowhere"),
    ("roadmap", "--steps", "unknown"),
    ("evaluate", "/nowhere", "--data", "digits"),
    ("robustness", ".", "--data", "/nowhere"),
    ("robustness", ".", "--data", "digits", "--corruptions", "rain"),
    ("robustness", ".", "--data", "digits", "--baseline", "/nowhere"),
    ("search", "--budget", "latency<10"),
    ("compare", "--budget", "throughput<9"),
    ("quantize", ".", "--data", "/nowhere"),
    ("predict", "/nowhere", "x.png"),
    ("convert", "/nowhere", "x", "--to", "timm"),
    ("export", "/nowhere", "--to", "onnx"),
    ("compare", "--data", "/nowhere"),
]
"""Commands with a wrong name or path."""
HEAVY = ("torch", "numpy", "PIL", "scipy", "timm", "matplotlib", "rich", "typeguard", "asyncio")


def test_a_wrong_name_or_path_is_said_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    (tmp_path / "FILE").write_text("")
    code = (
        f"import sys; from nextify.cli import main\n"
        f"for arguments in {WRONG}: print(main(arguments), [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    for arguments, said in zip(WRONG, done.stdout.splitlines(), strict=True):
        assert said in ("1 []", "2 []"), (arguments, said)
    assert done.stderr.count("\n") == len(WRONG)


def test_a_link_that_leads_nowhere_is_named_as_one(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "latest").symlink_to("gone/bundle")
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "latest").write_text("gone/bundle\n")  # where the system makes no links
    (tmp_path / "own").symlink_to("/nowhere/bundle")
    links = {"latest": "gone/bundle", "latest/bundle": "gone/bundle", "file/latest": "file/gone/bundle"}
    for name, target in (links | {"own": "/nowhere/bundle"}).items():
        assert main(["predict", str(tmp_path / name), "x.jpg"]) == 1
        assert f"it is a link to {tmp_path / target}, which does not exist" in capsys.readouterr().err


def test_help_says_each_default_once(capsys: Captured) -> None:
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert "None" not in text
        assert not re.search(r"Default: [^()-]{1,80}\(default", text)
    for command in ("train", "compare"):
        assert main([command, "--help"]) == 0
        assert "machine options" in capsys.readouterr().out


# -- what a running command says -----------------------------------------------------------------------------------

TINY = ("--scale", "tiny", "--device", "cpu", "--threads", "1")


def on(images: Path) -> tuple[str, ...]:
    return ("convnext_atto", "--data", str(images))


def test_a_training_without_a_terminal_says_where_and_how_far_it_is(
    capsys: Captured, shapes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "runs [old] [" / "b]"  # in the markup of rich's console these would be styles
    asked = ["convnext_atto", "--data", str(shapes), *TINY, "--epochs", "2", "--evaluations", "3"]
    assert main(["train", *asked, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    (bundle,) = out.glob("*/bundle")
    assert f"bundle: {bundle}\n" in text
    assert re.search(r"\(95 % interval of top-1 [\d.]+ to [\d.]+ %\); .* images/s$", text, re.MULTILINE), "in one line"
    assert text.index(f"results go to {bundle.parent}") < text.index("epoch 1 of 2: loss ") < text.index("epoch 2 of 2")
    runtime = json.loads(bundle.with_name("result.json").read_text())["runtime"]
    assert (runtime["threads"], runtime["checkpoint_seconds"], runtime["evaluations"]) == (1, 20.0, 3)


def test_a_training_that_was_stopped_says_that_it_goes_on(
    capsys: Captured, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", *on(shapes), *TINY, "--epochs", "1", "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(nextify.cli.training.Stopping, "asked", lambda _: True)
        assert main(command) == 130
    said = capsys.readouterr().out
    assert said.index("results go to ") < said.index("stopped at step 1 of ")
    assert main(command) == 0
    assert f"resumes from the checkpoint in {tmp_path}" in capsys.readouterr().out


def test_sigterm_while_measuring_exits_with_130(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(nextify.cli.training, "measure", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["train", *NEEDED["train"], *TINY, "--epochs", "1", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err.endswith("nextify: interrupted\n")
    assert signal.getsignal(signal.SIGTERM) is before


def constant(step: float) -> Any:
    def measured(trial: Any, images: Images, runtime: Runtime, steps: int, together: bool) -> Speed:
        return Speed(step, 0.0, trial.recipe.epochs * (len(images.train) // trial.recipe.batch_size))

    return measured


def test_minutes_count_from_the_start_and_a_dry_run_is_not_remembered(
    digits: Images, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nextify.training.probe, "probe", constant(0.01))
    request = Request("convnext_atto", minutes=1.0, scale="tiny", settings={"batch_size": 100})

    def epochs(**how: Any) -> int:
        return prepare_in(tmp_path, request, digits, Runtime(), keep=False, **how).trial.recipe.epochs

    assert 2 * epochs(started=time.monotonic() - 30) == pytest.approx(epochs(), rel=0.1)
    assert not list(tmp_path.glob("minutes-*"))
    command = ["train", *NEEDED["train"], *TINY, "--minutes", "60", "--out", str(tmp_path)]
    assert main([*command, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("measuring how many epochs fit …\n")
    assert not list(tmp_path.glob("minutes-*"))


def by_area(seconds_per_megapixel: float, bf16: float = 1.0) -> Any:
    def measured(trial: Any, images: Images, runtime: Runtime, steps: int, together: bool) -> Speed:
        factor = bf16 if trial.recipe.precision == "bf16" else 1.0
        step = factor * seconds_per_megapixel * trial.recipe.batch_size * trial.data.image_size**2 / 1e6
        return Speed(step, 0.0, trial.recipe.epochs * (len(images.train) // trial.recipe.batch_size))

    return measured


def test_few_minutes_make_the_images_smaller_unless_their_size_is_given(
    digits: Images, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = replace(digits, native_size=(160, 160))
    asked = Request("convnext_atto", minutes=1.0)
    for seconds, size in ((0.03, 160), (0.1, 96), (3.0, 64)):
        monkeypatch.setattr(nextify.training.probe, "probe", by_area(seconds))
        out = tmp_path / f"{seconds}"
        prepared = prepare_in(out, asked, large, Runtime())
        assert prepared.trial.data.image_size == prepared.image_size == size
        epochs = prepared.trial.recipe.epochs
        assert epochs * len(digits.train) * size**2 / 1e6 * seconds == pytest.approx(58, rel=0.2)
        said = f"images of {size} pixels, not 160, so that more epochs fit; --image-size 160 keeps their size"
        assert (said in prepared.notes) == (size < 160)
        monkeypatch.setattr(nextify.training.probe, "probe", by_area(99.0))  # not measured again
        assert prepare_in(out, asked, large, Runtime()).trial == prepared.trial
        fewer = with_fewer_epochs(prepared, out, 3, Runtime()).trial
        assert (fewer.recipe.epochs, fewer.data.image_size) == (3, size)
    monkeypatch.setattr(nextify.training.probe, "probe", by_area(0.5))
    given = prepare_in(tmp_path, replace(asked, image_size=160), large, Runtime()).trial
    assert given.data.image_size == 160
    (remembered,) = tmp_path.glob("minutes-*.json")
    remembered.write_text('{"minutes": 1.0, "epochs": 4}')  # of an earlier version
    assert prepare_in(tmp_path, replace(asked, image_size=160), large, Runtime()).trial.recipe.epochs == 4


@pytest.mark.parametrize(
    ("instructions", "bf16", "chosen"), [(True, 0.5, "bf16"), (True, 1.1, "fp32"), (False, 0.5, "fp32")]
)
def test_minutes_choose_bf16_where_it_is_faster(
    instructions: bool, bf16: float, chosen: str, digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nextify.training.probe, "fast_bfloat16", lambda device: instructions)
    monkeypatch.setattr(nextify.training.probe, "probe", by_area(10.0, bf16))
    asked = Request("convnext_atto", minutes=1.0)
    prepared = prepare_in(tmp_path, asked, digits, Runtime())
    assert prepared.trial.recipe.precision == chosen
    said = "bf16, which was measured to be faster here; --precision fp32 does without"
    assert (said in prepared.notes) == (chosen == "bf16")
    monkeypatch.setattr(nextify.training.probe, "probe", by_area(99.0))  # not measured again
    assert prepare_in(tmp_path, asked, digits, Runtime()).trial == prepared.trial
    assert with_fewer_epochs(prepared, tmp_path, 3, Runtime()).trial.recipe.precision == chosen
    monkeypatch.setattr(nextify.training.probe, "probe", by_area(10.0, bf16))
    for given in (replace(asked, precision="fp32"), replace(asked, recipe="scratch_small")):
        assert prepare_in(tmp_path / "given", given, digits, Runtime()).trial.recipe.precision == "fp32"


@pytest.mark.parametrize("epochs", [10, 1])
def test_minutes_that_do_not_hold_are_said_once(epochs: int, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    recipe = SimpleNamespace(batch_size=10, epochs=epochs)
    prepared: Any = SimpleNamespace(trial=SimpleNamespace(recipe=recipe), request=SimpleNamespace(minutes=10.0))
    shown = TrainingProgress(Console(), prepared, began=940.0)
    for step in range(0, 400, 10):
        entry = {"epoch": step // 100, "train_loss": 1.0} if epochs == 10 and step % 100 == 0 and step else None
        shown.show(Progress(step, 1000, 10.0, entry))
        clock[0] += 9.0
    said = capsys.readouterr()
    assert "this run will take about 16 min 00 s, not 10 minutes, as the machine is slower than" in said.err
    assert said.err.count("\n") == 1
    assert ("epoch 1 of 10: loss 1" in said.out) == (epochs == 10)
    assert "step " in said.out, "a line a minute within an epoch"


@pytest.mark.parametrize("late", [30.0, 400.0])
def test_minutes_that_do_not_hold_shorten_a_training_only_early(
    late: float, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    recipe, request = SimpleNamespace(batch_size=10, epochs=10), SimpleNamespace(minutes=10.0)
    prepared: Any = SimpleNamespace(trial=SimpleNamespace(recipe=recipe), request=request, steps_per_epoch=100)
    shown = TrainingProgress(Console(), prepared, began=1000.0 - late, shorten=True)
    for step in range(0, 100, 10):
        shown.show(Progress(step, 1000, 10.0))
        if shown.epochs is not None:
            break
        clock[0] += 9.0
    else:  # 0.9 seconds a step, of which 630 fit into what is left
        shown.show(Progress(100, 1000, 10.0, {"epoch": 1, "train_loss": 1.0}))
    said = capsys.readouterr().err
    assert (shown.epochs, "will take about" in said) == ((5, False) if late == 30 else (None, True))


def test_a_training_is_judged_once_and_later_only_warned_of(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    recipe, request = SimpleNamespace(batch_size=10, epochs=10), SimpleNamespace(minutes=10.0)
    prepared: Any = SimpleNamespace(trial=SimpleNamespace(recipe=recipe), request=request, steps_per_epoch=100)
    shown = TrainingProgress(Console(), prepared, began=1000.0, shorten=True)
    for step in range(0, 200, 10):  # in time for the first tenth, then four times as slow
        shown.show(Progress(step, 1000, 10.0, {"epoch": 1, "train_loss": 1.0} if step == 190 else None))
        clock[0] += 5.5 if clock[0] < 1070 else 22.0
    said = capsys.readouterr().err
    assert (shown.epochs, said.count("will take about")) == (None, 1)


def test_a_training_for_which_the_minutes_do_not_hold_begins_again_once_with_fewer_epochs(
    capsys: Captured, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(self: TrainingProgress, progress: Progress) -> None:
        if self.shorten:
            self.epochs = 2 if self.recipe.epochs > 2 else 1

    monkeypatch.setattr(nextify.training.probe, "probe", constant(1.0))
    monkeypatch.setattr(TrainingProgress, "show", late)
    command = ["train", *on(shapes), *TINY, "--minutes", "60", "--set", "batch_size=29", "--out", str(tmp_path)]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "the machine is slower than measured: starts again with" in said.out
    (bundle,) = tmp_path.glob("*/bundle")
    (remembered,) = tmp_path.glob("minutes-*.json")
    recipe = json.loads((bundle.parent / "recipe.json").read_text())["recipe"]
    assert recipe["epochs"] == json.loads(remembered.read_text())["epochs"] == 2
    assert len(json.loads((bundle.parent / "result.json").read_text())["curve"]) == 2
    assert not list(tmp_path.glob("*/checkpoint.pt*"))
    assert main(command) == 0
    assert "this run is finished already" in capsys.readouterr().out


def test_control_characters_in_a_name_do_not_reach_the_terminal(
    capsys: Captured, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shapes, "a\x1b[31m")
    assert main(["train", *on(Path("a\x1b[31m")), *TINY, "--epochs", "1"]) == 0
    said = capsys.readouterr().out
    assert "convnext_atto on a\\x1b[31m" in said
    assert "results go to runs/convnext_atto-a\\x1b[31m" in said
    assert "\x1b" not in said


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_busy_processor_is_said(
    share: float, capsys: Captured, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "thread_time", lambda: share * time.perf_counter())
    command = ["train", *on(shapes), *TINY, "--epochs", "1", "--dry-run", "--out", str(tmp_path)]
    assert main(command) == 0
    assert ("other programs used the CPU for 50% of that time" in capsys.readouterr().out) == (share == 0.5)


def test_a_probe_does_not_time_the_building_of_kernels(digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def slow_at_first(*_: Any) -> None:
        calls.append(None)
        time.sleep(0.5 if len(calls) == 1 else 0)

    monkeypatch.setattr(nextify.training.probe, "measured", slow_at_first)
    recipe = nextify.RECIPES["convnext"].with_(epochs=1, warmup_epochs=0, batch_size=100)
    found = probe(small_trial("separate_downsampling", recipe), digits, Runtime(), steps=1)
    assert found.test_seconds < 0.5


def test_a_refusal_comes_after_what_was_found_in_the_data(capsys: Captured, tmp_path: Path) -> None:
    assert main(["train", *NEEDED["train"], "--set", "batch_size=601", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "600 images to train on and 1,197 to test on, 10 classes" in said.out
    assert "is larger than an epoch of 600" in said.err


@pytest.mark.parametrize(("model", "few"), [("convnext_atto", True), ("convnextv2_tiny", True), ("resnet50", False)])
def test_few_images_and_fresh_weights_get_a_line_on_trained_ones(model: str, few: bool, digits: Images) -> None:
    notes = prepare(Request(model, epochs=1, image_size=32), digits).notes
    recommended = [note for note in notes if note.endswith(f"by adding --weights timm:{model}")]
    assert len(recommended) == few
    if few:
        timm = pytest.importorskip("timm")
        assert timm.get_pretrained_cfg(model).hf_hub_id, "timm has weights of that name"


def test_a_run_that_is_resumed_does_not_shorten_the_time_left(digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what this process trains of it tells how fast the others will be."""
    trial = prepare(Request("convnext_atto", epochs=1, scale="tiny"), digits).trial
    trials = [SimpleNamespace(folder=name, step=name, trial=trial) for name in "abc"]
    study: Any = SimpleNamespace(plan=SimpleNamespace(trials=trials), open_trials=trials, side_by_side=1)
    clock = iter([0.0])
    monkeypatch.setattr("nextify.cli.progress.time.monotonic", lambda: next(clock, 100.0))
    shown = StudyProgress(Console(quiet=True), study, StudyEstimate(300.0, dict.fromkeys("abc", 100.0), {}))
    for event in (Started("a"), Advanced("a", Progress(50, 100, 1.0)), Advanced("a", Progress(100, 100, 1.0))):
        shown.on_event(event)
    assert shown.seconds_left() == pytest.approx(2 * 100 * 100 / 50)
