"""Exported files compute what the bundle does, in their own runtime; those that do not are never written."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import nextify
from nextify.cli import export as export_command
from nextify.cli import main
from nextify.cli import quantize as quantize_command
from nextify.data import Images
from nextify.deploy import formats, runners
from nextify.deploy.export import Export, export
from nextify.deploy.formats import PRECISIONS, FormatError
from nextify.deploy.prepare import Prepare
from nextify.deploy.quantize import quantize
from nextify.deploy.runners import (
    Exported,
    Format,
    MissingExtra,
    Precision,
    device_for,
    needs,
    open_runner,
    predict,
    start,
)
from nextify.deploy.verify import LIMITS, ExportFailed, verify
from nextify.evaluation.runner import Floats, Network
from nextify.networks.zoo import DESIGNS, create_model
from nextify.paper.design import Design
from nextify.paper.recipe import RECIPES
from nextify.paper.roadmap import roadmap
from nextify.system.files import UnusableFolder
from nextify.weights import About, Preprocessing, PreprocessingError, WeightsError, load, save_bundle
from nextify.weights.bundle import Metric
from tests.helpers import TINY, Captured, fewer, noise

T = TypeVar("T")
RUNTIMES: tuple[Format, ...] = ("onnx", "openvino", "torch")
CLASSES = tuple("abcdefghij")


def bundle_of(
    path: Path,
    design: Design,
    size: int = 32,
    classes: tuple[str, ...] = (),
    images: Images | None = None,
    **about: object,
) -> Path:
    """A bundle of an untrained network whose layer scales, norms and classes differ from their initial values.

    images: are given different classes, which those of an untrained network hardly have.
    """
    settings = Preprocessing.from_crop_ratio(size, 0.875)
    torch.manual_seed(0)
    model = create_model(design, 10).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("layer_scale") or parameter.ndim == 1:
                parameter.add_(torch.rand_like(parameter) * 0.2)
        model.head.classifier.weight.mul_(20)
        if images is not None:
            logits = model(torch.stack([settings(images.train.load(i)) for i in range(64)]))
            mean = logits.mean(0)
            model.head.classifier.bias += 3 * (logits - mean).std() - mean
    said = About(design, 10, classes=classes, preprocessing=settings, **about)  # type: ignore[arg-type]
    return save_bundle(path, model.state_dict(), said)


def once(made: Callable[..., T]) -> Callable[..., T]:
    """The first result again and again."""
    found: list[T] = []

    def again(*arguments: object) -> T:
        if not found:
            found.append(made(*arguments))
        return found[0]

    return again


def tiny(design: Design) -> Design:
    """The same decisions at an eighth of the width, in the first two stages, of one block and of two."""
    stages = min(2, len(design.depths))
    return design.with_(
        depths=(1, 2)[-stages:],
        widths=tuple(max(8, width // 8 // 8 * 8) for width in design.widths[:stages]),
        stage_strides=design.stage_strides[:stages],
    )


ROWS = {f"{regime}_{row.name}": row.design for regime in ("resnet50", "resnet200") for row in roadmap(regime)}
FAMILIES = ("convnext_tiny", "convnextv2_tiny", "convnext_isotropic_small", "convnext_pooled")
SWEEP = {tiny(design): name for name, design in (ROWS | {name: DESIGNS[name] for name in FAMILIES}).items()}
"""Every row and family at this size, where rows that differ in the recipe or in depth alone are one network."""
SCALED_V2 = TINY.with_(response_norm="global", layer_scale=0.3, depths=(1,), widths=(8,), stage_strides=(1,))
RESNET = roadmap("resnet50")[0].design.with_(depths=(1, 1), widths=(32, 32), stage_strides=(1, 2))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(
        tmp_path_factory.mktemp("model") / "bundle", SCALED_V2, 16, classes=CLASSES, licence="MIT", temperature=0.6
    )


@pytest.fixture(scope="module")
def done(bundle: Path, digits: Images) -> Export:
    """The bundle for torch.export: not to be changed."""
    return export(bundle, "torch", bundle.parent / "file", images=digits)


def installed(to: Format) -> None:
    for package in {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": (), "aotinductor": ()}.get(to, (to,)):
        pytest.importorskip(package)


@pytest.mark.parametrize(
    ("to", "design"),
    [pytest.param("torch", RESNET, marks=pytest.mark.slow), ("onnx", SCALED_V2), ("openvino", SCALED_V2)],
    ids=["torch", "onnx", "openvino"],
)
def test_a_file_computes_what_the_bundle_does(to: Format, design: Design, tmp_path: Path, digits: Images) -> None:
    installed(to)
    source = bundle_of(tmp_path / "bundle", design, 16)
    done = export(source, to, tmp_path / "file", images=digits)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "file"]
    agrees(done, source, digits)


def agrees(done: Export, source: Path, images: Images, count: int = 200) -> None:
    """The file gives the bundle's logits and classes on more images than it was verified on in batches of 1 to 64."""
    network, runner = Network(source, kernels="off"), open_runner(done.path, threads=1)
    inputs = np.stack([network.preprocessing(images.test.load(i)).numpy() for i in range(count)])
    expected = network(inputs)
    found = runner(inputs)
    assert found.dtype == np.float32
    assert (found.argmax(1) == expected.argmax(1)).all()
    assert (np.abs(found - expected).max(1) <= LIMITS["fp32"] * np.abs(expected).max(1)).all()
    assert len(set(expected.argmax(1).tolist())) > 1, "the images' classes must differ to show anything"


def test_the_folder_says_what_it_is(bundle: Path, done: Export, digits: Images) -> None:
    agrees(done, bundle, digits)
    said = json.loads((done.path / "nextify.json").read_text())
    assert (said["licence"], tuple(said["classes"])) == ("MIT", CLASSES)
    assert said["preprocessing"] == json.loads((bundle / "nextify.json").read_text())["preprocessing"]
    told = said["export"]
    assert (told["format"], told["precision"], told["size"]) == ("torch", "fp32", [16, 16])
    assert told["files"] == {"model.pt2": hashlib.sha256((done.path / "model.pt2").read_bytes()).hexdigest()}
    assert told["versions"]["torch"] == torch.__version__.partition("+")[0]
    proof = told["verification"]
    assert proof["top1_equal"] == 100
    assert 0 <= proof["largest_difference"] <= proof["limit"] == 1e-4
    assert [timing["batch"] for timing in proof["timings"]] == [1, 2, 7, 64]
    assert all(timing["file"] > 0 and timing["bundle"] > 0 for timing in proof["timings"])
    with pytest.raises(WeightsError, match="written by nextify export"):
        load(done.path)


def test_a_mirrored_recipe_is_exported_mirrored(tmp_path: Path, digits: Images) -> None:
    recipe = next(iter(RECIPES.values())).with_(test_mirror="on")
    source = bundle_of(tmp_path / "b", TINY, 16, recipe=recipe)
    agrees(export(source, "torch", tmp_path / "file"), source, digits)


def test_predict_takes_an_export(
    bundle: Path, done: Export, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "x.png"
    Image.fromarray(noise(1, 40, 30)).save(image)
    (ours,), (found,) = predict(bundle, image), nextify.predict(done.path, image)
    assert [g.index for g in found.guesses] == [g.index for g in ours.guesses]
    assert [g.probability for g in found.guesses] == pytest.approx([g.probability for g in ours.guesses], rel=1e-3)
    assert main(["predict", str(done.path), str(image), "--top", "1"]) == 0
    assert ours.guesses[0].label in capsys.readouterr().out
    monkeypatch.setenv("HOME", str(done.path.parent))
    assert nextify.predict(f"~/{done.path.name}", image) == [found]
    assert main(["predict", str(done.path / "model.pt2"), str(image)]) == 2
    assert "give the whole folder that nextify export wrote" in capsys.readouterr().err


def test_the_command_says_what_it_found(bundle: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main(["export", str(bundle), "--to", "torch", "--out", str(tmp_path / "x"), "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert "verified on 64 images of digits: same top-1 as the bundle on 100 %" in said
    assert "(limit 0.0001)" in said
    assert [line.split()[0] for line in said.splitlines()[-7:-3]] == ["1", "2", "7", "64"]
    assert said.endswith(f"licence: MIT\nwritten: {tmp_path / 'x'}\n")


def test_another_size_has_no_accuracy_until_it_is_measured(tmp_path: Path, capsys: Captured) -> None:
    design = RESNET.with_(depths=(1,), widths=(32,), stage_strides=(1,))
    bundle, out = tmp_path / "bundle", tmp_path / "x"
    bundle_of(bundle, design, metrics=(Metric("top1", 75.0, "photos", 8),))
    for size, metrics in ((64, 0), (32, 1)):
        arguments = ("export", str(bundle), "--to", "torch", "--image-size", str(size), "--out", str(out))
        assert main([*arguments, "--threads", "1"]) == 0
        assert len(json.loads((out / "nextify.json").read_text())["metrics"]) == metrics
        said = (
            "the export's accuracy at 64 pixels is not known, as the bundle's was measured at 32x32: see docs/export.md"
        )
        assert (said in capsys.readouterr().err) is not bool(metrics)


class Wrong(nn.Module):
    """A network that is right for batches of up to two only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(x) * (1 + 0.01 * (torch.ones_like(x[:, 0, 0, 0]).sum() > 2))
        return found


@pytest.mark.parametrize("before", [False, True], ids=["nothing there", "an export there"])
def test_a_wrong_file_is_refused_and_leaves_nothing(
    bundle: Path, done: Export, tmp_path: Path, before: bool, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    out = tmp_path / "file"
    if before:
        shutil.copytree(done.path, out)
    there = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    monkeypatch.setattr(formats, "folded", lambda model: Wrong(model))
    assert main(["export", str(bundle), "--to", "torch", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "does not compute what the bundle does" in said
    assert "of digits at batch 7 differs by 0.01" in said
    assert "nothing was written" in said
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == there
    assert before or not list(tmp_path.iterdir())


def test_a_disk_that_fills_leaves_nothing(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(formats, "write", full)
    with pytest.raises(OSError, match="No space"):
        export(bundle, "torch", tmp_path / "file")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("to", "file"), [("torch", r"model\.pt2"), ("openvino", r"model\.xml")])
def test_a_file_that_cannot_be_finished_is_an_error_and_nothing_is_left(
    to: Format, file: str, bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip(to)
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match=file):
            export(bundle, to, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_compiled_file_is_finished_before_it_reaches_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own writer ended the process on a full disk, behind a traceback, and left its folder."""
    resource = pytest.importorskip("resource")

    def compiled(program: object, *, package_path: Any) -> None:
        package_path.write(bytes(10**5))

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", compiled)
    program: Any = None
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match=r"model\.pt2"):
            formats.save(program, Exported("aotinductor", "fp32", (8, 8)), tmp_path / "model.pt2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({}, "onnx-fp32"),
        ({"with_preprocessing": True}, "onnx-fp32-preprocessing"),
        ({"with_preprocessing": True, "image_size": "64"}, "onnx-fp32-64-preprocessing"),
        ({"image_size": "dynamic", "precision": "fp16"}, "onnx-fp16-dynamic"),
        ({"precision": "int8", "data": "digits"}, "onnx-quantized"),
    ],
)
def test_exports_with_other_inputs_have_folders_of_their_own(asked: dict[str, Any], name: str) -> None:
    assert export_command.Options(bundle="run/bundle", to="onnx", **asked).folder.name == f"bundle-{name}"


def test_bundles_whose_names_have_a_dot_have_folders_of_their_own(tmp_path: Path) -> None:
    for name in ("photos.v1", "photos.v2"):
        (tmp_path / name).mkdir()
        given = {"bundle": str(tmp_path / name), "data": "digits"}
        assert export_command.Options(bundle=given["bundle"], to="onnx").folder == tmp_path / f"{name}-onnx-fp32"
        assert quantize_command.Options(**given).folder == tmp_path / f"{name}-openvino-quantized"
    (tmp_path / "own.pth").touch()
    assert export_command.Options(bundle=str(tmp_path / "own.pth"), to="onnx").folder == tmp_path / "own-onnx-fp32"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--to", "tensorrt"],
            "'--to': choose aotinductor, executorch, onnx, openvino, torch; see nextify export",
        ),
        (["--to", "onnx", "--precision", "bf16"], "has no --precision bf16: choose fp32, fp16, int8"),
        (["--to", "torch", "--precision", "int8", "--data", "digits"], "choose fp32, bf16, fp16"),
        (["--to", "onnx", "--precision", "int8"], "needs --data"),
        (["--to", "torch", "--image-size", "-3"], "--image-size is a whole number"),
        (["--to", "torch", "--image-size", "0"], "--image-size is a whole number"),
        (["--to", "torch", "--image-size", "1"], "too small"),
        (["--to", "torch", "--image-size", "dynamic", "--with-preprocessing"], "leave it out"),
        (["--to", "torch", "--data", "nowhere"], "no such folder"),
        (["--to", "torch", "--out", "there"], "exists and is not a bundle or an export: choose another name"),
    ],
)
def test_bad_options_get_one_line(
    bundle: Path, tmp_path: Path, options: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "thesis.txt").write_text("mine")
    assert main(["export", str(bundle), "--out", "file", *options]) == 2
    words = capsys.readouterr().err
    assert said in words
    assert len(words.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("options", [export_command.Options, partial(quantize_command.Options, data="digits")])
def test_a_folder_in_the_way_is_refused_before_anything_is_loaded(
    options: Callable[..., export_command.Options], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    monkeypatch.chdir(tmp_path.parent)
    for out in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(ValueError, match=f"{out.name} exists and is not a bundle or an export: choose another"):
            options(bundle=str(bundle), to="openvino", out=out).check()
    with pytest.raises(UnusableFolder, match="is a file"):
        options(bundle=str(bundle), to="openvino", out=tmp_path / "thesis.txt" / "x").check()
    another = shutil.copytree(bundle, tmp_path / "another")
    options(bundle=str(bundle), to="openvino", out=another).check()
    monkeypatch.chdir(another)
    for out in (another, Path()):
        with pytest.raises(ValueError, match="is the current folder or above it: choose another name"):
            options(bundle=str(bundle), to="openvino", out=out).check()


def test_a_bundle_is_not_replaced_by_its_own_export(
    bundle: Path, digits: Images, tmp_path: Path, capsys: Captured
) -> None:
    own = shutil.copytree(bundle, tmp_path / "run" / "bundle")
    (tmp_path / "link").symlink_to(own)
    for given, out in ((own, own), (own / "model.safetensors", own), (own, tmp_path / "link"), (tmp_path / "run", own)):
        assert main(["export", str(given), "--to", "torch", "--out", str(out)]) == 2
        assert "holds the bundle itself, which would be lost: choose another name" in capsys.readouterr().err
        with pytest.raises(WeightsError, match="would be lost"):
            export(given, "torch", out)
    with pytest.raises(WeightsError, match="would be lost"):
        quantize(own, digits, own)
    assert load(own)


def test_the_help_names_the_precisions_of_each_format(capsys: Captured) -> None:
    assert main(["export", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for to, precisions in PRECISIONS.items():
        assert f"{to} ({', '.join(precisions)})" in said


def test_what_is_missing_is_named_with_the_remedy(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "compiler", lambda: None)
    with pytest.raises(MissingExtra, match="install g"):
        export(bundle, "aotinductor", bundle.parent / "x")
    monkeypatch.setattr(runners, "version", lambda package: None)
    assert main(["export", str(bundle), "--to", "onnx"]) == 1
    with pytest.raises(MissingExtra, match=r"pip install 'nextify\[executorch\]'"):
        needs("a-package-that-is-not-there", "executorch")
    assert set(PRECISIONS) == set(Format.__args__)  # type: ignore[attr-defined]
    assert set(LIMITS) == set(Precision.__args__)  # type: ignore[attr-defined]


def test_large_inputs_are_verified_in_smaller_batches() -> None:
    def run(inputs: Floats) -> Floats:
        return np.ones((len(inputs), 2), np.float32)

    shown = [("x", np.zeros((1, 1, 3), np.uint8))] * 64
    for side, batches in ((8, (1, 2, 7, 64)), (4000, (1, 2, 4))):
        found = verify(Exported("onnx", "fp32", (side, side)), run, run, shown, Sized((side, side), side), "x")
        assert found.batches == batches
        assert [timing.batch for timing in found.timings] == list(batches)


def test_the_times_are_not_of_first_calls() -> None:
    seen = set[int]()

    def run(inputs: Floats) -> Floats:
        if len(inputs) not in seen:
            time.sleep(1.1 if len(inputs) == 64 else 0.2)
        seen.add(len(inputs))
        return np.ones((len(inputs), 2), np.float32)

    shown = [("x", np.zeros((1, 1, 3), np.uint8))] * 64
    found = verify(Exported("onnx", "fp32", (8, 8)), run, run, shown, Sized((8, 8), 8), "x")
    assert max(timing.file for timing in found.timings) < 100


def test_few_images_are_not_counted_twice(bundle: Path, tmp_path: Path, digits: Images) -> None:
    done = export(bundle, "torch", tmp_path / "few", images=fewer(digits, 1, 5))
    assert done.verification.images == 5
    assert json.loads((tmp_path / "few" / "nextify.json").read_text())["export"]["verification"]["images"] == 5


class Sized(Preprocessing):
    """Prepares nothing."""

    def __call__(self, image: object) -> torch.Tensor:
        return torch.zeros(1)


def test_openvino_reports_nothing_to_anybody() -> None:
    with pytest.raises(ImportError):
        importlib.import_module("openvino_telemetry")


def test_any_strides_of_one_channel_are_the_same_input(
    bundle: Path, done: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AOTInductor misread (N, 1, H, W) with the strides of (N, H, W, 1), which NumPy calls contiguous."""
    given = []
    runner = open_runner(done.path)
    runner.about = replace(runner.about, in_channels=1)
    monkeypatch.setattr(runner, "_run", given.append)
    runner(np.zeros((1, 16, 16, 1), np.float32).transpose(0, 3, 1, 2))
    assert given[0].strides == np.zeros((1, 1, 16, 16), np.float32).strides


def test_an_export_takes_class_names_like_a_bundle(
    bundle: Path, done: Export, tmp_path: Path, capsys: Captured
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"class {c}" for c in CLASSES))
    image = tmp_path / "x.png"
    Image.fromarray(noise(1, 40, 30)).save(image)
    said = []
    for folder in (bundle, done.path):
        assert main(["predict", str(folder), str(image), "--top", "1", "--class-order", str(names)]) == 0
        said.append(capsys.readouterr().out.split()[-5:-2])
    assert said[0] == said[1]
    assert said[0][1] == "class"
    with pytest.raises(WeightsError, match="1 class names for 10 classes"):
        open_runner(done.path, class_order=["one"])


def test_an_export_runs_on_the_cpu_of_a_machine_with_a_gpu(bundle: Path, done: Export) -> None:
    assert device_for(done.path, "auto") == "cpu"
    assert (device_for(bundle, "auto"), device_for(done.path, "cuda")) == ("auto", "cuda")
    with pytest.raises(WeightsError, match="leave --device cuda out"):
        open_runner(done.path, device="cuda")


def test_inputs_that_do_not_fit_are_refused(done: Export) -> None:
    runner = open_runner(done.path)
    for shape in ((1, 3, 16, 17), (1, 1, 16, 16), (3, 16, 16)):
        with pytest.raises(ValueError, match=r"inputs must be \(N, 3, 16, 16\)"):
            runner(np.zeros(shape, np.float32))
    strided = np.random.default_rng(0).random((2, 16, 16, 3)).transpose(0, 3, 1, 2)  # channels last, float64
    np.testing.assert_array_equal(runner(strided), runner(np.ascontiguousarray(strided, np.float32)))


def test_a_damaged_folder_says_what_to_do(done: Export, tmp_path: Path) -> None:
    folder = shutil.copytree(done.path, tmp_path / "file")
    said = json.loads((folder / "nextify.json").read_text())
    (folder / "nextify.json").write_text(json.dumps(said | {"export": {"format": "coreml"}}))
    with pytest.raises(WeightsError, match="export again"):
        open_runner(folder)
    without = {key: value for key, value in said["export"].items() if key != "files"}
    (folder / "nextify.json").write_text(json.dumps(said | {"export": without}))
    with pytest.raises(WeightsError, match="export again"):
        open_runner(folder)
    (folder / "nextify.json").write_text(json.dumps(said))
    content = (folder / "model.pt2").read_bytes()
    (folder / "model.pt2").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(
        WeightsError, match=r"model\.pt2 was changed or is damaged: copy the whole folder again, or exp"
    ):
        open_runner(folder)
    (folder / "model.pt2").unlink()
    with pytest.raises(WeightsError, match=r"model\.pt2 is missing"):
        open_runner(folder)


@pytest.mark.parametrize("to", RUNTIMES)
def test_what_a_runtime_cannot_load_is_one_line(to: Format, tmp_path: Path) -> None:
    installed(to)
    exported = Exported(to, "fp32", (16, 16))
    (tmp_path / exported.file).write_bytes(b"not a model")
    with pytest.raises(WeightsError, match=r"cannot load .*model\.\w+ \(.+\): export again") as raised:
        start(tmp_path / exported.file, exported)
    assert len(str(raised.value).splitlines()) == 1


def test_threads_that_load_at_once_leave_output_and_log_as_they_were() -> None:
    began, both, over = threading.Event(), threading.Event(), threading.Event()
    before = sys.stdout, logging.root.manager.disable

    def first() -> None:
        with runners.quiet():
            began.set()
            both.wait(0.2)
        over.set()

    def second() -> None:
        began.wait()
        with runners.quiet():  # within the first one's, it would put back in the end what that had set
            both.set()
            over.wait()

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(first), threads.submit(second)]:
            done.result()
    assert (sys.stdout, logging.root.manager.disable) == before


SETTINGS = {
    "crop": Preprocessing((20, 20), 24),
    "wide": Preprocessing((12, 30), 16),
    "squash": Preprocessing((24, 20), 24, "squash", "bilinear"),
    "padded": Preprocessing((40, 40), 24, interpolation="lanczos"),
    "gray": Preprocessing((20, 20), 24, mean=(0.4,), std=(0.2,)),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
@pytest.mark.parametrize("shape", [(20, 20), (40, 61), (97, 33), (8, 8), (25, 24), (24, 300), (427, 503)], ids=str)
def test_pixels_are_prepared_as_pillow_does(settings: Preprocessing, shape: tuple[int, int]) -> None:
    """To one level, in the pixels that lie halfway between two; with bilinear weights these are many."""
    pixels = noise(sum(shape), *shape)
    expected = settings.pixels(pixels).permute(2, 0, 1)
    found = Prepare(replace(settings, mean=(0,) * settings.channels, std=(1 / 255,) * settings.channels))(
        torch.from_numpy(pixels)[None]
    )[0]
    off = (found - expected).abs()
    assert off.max() <= 1
    assert (off > 0.5).float().mean() < (0.05 if settings.interpolation == "bilinear" else 0.01)


def test_gray_pixels_are_prepared_in_openvino() -> None:
    openvino = pytest.importorskip("openvino")
    settings = SETTINGS["gray"]
    pixels = noise(1, 31, 44)
    program = torch.export.export(Prepare(settings), (torch.from_numpy(pixels)[None],))
    with runners.quiet():
        model = openvino.convert_model(program)
    run = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(run(pixels[None])[0][0], settings(pixels).numpy(), atol=1 / 255 / 0.2 + 1e-4)


def test_pixels_that_are_not_antialiased_are_refused() -> None:
    for settings in (Preprocessing(antialias=False), Preprocessing(interpolation="nearest")):
        with pytest.raises(PreprocessingError, match="without antialiasing"):
            Prepare(settings)


@pytest.mark.slow
@pytest.mark.parametrize("to", RUNTIMES)
def test_images_of_any_size_are_prepared_inside(bundle: Path, tmp_path: Path, to: Format, capsys: Captured) -> None:
    installed(to)
    done = export(bundle, to, tmp_path / "file", with_preprocessing=True)
    assert done.verification.top1_equal == 100
    with pytest.raises(WeightsError, match="prepares images itself"):
        open_runner(done.path)
    assert main(["predict", str(done.path), "x.png"]) == 2
    assert capsys.readouterr().err.endswith("without --with-preprocessing (see docs/export.md)\n")


@pytest.mark.slow
@pytest.mark.parametrize("to", RUNTIMES)
def test_any_size_of_input(bundle: Path, tmp_path: Path, to: Format) -> None:
    installed(to)
    runner = open_runner(export(bundle, to, tmp_path / "file", image_size="dynamic").path)
    network = Network(bundle, kernels="off")
    for side in (16, 23, 40):
        inputs = np.random.default_rng(side).standard_normal((3, 3, side, side + 9)).astype(np.float32)
        np.testing.assert_allclose(runner(inputs), network(inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("row", [pytest.param(0, marks=pytest.mark.slow), -2], ids=["baseline", "layer norms"])
def test_any_size_of_input_of_the_roadmaps_first_networks(row: int) -> None:
    """Of which torch cannot show that no side shrinks to one pixel."""
    model = create_model(tiny(roadmap("resnet50")[row].design), 10).eval()
    program = formats.trace(Exported("torch", "fp32", None), model, False, Preprocessing((32, 32), 36)).module()
    for height, width in ((12, 13), (31, 90)):
        inputs = torch.randn(3, 3, height, width)
        torch.testing.assert_close(program(inputs), model(inputs), rtol=1e-4, atol=1e-5)


def test_inputs_that_a_file_refuses_are_one_line() -> None:
    class Unusual(Exception):
        pass

    def run(inputs: Floats) -> Floats:
        raise Unusual("Guard failed: 9 <= width\nand more")

    shown = [("x", np.zeros((8, 8, 3), np.uint8))]
    with pytest.raises(
        ExportFailed, match=r"shape \(1, 3, 8, 8\) \(Guard failed: 9 <= width\): give another"
    ) as raised:
        verify(Exported("torch", "fp32", (8, 8)), run, run, shown, Preprocessing((8, 8), 8), "x")
    assert "more" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "openvino", "torch", "aotinductor"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_stay_within_their_limits(
    bundle: Path, tmp_path: Path, to: Format, precision: Precision
) -> None:
    installed(to)
    if precision not in PRECISIONS[to]:
        with pytest.raises(FormatError, match="choose"):
            export(bundle, to, tmp_path / "file", precision=precision)
        return
    found = export(bundle, to, tmp_path / "file", precision=precision).verification
    assert found.largest_difference <= found.limit
    assert found.top1_equal >= 90


@pytest.mark.slow
@pytest.mark.parametrize("design", SWEEP, ids=SWEEP.values())
def test_every_row_and_family(design: Design, tmp_path: Path, digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """In ONNX Runtime, OpenVINO and torch.export, of one trace."""
    source = bundle_of(tmp_path / "bundle", design, 64 if design.stem == "patchify16" else 32, images=digits)
    monkeypatch.setattr(formats, "trace", once(formats.trace))
    for to in RUNTIMES:
        installed(to)
        agrees(export(source, to, tmp_path / "file", images=digits, threads=1), source, digits)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["executorch", "aotinductor"])
def test_convnext_tiny_in_the_other_runtimes(to: Format, tmp_path: Path, digits: Images) -> None:
    installed(to)
    if to == "aotinductor" and shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("AOTInductor needs a C++ compiler")
    source = bundle_of(tmp_path / "bundle", DESIGNS["convnext_tiny"], 64)
    agrees(export(source, to, tmp_path / "file", images=digits), source, digits)
