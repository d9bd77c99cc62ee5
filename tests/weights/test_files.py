"""Reading, bundling, converting: what comes in is checked, what goes out comes back bit-exact."""

from __future__ import annotations

import argparse
import json
import logging
import math
import pickle
import re
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nextify.cli import convert as command
from nextify.networks.dense.design import DenseDesign
from nextify.networks.zoo import designs
from nextify.paper.design import CONVNEXT_TINY, DESIGNS, RESNET50, Design
from nextify.paper.recipe import CONVNEXT, RESNET
from nextify.weights import (
    About,
    Metric,
    Preprocessing,
    UnsafeFile,
    WeightsError,
    convert,
    find,
    is_bundle,
    load,
    load_bundle,
    load_into,
    model_card,
    pull,
    push,
    recognize,
    rename,
    save_bundle,
)
from nextify.weights.bundle import DenseAbout, chosen_licence, dense_from_json, from_json, to_json
from nextify.weights.design_detection import infer_design
from nextify.weights.loading import adapt_channels
from nextify.weights.models import create_model

SMALL = CONVNEXT_TINY.with_(depths=(1, 1, 2, 1), widths=(8, 16, 24, 32))
V2 = SMALL.with_(layer_scale="off", response_norm="global")
ISOTROPIC = DESIGNS["convnext_isotropic_small"].with_(depths=(2,), widths=(8,))
SMALL_RESNET = RESNET50.with_(depths=(1, 1, 2, 1), widths=(8, 16, 24, 32))
FAMILIES = {"convnext": SMALL, "convnextv2": V2, "isotropic": ISOTROPIC, "resnet": SMALL_RESNET}


def weights(design: Design, classes: int = 5, channels: int = 3, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model = create_model(design, classes, in_channels=channels)
    state = {n: torch.randn(t.shape) if t.is_floating_point() else t for n, t in model.state_dict().items()}
    return {n: t.abs() if n.endswith("running_var") else t for n, t in state.items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def about(design: Design, **changes: Any) -> About:
    values: dict[str, Any] = {"design": design, "num_classes": 5, "licence": "cc-by-nc-4.0"}
    return About(**{**values, **changes})


PAIRS = [
    (kind, naming)
    for kind in FAMILIES
    for naming in ("official", "timm", "torchvision", "huggingface")
    if (kind, naming)
    not in {
        ("convnextv2", "torchvision"),
        ("isotropic", "timm"),
        ("isotropic", "torchvision"),
        ("isotropic", "huggingface"),
        ("resnet", "official"),
    }
]


@pytest.mark.parametrize(("kind", "naming"), PAIRS)
@pytest.mark.parametrize("ending", ["x.safetensors", "x.pth", "directory"])
def test_every_conversion_comes_back_bit_exact(kind: str, naming: Any, ending: str, tmp_path: Path) -> None:
    design = FAMILIES[kind]
    state = weights(design)
    save_bundle(tmp_path / "ours", state, about(design))
    convert(tmp_path / "ours", tmp_path / "there" / ending, naming)
    convert(tmp_path / "there" / ending, tmp_path / "back", "nextify")
    back = load_bundle(tmp_path / "back")
    assert equal(back.state, state)
    assert not back.about.design.differences(design)
    assert back.about.num_classes == 5


@pytest.mark.parametrize("design", [SMALL_RESNET, SMALL])
@pytest.mark.parametrize("naming", ["official", "huggingface"])
def test_what_a_library_lacks_is_refused(naming: Any, design: Design) -> None:
    other = design.with_(kernel_size=9)
    with pytest.raises(WeightsError, match="nextify"):
        rename(weights(other), other, naming)


def test_every_step_is_inferred_or_its_twins_are_named() -> None:
    # Only our own names can be ambiguous: activations have no weights.
    for name, design in designs().items():
        if not name.startswith("resnet50"):
            continue
        with torch.device("meta"):
            state = create_model(design).state_dict()
        try:
            assert not infer_design(recognize(state)).differences(design)
        except WeightsError as error:
            listed = [n for n in str(error).replace(",", "").split() if n in designs()]
            assert len(listed) > 1
            assert design in [designs()[n] for n in listed]


def test_official_file_with_a_namespace(tmp_path: Path) -> None:
    state = rename(weights(SMALL), SMALL, "official")
    torch.save({"model": state, "args": argparse.Namespace(lr=4e-3, out="x"), "epoch": 3}, tmp_path / "official.pth")
    found = find(tmp_path / "official.pth")
    assert found.naming == "official"
    assert equal(found.bundle.state, weights(SMALL))
    assert "ignored args, epoch" in found.notes[0]


class _Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("how", ["torch", "plain"])
def test_a_malicious_pickle_is_refused_and_not_run(how: str, tmp_path: Path) -> None:
    path, target = tmp_path / "evil.pth", tmp_path / "was-run"
    content = {"model": rename(weights(SMALL), SMALL, "official"), "args": _Attack(target)}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(_Attack(target)))
    with pytest.raises(WeightsError, match=r"refused|damaged") as caught:
        load(path)
    assert not target.exists()
    if how == "torch":
        assert isinstance(caught.value, UnsafeFile)
        assert "safetensors" in str(caught.value)
        # The same file does run where pickles are trusted, so the refusal is what protects.
        torch.load(path, weights_only=False)
        assert target.exists()


def test_problems_are_listed_in_one_error_in_the_files_own_names(tmp_path: Path) -> None:
    state = rename(weights(SMALL), SMALL, "timm")
    del state["stages.2.blocks.1.norm.bias"]
    state["stages.1.blocks.0.mlp.fc1.bias"] = torch.zeros(7)
    state["head.extra.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(WeightsError) as caught:
        load(tmp_path / "x.pth")
    text = str(caught.value)
    assert "missing (1): stages.2.blocks.1.norm.bias" in text
    assert "unexpected (1): head.extra.weight" in text
    assert "stages.1.blocks.0.mlp.fc1.bias (stages.1.blocks.0.pointwise1.bias) is (7,), not (64,)" in text


def test_unknown_names_and_other_files(tmp_path: Path) -> None:
    torch.save({"backbone.layer": torch.zeros(2)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="none of the names"):
        load(tmp_path / "x.pth")
    torch.save({"epoch": 3}, tmp_path / "y.pth")
    with pytest.raises(WeightsError, match="no state dict"):
        load(tmp_path / "y.pth")
    (tmp_path / "z.pth").write_text("hello")
    with pytest.raises(WeightsError, match=r"z\.pth"):
        load(tmp_path / "z.pth")
    (tmp_path / "z.safetensors").write_text("hello")
    with pytest.raises(WeightsError, match="not a safetensors"):
        load(tmp_path / "z.safetensors")
    with pytest.raises(FileNotFoundError, match="timm:name"):
        load(tmp_path / "none.pth")


def test_a_requested_name_must_fit(tmp_path: Path) -> None:
    torch.save(rename(weights(SMALL), SMALL, "timm"), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"not convnext_tiny: depths \(1, 1, 2, 1\) instead of \(3, 3, 9, 3\)"):
        create_model("convnext_tiny", weights=tmp_path / "x.pth")
    other_scale = SMALL.with_(layer_scale=0.1)
    assert load(tmp_path / "x.pth", other_scale).about.design.widths == SMALL.widths


def test_trainers_prefixes_are_taken_off(tmp_path: Path) -> None:
    state = {f"module._orig_mod.{n}": t for n, t in rename(weights(V2), V2, "huggingface").items()}
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    assert equal(dict(find(tmp_path / "x.pth").bundle.state), weights(V2))


def test_other_class_and_channel_counts_only_on_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_bundle(tmp_path / "b", weights(SMALL), about(SMALL, classes=tuple("abcde")))
    same = load(tmp_path / "b")
    assert same.notes == ()
    assert same.about.classes == tuple("abcde")
    assert "cc-by-nc-4.0" in caplog.text
    with caplog.at_level(logging.WARNING):
        other = load(tmp_path / "b", num_classes=3, in_channels=1)
    assert other.model(torch.zeros(1, 1, 32, 32)).shape == (1, 3)
    assert any("new: 3 classes" in note for note in other.notes)
    assert any("summed to 1" in note for note in other.notes)
    assert "new: 3 classes" in caplog.text
    assert other.about.classes == ()
    features = load(tmp_path / "b", num_classes=0)
    assert features.model(torch.zeros(1, 3, 32, 32)).shape == (1, 32)

    net = create_model(SMALL, 3)
    before = net.head.classifier.weight.clone()
    with pytest.raises(WeightsError, match=r"head\.classifier\.weight is"):
        load_into(net, tmp_path / "b")
    load_into(net, tmp_path / "b", adapt_head=True)
    assert torch.equal(net.head.classifier.weight, before)
    assert torch.equal(net.stem.conv.weight, weights(SMALL)["stem.conv.weight"])


def test_channels_are_adapted_as_in_timm() -> None:
    from timm.models import adapt_input_conv

    weight = torch.randn(4, 3, 4, 4)
    for channels in (1, 2, 3, 4, 7):
        assert torch.allclose(adapt_channels(weight, channels), adapt_input_conv(channels, weight)), channels


@pytest.mark.parametrize("name", ["b", "b.safetensors"])
def test_a_bundle_keeps_everything(name: str, tmp_path: Path) -> None:
    full = about(
        SMALL_RESNET,
        classes=("a", "b", "ç", "d", "e"),
        recipe=CONVNEXT.with_(epochs=30),
        preprocessing=Preprocessing(size=(96, 64), resize_size=110, interpolation="bilinear"),
        metrics=(Metric("top1", 81.25, "digits", 1197, "nextify train"),),
        source="a test",
        name="small",
        temperature=0.42,
    )
    state = weights(SMALL_RESNET)
    path = save_bundle(tmp_path / name, state, full)
    assert is_bundle(path)
    read = load_bundle(path)
    assert read.about == full.__class__(**{**full.__dict__, "nextify": read.about.nextify})
    assert read.about.nextify
    assert equal(read.state, state)
    save_bundle(path, state, about(SMALL_RESNET, recipe=RESNET))  # again, over the old one
    assert load_bundle(path).about.recipe == RESNET
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


def test_bundle_errors(tmp_path: Path) -> None:
    path = save_bundle(tmp_path / "b", weights(SMALL), about(SMALL))
    original = (path / "nextify.json").read_text()
    content = json.loads(original)

    def broken(**changes: Any) -> None:
        (path / "nextify.json").write_text(json.dumps({**content, **changes}))

    broken(schema=99)
    with pytest.raises(WeightsError, match="pip install -U"):
        load_bundle(path)
    broken(design={"depths": [1]})
    with pytest.raises(WeightsError, match="damaged or was edited"):
        load_bundle(path)
    broken(weights_sha256="0")
    with pytest.raises(WeightsError, match="same bundle"):
        load_bundle(path)
    (path / "nextify.json").write_text(original[:50])
    with pytest.raises(WeightsError, match="damaged"):
        load_bundle(path)
    (path / "nextify.json").write_text(original)
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match="truncated"):
        load_bundle(path)
    with pytest.raises(WeightsError, match="does not fit the design"):
        save_bundle(tmp_path / "c", weights(SMALL), about(V2))
    with pytest.raises(WeightsError, match="3 class names for 5"):
        about(SMALL, classes=("a", "b", "c"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(WeightsError, match="is not a bundle or an export"):
        save_bundle(tmp_path / "mine", weights(SMALL), about(SMALL))
    assert not (tmp_path / "c").exists()


def test_a_bundle_takes_no_place_of_other_files_or_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_bundle(tmp_path / "b", weights(SMALL), about(SMALL))
    save_bundle(path, weights(SMALL, seed=1), about(SMALL))
    (path / "labels").mkdir()
    with pytest.raises(WeightsError, match="b also holds labels, which would be lost: move it, or choose another"):
        save_bundle(path, weights(SMALL), about(SMALL))
    (path / "labels").rmdir()
    monkeypatch.chdir(path)
    with pytest.raises(WeightsError, match="is the current folder or above it"):
        save_bundle(path, weights(SMALL), about(SMALL))


WRONG_FIELDS: list[tuple[str, object]] = [
    *(("classes", value) for value in ([1, 2, 3, 4, 5], [["a"]] * 5, [None] * 5, {"a": 1}, "abcde", ["a"])),
    *(("num_classes", value) for value in ("5", 5.0, True, -1)),
    *(("schema", value) for value in (True, 0, "1", None)),
    ("name", 5),
    *(("metrics", [{"name": "top1", "value": value, "dataset": "x"}]) for value in ("81", [81], None)),
    ("design", []),
    ("preprocessing", None),
    *(("size", value) for value in ("32", [32, 32, 99], [32.9, 32.9], [True, 32], None, 1e400, 10**400, [0, 32])),
    *(("resize_size", value) for value in (36.5, "36", True, None, -1)),
    *(("mean", value) for value in ([1e300] * 3, ["0.5"] * 3, 0.5, [math.nan] * 3, [10**400] * 3, [[0.5]] * 3)),
    *(("std", value) for value in ([1e-300] * 3, [0, 0, 0], [1e300] * 3, [True] * 3)),
    *(("antialias", value) for value in ("no", 1, None)),
    *((name, value) for name in ("fit", "interpolation") for value in ("no", 1, ["crop"])),
    ("bands", [1, 2]),
    *(("temperature", value) for value in (0, -1, "1", True, None, 1e400, math.nan)),
]


@pytest.mark.parametrize(("name", "value"), WRONG_FIELDS, ids=lambda value: str(value)[:20])
def test_a_wrong_field_is_named_in_one_line(name: str, value: object) -> None:
    content = json.loads(json.dumps({**to_json(about(SMALL)), "classes": list("abcde")}))
    assert from_json(content, "b/nextify.json").classes == tuple("abcde")
    inner = content["preprocessing"] if name in {f.name for f in fields(Preprocessing)} else content
    inner[name] = value
    with pytest.raises(
        WeightsError, match=rf"^b/nextify\.json is .*\b{name if value != ['a'] else 'class names'}\b"
    ) as error:
        from_json(content, "b/nextify.json")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("classes", value) for value in ("ab", [1, 2], None, {"a": 1})),
        *(("canvas", value) for value in ([64], [64, 64.5], [0, 64], "64", None)),
        *((name, value) for name in ("mean", "std") for value in (0.5, None, [0.5], ["0.5"] * 3)),
        ("std", [0, 0, 0]),
        *((name, 5) for name in ("name", "licence", "metrics", "design")),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_wrong_field_of_a_detector_is_named_in_one_line(name: str, value: object) -> None:
    numbers = (0.5, 0.5, 0.5)
    detector = DenseAbout(DenseDesign(SMALL), ("a", "b"), (64, 64), numbers, numbers)
    content = json.loads(json.dumps(to_json(detector)))
    assert dense_from_json(content, "b/nextify.json") == detector
    for changed in ({**content, name: value}, {n: v for n, v in content.items() if n != name}):
        if name in changed or name in ("classes", "canvas", "mean", "std", "design"):
            with pytest.raises(WeightsError, match=rf"^b/nextify\.json is .*\b{name}\b"):
                dense_from_json(changed, "b/nextify.json")


def test_a_temperature_belongs_to_the_bundle_and_is_one_where_there_is_none(tmp_path: Path) -> None:
    for temperature in (1.0, 0.5):
        path = save_bundle(tmp_path / "b", weights(SMALL), about(SMALL, temperature=temperature))
        content = json.loads((path / "nextify.json").read_text())
        changed = {**content, "temperature": 2.0}
        with pytest.raises(WeightsError, match="damaged or was edited"):
            from_json(changed, "b")
        del content["temperature"]  # as in bundles of earlier versions
        if temperature == 1:
            assert from_json(content, "b").temperature == 1
        else:
            with pytest.raises(WeightsError, match="damaged or was edited"):
                from_json(content, "b")


def test_a_deeply_nested_bundle_is_damaged(tmp_path: Path) -> None:
    path = save_bundle(tmp_path / "b", weights(SMALL), about(SMALL))
    whole = (path / "nextify.json").read_text()
    for text in ("[" * 100_000, whole.replace('"classes": []', '"classes": ' + "[" * 900 + "]" * 900)):
        assert text != whole
        (path / "nextify.json").write_text(text)
        with pytest.raises(WeightsError, match=r"nextify\.json is damaged"):
            load_bundle(path)


def test_a_failed_write_leaves_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_bundle(tmp_path / "b", weights(SMALL), about(SMALL))

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nextify.weights.bundle.write_json_atomic", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_bundle(path, weights(SMALL, seed=1), about(SMALL))
    assert equal(load_bundle(path).state, weights(SMALL))
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_own_weights_without_a_bundle(tmp_path: Path) -> None:
    state = weights(designs()["resnet50_gelu"].with_(depths=(1, 1, 1, 1), widths=(8, 8, 8, 8)))
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="fit no named design"):
        load(tmp_path / "x.pth")
    design = designs()["resnet50_gelu"].with_(depths=(1, 1, 1, 1), widths=(8, 8, 8, 8))
    assert load(tmp_path / "x.pth", design).about.design == design


def test_a_preprocessing_that_is_lost_is_said(tmp_path: Path) -> None:
    small = replace(about(SMALL), preprocessing=Preprocessing((48, 40), 55))
    save_bundle(tmp_path / "small", weights(SMALL), small)
    save_bundle(tmp_path / "usual", weights(SMALL), replace(small, preprocessing=Preprocessing()))
    for source, to, name, lost in (
        ("small", "timm", "x.safetensors", True), ("small", "official", "folder", True), ("small", "timm", "a", False),
        ("small", "huggingface", "b", False), ("small", "nextify", "c", False), ("usual", "official", "x.pth", False),
    ):  # fmt: skip
        done = convert(tmp_path / source, tmp_path / to / name, to)  # type: ignore[arg-type]
        said = [note for note in done.notes if "cannot record how images are prepared, such as 40×48 pixels" in note]
        assert bool(said) is lost, (source, to, name)


def test_a_conversion_replaces_neither_its_source_nor_part_of_a_bundle(tmp_path: Path) -> None:
    state = weights(SMALL)
    run, bundle, other = tmp_path / "run", tmp_path / "run" / "bundle", tmp_path / "other"
    for path in (bundle, other, tmp_path / "b.safetensors"):
        save_bundle(path, state, about(SMALL))
    convert(bundle, tmp_path / "hf", "huggingface")
    convert(bundle, tmp_path / "x.pth", "official")
    (tmp_path / "linked").symlink_to(bundle)
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    for source, destination, naming in (
        (bundle, bundle, "huggingface"),
        (run, bundle, "timm"),
        (tmp_path / "linked", bundle, "timm"),
        (bundle, tmp_path / "linked", "official"),
        (bundle, bundle / "model.safetensors", "timm"),
        (bundle, bundle / "model.safetensors", "nextify"),
        (bundle, other, "torchvision"),
        (tmp_path / "b.safetensors", tmp_path / "b.safetensors", "timm"),
        (tmp_path / "hf", tmp_path / "hf", "timm"),
        (tmp_path / "hf", tmp_path / "hf", "nextify"),
        (tmp_path / "x.pth", tmp_path / "x.pth", "timm"),
    ):
        with pytest.raises(WeightsError, match=r"choose another name$"):
            convert(source, destination, naming)
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before
    convert(bundle, other, "nextify")  # one whole bundle for another
    convert(bundle, tmp_path / "x.pth", "timm")  # another file that is asked for
    assert equal(load_bundle(other).state, state)


def test_huggingface_reads_what_is_written_for_it(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for kind, class_name in (("convnext", "ConvNext"), ("convnextv2", "ConvNextV2"), ("resnet", "ResNet")):
        design, folder = FAMILIES[kind], tmp_path / kind
        save_bundle(tmp_path / f"{kind}-b", weights(design), about(design, classes=tuple("abcde")))
        convert(tmp_path / f"{kind}-b", folder, "huggingface")
        model = getattr(transformers, f"{class_name}ForImageClassification").from_pretrained(folder).eval()
        images = torch.randn(2, 3, 64, 64)
        loaded = load(folder)
        with torch.inference_mode():
            assert torch.allclose(loaded.model(images), model(images).logits, rtol=1e-4, atol=1e-4)
        assert loaded.about.classes == tuple("abcde")
        assert loaded.preprocessing == Preprocessing()
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        assert processor.crop_pct == 0.875
    named = load(tmp_path / "convnext" / "model.safetensors")  # the config beside it counts
    assert named.about.classes == tuple("abcde")
    assert not any("assumed" in note for note in named.notes)
    config = json.loads((tmp_path / "convnext" / "config.json").read_text())
    (tmp_path / "convnext" / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-3}))
    with pytest.raises(WeightsError, match=r"layer norm of epsilon 0\.001, nextify's 1e-06"):
        load(tmp_path / "convnext")
    (tmp_path / "resnet" / "config.json").write_text('{"downsample_in_bottleneck": true}')
    for path in (tmp_path / "resnet", tmp_path / "resnet" / "model.safetensors"):
        with pytest.raises(WeightsError, match="downsample_in_bottleneck"):
            load(path)


def test_a_bundles_file_of_weights_is_read_as_the_bundle(tmp_path: Path) -> None:
    settings = Preprocessing(size=(48, 48), resize_size=56)
    save_bundle(tmp_path / "b", weights(SMALL), about(SMALL, classes=tuple("abcde"), preprocessing=settings))
    loaded = load(tmp_path / "b" / "model.safetensors")
    assert (loaded.preprocessing, loaded.about.classes) == (settings, tuple("abcde"))


def test_what_a_conversion_loses_is_noted(tmp_path: Path) -> None:
    """transformers crops squares below 384 pixels and squashes from there on; timm always antialiases."""
    design, lost = FAMILIES["convnext"], "will prepare images differently"
    given = about(design, licence="cc-by-4.0", recipe=replace(CONVNEXT, test_mirror="on"))
    for to, settings, words in (
        ("huggingface", Preprocessing((40, 32), 44), "size (40, 32) becomes (32, 32)"),
        ("huggingface", Preprocessing((384, 384), 384), "fit crop becomes squash"),
        ("huggingface", Preprocessing((224, 224), 224, "squash"), "fit squash becomes crop"),
        ("timm", Preprocessing(antialias=False), "antialias False becomes True"),
        ("huggingface", Preprocessing((192, 192), 225), ""),  # whose ratio would be floored to 224
        ("timm", Preprocessing((192, 192), 225, interpolation="lanczos"), ""),
    ):
        save_bundle(tmp_path / "b", weights(design), replace(given, preprocessing=settings))
        notes = convert(tmp_path / "b", tmp_path / "there", to).notes  # type: ignore[arg-type]
        assert [words in note for note in notes if lost in note] == [True] * bool(words)
        assert (load(tmp_path / "there").preprocessing == settings) is not bool(words)
        assert any(f"mirror image's (test_mirror), which {to} cannot record" in note for note in notes)
        assert any("the licence (cc-by-4.0) is not recorded" in note for note in notes) is (to != "timm")
        shutil.rmtree(tmp_path / "there")
    four = Preprocessing((32, 32), 32, mean=(0.5,) * 4, std=(0.2,) * 4, bands=4)
    stated = replace(given, in_channels=4, preprocessing=four)
    save_bundle(tmp_path / "four", weights(design, channels=4), stated)
    for to in ("huggingface", "timm"):
        notes = convert(tmp_path / "four", tmp_path / to, to).notes  # type: ignore[arg-type]
        assert any(f"of an image, which {to} cannot record" in note for note in notes)


def test_several_labels_survive_a_conversion_for_transformers(tmp_path: Path) -> None:
    """Both took the softmax, so that an image had one label at most."""
    transformers = pytest.importorskip("transformers")
    thresholds = (0.2, 0.5, 0.5, 0.5, 0.7)
    save_bundle(tmp_path / "b", weights(SMALL), about(SMALL, classes=tuple("abcde"), thresholds=thresholds))
    notes = convert(tmp_path / "b", tmp_path / "there", "huggingface").notes
    assert any("each by a threshold, which huggingface cannot record" in note for note in notes)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "there")
    assert config.problem_type == "multi_label_classification"  # of which its pipeline takes the sigmoid
    loaded = load(tmp_path / "there")
    assert loaded.about.thresholds == (0.5,) * 5
    assert any("each from a probability of 0.5" in note for note in loaded.notes)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"architecture": "test_convnext"}, "has layer norms of epsilon 1e-05"),
        ({"model_args": {"act_layer": "gelu_tanh"}}, "has GELU's tanh approximation"),
        ({"model_args": {"act_layer": "relu"}}, "has ReLU activations; nextify's models of its kind have GELU"),
        ({"model_args": {"norm_eps": 1e-3}}, "has layer norms of epsilon 0.001"),
        ({"model_args": {"output_stride": 16}}, "has dilated convolutions"),
        ({"model_args": {"global_pool": "max"}}, "pools by max; nextify's models average"),
    ],
)
def test_a_directory_for_timm_of_what_computes_otherwise_is_refused(
    changed: dict[str, object], said: str, tmp_path: Path
) -> None:
    save_bundle(tmp_path / "b", create_model("convnext_atto", 5).state_dict(), About(designs()["convnext_atto"], 5))
    convert(tmp_path / "b", tmp_path / "timm", "timm")
    load(tmp_path / "timm")
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config | changed))
    for path in (tmp_path / "timm", tmp_path / "timm" / "model.safetensors"):
        with pytest.raises(WeightsError, match=said.replace(".", r"\.")):
            load(path)


def test_a_checkpoint_of_timm_whose_options_compute_otherwise_is_refused(tmp_path: Path) -> None:
    state = rename(create_model("convnext_atto", 5).state_dict(), designs()["convnext_atto"], "timm")
    cases: list[tuple[dict[str, object], str]] = [
        ({"model_kwargs": {"act_layer": "relu"}}, "has ReLU activations"),
        ({"gp": "max", "model_kwargs": None}, "pools by max"),
        ({"gp": None}, ""),
    ]
    for options, said in cases:
        args = argparse.Namespace(model="convnext_atto", **options)
        torch.save({"state_dict": state, "args": args}, tmp_path / "checkpoint.pth")
        if said:
            with pytest.raises(WeightsError, match=said):
                load(tmp_path / "checkpoint.pth")
        else:
            load(tmp_path / "checkpoint.pth")


def test_a_bare_huggingface_model_is_recognized() -> None:
    for design in (SMALL, V2, SMALL_RESNET):
        state = rename(weights(design), design, "huggingface")
        bare = {n.partition(".")[2]: t for n, t in state.items() if not n.startswith("classifier")}
        recognized = recognize(bare)
        assert recognized.naming == "huggingface"
        assert recognized.unexpected == ()
        assert not infer_design(recognized).differences(design)


def _cache(root: Path, owner_name: str, bundle: Path) -> None:
    """A model as the Hub's client keeps it."""
    commit = "a" * 40
    repo = root / f"models--{owner_name.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots").mkdir()
    bundle.rename(repo / "snapshots" / commit)


def test_pull_with_the_real_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    bundle = save_bundle(tmp_path / "b", weights(SMALL), about(SMALL))
    _cache(tmp_path / "cache", "someone/small", bundle)
    assert (pull("hf:someone/small", cache_dir=tmp_path / "cache", offline=True) / "nextify.json").is_file()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for source in ("hf:someone/small", "someone/small", "hf:someone/small@main"):
        loaded = load(source)
        assert equal(dict(loaded.model.state_dict()), weights(SMALL))
        assert loaded.about.source == f"hf:{source.removeprefix('hf:')}"
    with pytest.raises(WeightsError, match="could not be fetched from the Hub"):
        load("hf:someone/other")
    with pytest.raises(WeightsError, match="there is no path someone/other"):
        load("someone/other")


def test_push_uploads_a_bundle_with_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    metrics = (Metric("top1", 81.25, "digits", 1197, "nextify train"),)
    save_bundle(tmp_path / "b", weights(SMALL), about(SMALL, metrics=metrics, name="small_convnext"))
    seen: dict[str, Any] = {}

    class Api:
        def create_repo(self, name: str, **settings: Any) -> None:
            seen["repo"] = name

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> str:
            seen["files"] = sorted(p.name for p in Path(folder_path).iterdir())
            seen["card"] = (Path(folder_path) / "README.md").read_text()
            return "https://huggingface.co/someone/small/commit/1"

    monkeypatch.setattr(hub, "HfApi", Api)
    assert push(tmp_path / "b", "hf:someone/small").endswith("commit/1")
    assert seen["repo"] == "someone/small"
    assert seen["files"] == ["README.md", "model.safetensors", "nextify.json"]
    card = hub.ModelCard(seen["card"])  # the real client's reader of front matter
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.eval_results[0].metric_value == 81.25
    assert 'load("hf:someone/small")' in card.text


def test_model_card_quotes_what_yaml_would_misread() -> None:
    card = model_card(about(SMALL, licence="see: LICENSE"))
    assert 'license: "see: LICENSE"' in card


def test_ones_own_licence_is_yours_until_it_is_chosen() -> None:
    assert "license: other\n" in model_card(about(SMALL, licence=chosen_licence("yours", None)))
    assert "license: cc-by-4.0\n" in model_card(about(SMALL, licence=chosen_licence("yours", "cc-by-4.0")))
    assert chosen_licence("apache-2.0", None) == "apache-2.0"
    assert chosen_licence("dinov3-license", "dinov3-license") == "dinov3-license"
    with pytest.raises(WeightsError, match=r"applies to every derivative.*leave --licence out"):
        chosen_licence("dinov3-license", "mit")


def test_model_card_shows_foreign_text_as_text() -> None:
    """Neither Markdown, HTML nor line breaks of a bundle's text change the page."""
    yaml = pytest.importorskip("yaml")
    foreign = "a_b <img src=x> [click](javascript:x) | `c`\n# Heading\n---\x1b[31m\x00\x7f\x9b"
    metrics = (Metric("top-1", 90.0, foreign, 100, foreign),)
    card = model_card(replace(about(SMALL, name=foreign, licence=foreign, source=foreign), metrics=metrics))
    front, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(front)["license"] == foreign
    assert yaml.safe_load(front)["model-index"][0]["results"][0]["dataset"]["name"] == foreign
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", card)
    prose = body.split("```json")[0]
    assert "<img" not in prose
    assert not re.search(r"(?<!\\)\[click", prose)
    assert [line for line in prose.splitlines() if line.startswith("#")][1:] == [
        "## Preprocessing",
        "## Figures",
        "## Design",
    ]
    rows = [line for line in prose.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}


def test_timm_route_takes_timms_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    real = timm.create_model

    def untrained(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
        assert pretrained
        return real(name, pretrained=False, **kwargs)

    monkeypatch.setattr(timm, "create_model", untrained)
    loaded = load("timm:convnext_atto.d2_in1k", "convnext_atto")
    assert loaded.about.licence == "apache-2.0"
    assert loaded.about.name == "convnext_atto"
    assert loaded.preprocessing == Preprocessing()
    with pytest.raises(WeightsError, match="epsilon 1e-05"):
        load("timm:test_convnext")


def test_half_precision_files(tmp_path: Path) -> None:
    state = {n: t.half() for n, t in rename(weights(SMALL), SMALL, "timm").items()}
    torch.save(state, tmp_path / "x.pth")
    loaded = load(tmp_path / "x.pth")
    assert loaded.model.stem.conv.weight.dtype == torch.float32
    assert any("float16" in note for note in loaded.notes)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import tyro

    save_bundle(tmp_path / "b", weights(SMALL), about(SMALL))
    arguments = [str(tmp_path / "b"), str(tmp_path / "out.pth"), "--to", "timm"]
    assert command.run(tyro.cli(command.Options, args=arguments)) == 0
    assert "from nextify to timm" in capsys.readouterr().out
    assert recognize(torch.load(tmp_path / "out.pth", weights_only=True)).naming == "timm"


def test_input_of_every_kind_of_image() -> None:
    from PIL import Image

    settings = Preprocessing(size=(32, 32), resize_size=36)
    array = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    expected = settings(Image.fromarray(array))
    assert torch.equal(settings(array), expected)
    assert settings(array[..., 0]).shape == (3, 32, 32)
    assert settings.batch([array, array[:45]]).shape == (2, 3, 32, 32)
    gray = Preprocessing(size=(32, 32), resize_size=36, mean=(0.5,), std=(0.5,))
    assert gray(array).shape == (1, 32, 32)
    with pytest.raises(TypeError, match="uint8"):
        settings(array.astype(np.float32))


def test_the_same_image_gives_the_same_logits_through_every_route(tmp_path: Path) -> None:
    settings = Preprocessing(size=(64, 64), resize_size=73)
    save_bundle(tmp_path / "b", weights(SMALL), about(SMALL, preprocessing=settings))
    save_bundle(tmp_path / "b.safetensors", weights(SMALL), about(SMALL, preprocessing=settings))
    convert(tmp_path / "b", tmp_path / "hf", "huggingface")
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    results = []
    for source in ("b", "b.safetensors", "hf"):
        loaded = load(tmp_path / source)
        with torch.inference_mode():
            results.append(loaded.model(loaded.preprocessing(picture)[None]))
    assert all(torch.equal(result, results[0]) for result in results)


ATTO = designs()["convnext_atto"]


@pytest.mark.parametrize(
    ("name", "design"),
    [
        ("convnext_atto", ATTO.with_(depths=(1, 1, 2, 1), widths=(8, 16, 24, 32))),
        ("", ATTO.with_(depths=(1, 1, 1, 1), widths=(96, 16, 24, 32), kernel_size=5, layer_scale="off")),
        ("convnextv2_atto", designs()["convnextv2_atto"].with_(depths=(1, 1, 1, 1), widths=(8, 16, 24, 32))),
        ("convnext_atto", ATTO.with_(layer_scale=0.1)),
        ("convnext_atto", ATTO.with_(layer_scale="off")),
    ],
)
def test_timm_creates_a_scaled_calibrated_network_from_the_directory(tmp_path: Path, name: str, design: Design) -> None:
    timm = pytest.importorskip("timm")
    model = create_model(design, 5).eval()
    bundle = save_bundle(tmp_path / "b", model.state_dict(), about(design, name=name, temperature=2.0))
    notes = convert(bundle, tmp_path / "timm", "timm").notes
    assert "the last layer is divided by the temperature 2, for calibrated confidences" in notes
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(theirs(images), model(images) / 2, atol=1e-5)


def test_a_network_that_timm_cannot_name_says_so(tmp_path: Path) -> None:
    design = ATTO.with_(depths=(1, 1, 1, 1), widths=(8, 16, 24, 32), stem="patchify2")
    bundle = save_bundle(tmp_path / "b", weights(design), about(design, name="convnext_atto"))
    assert convert(bundle, tmp_path / "timm", "timm").notes[-1].startswith("timm has no name for this network")
    assert "architecture" not in json.loads((tmp_path / "timm" / "config.json").read_text())
