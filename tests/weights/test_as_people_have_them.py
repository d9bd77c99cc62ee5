"""Checkpoints as trainers and other releases write them: read and said, or refused in one line."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from nextify.cli import main
from nextify.networks.zoo import create_model
from nextify.paper.design import CONVNEXT_TINY
from nextify.weights import About, UnsafeFile, WeightsError, find, load, load_bundle, model_card, rename, save_bundle
from nextify.weights.models import create_backbone
from tests.helpers import Captured, save_noise, tiny_bundle

SMALL = CONVNEXT_TINY.with_(depths=(1, 1, 2, 1), widths=(8, 16, 24, 32))
V2 = SMALL.with_(layer_scale="off", response_norm="global")
State = dict[str, Tensor]


def weights(design: Any = SMALL, classes: int = 5, seed: int = 0, channels: int = 3) -> State:
    torch.manual_seed(seed)
    model = create_model(design, classes, in_channels=channels)
    return {name: torch.randn(tensor.shape) for name, tensor in model.state_dict().items()}


def official(design: Any = SMALL, classes: int = 5, seed: int = 0) -> State:
    return rename(weights(design, classes, seed), design, "official")


def same(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in found)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda t: t.fill_(float("nan")), "NaN or infinite"),
        (lambda t: t.fill_(float("inf")), "NaN or infinite"),
        (lambda t: t.to(torch.int8), "int8, not floating point"),
    ],
)
@pytest.mark.parametrize("form", ["file", "bundle"])
def test_weights_that_compute_nothing_are_refused(
    break_it: Callable[[Tensor], Tensor], message: str, form: str, tmp_path: Path
) -> None:
    state = weights()
    name = "stages.1.blocks.0.pointwise1.weight"
    state[name] = break_it(state[name])
    if form == "file":
        torch.save(rename(state, SMALL, "timm"), tmp_path / "x")
    else:
        save_bundle(tmp_path / "x", state, About(SMALL, 5))
    with pytest.raises(WeightsError, match=f"{re.escape(name)}.*{message}|{message} of {re.escape(name)}|{message}"):
        find(tmp_path / "x")


def test_nothing_is_drawn_where_all_weights_are_given(tmp_path: Path) -> None:
    state = weights()
    save_bundle(tmp_path / "bundle", state, About(SMALL, 5))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model = load(tmp_path / "bundle").model
    assert torch.equal(torch.get_rng_state(), before)
    assert same(model.state_dict(), state)
    assert all(parameter.requires_grad for parameter in model.parameters())
    load(tmp_path / "bundle", num_classes=3)
    assert not torch.equal(torch.get_rng_state(), before)


COMMANDS = {"predict": ("{data}/{first}",), "evaluate": ("--data", "{data}", "--part", "all", "--device", "cpu")}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("json_form", [(), ("--json",)])
def test_weights_of_nan_end_in_one_line(
    command: str, json_form: tuple[str, ...], tmp_path: Path, capsys: Captured
) -> None:
    state = weights(classes=2)
    state["head.norm.bias"][3] = float("nan")
    bundle = save_bundle(tmp_path / "b", state, About(SMALL, 2, classes=("a", "b")))
    for i in range(8):
        save_noise(tmp_path / "data" / "ab"[i % 2] / f"{i}.png", i, (16, 16))
    rest = (part.format(data=tmp_path / "data", first="a") for part in COMMANDS[command])
    assert main([command, str(bundle), *rest, *json_form]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "1 of 32 weights of head.norm.bias are NaN or infinite" in err.splitlines()[-1]


@pytest.mark.parametrize("command", COMMANDS)
def test_control_characters_of_class_names_are_escaped(command: str, tmp_path: Path, capsys: Captured) -> None:
    names = ("a\x1b[31m", "b\x9bc")
    bundle = tiny_bundle(tmp_path / "b", names, 16, 1.0, name="x\x1b[0m", licence="y\x07", source="z\x1b")
    for i in range(8):
        save_noise(tmp_path / "data" / names[i % 2] / f"{i}.png", i, (16, 16))
    rest = (part.format(data=tmp_path / "data", first=names[0]) for part in COMMANDS[command])
    assert main([command, str(bundle), *rest]) == 0
    out, err = capsys.readouterr()
    assert "a\\x1b[31m" in out
    assert "b\\x9bc" in out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", out + err)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_channel_counts_are_gray_refused_or_adapted(channels: int, tmp_path: Path) -> None:
    torch.save(rename(weights(channels=channels), SMALL, "timm"), tmp_path / "x.pth")
    loaded = load(tmp_path / "x.pth")
    if channels == 1:
        assert loaded.preprocessing.channels == 1
        assert loaded.preprocessing.mean[0] == pytest.approx(sum((0.485, 0.456, 0.406)) / 3)
    else:
        with pytest.raises(WeightsError, match=rf"takes {channels} channels.*in_channels=3"):
            _ = loaded.preprocessing
    adapted = load(tmp_path / "x.pth", in_channels=3)
    assert adapted.about.in_channels == 3
    assert adapted.model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize("key", ["ema", "ema_model", "ema_state_dict", "model_ema", "state_dict_ema"])
@pytest.mark.parametrize("nested", [None, "module", "n_averaged"])
def test_averaged_weights_are_taken_and_said(key: str, nested: str | None, tmp_path: Path) -> None:
    mean, last = official(seed=1), official(seed=2)
    content: Any = mean
    if nested == "module":
        content = {"module": mean, "decay": 0.999}
    elif nested == "n_averaged":
        content = {"n_averaged": torch.tensor(3), **{f"module.{n}": t for n, t in mean.items()}}
    torch.save({"model": last, key: content, "epoch": 3}, tmp_path / "x.pth")
    found = find(tmp_path / "x.pth")
    assert same(found.bundle.state, weights(seed=1))
    assert any(f"took {key!r}, the averaged weights," in note for note in found.notes)


def test_a_swa_models_own_state_dict(tmp_path: Path) -> None:
    model = create_model(V2, 5)
    model.load_state_dict(weights(V2))
    torch.save(AveragedModel(model, use_buffers=True).state_dict(), tmp_path / "x.pth")
    assert same(find(tmp_path / "x.pth", V2).bundle.state, weights(V2))


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "net.", "backbone.", "model._orig_mod.", "module._orig_mod.model."]
)
@pytest.mark.parametrize("naming", ["official", "timm", "torchvision", "huggingface"])
def test_any_prefix_is_stripped_and_said(prefix: str, naming: Any, tmp_path: Path) -> None:
    state = {prefix + name: tensor for name, tensor in rename(weights(), SMALL, naming).items()}
    torch.save({"state_dict": {**state, "criterion.weight": torch.ones(3)}}, tmp_path / "x.ckpt")
    found = find(tmp_path / "x.ckpt")
    assert same(found.bundle.state, weights())
    assert any(repr(prefix) in note and "criterion.weight" in note for note in found.notes)


def test_timms_saved_args_are_the_preprocessing(tmp_path: Path) -> None:
    args = argparse.Namespace(
        img_size=160, input_size=None, mean=(0.5, 0.5, 0.5), std=[0.2] * 3, crop_pct=1.0, interpolation="bilinear"
    )
    torch.save({"state_dict": rename(weights(), SMALL, "timm"), "args": args}, tmp_path / "last.pth.tar")
    loaded = load(tmp_path / "last.pth.tar")
    settings = loaded.preprocessing
    assert (settings.size, settings.resize_size, settings.interpolation) == ((160, 160), 160, "bilinear")
    assert (settings.mean, settings.std) == ((0.5,) * 3, (0.2,) * 3)
    assert any("img_size=160" in note for note in loaded.notes)


def sparse(state: State) -> State:
    """As MinkowskiEngine names and shapes the official V2's tensors."""
    found = {}
    for name, tensor in state.items():
        dense = "downsample_layers.0" not in name
        if dense and (".dwconv.weight" in name or re.match(r"downsample_layers\.\d\.1\.weight", name)):
            name = name.removesuffix("weight") + "kernel"
            columns_first = tensor.transpose(3, 2).flatten(2)
            tensor = columns_first[:, 0].T if ".dwconv." in name else columns_first.permute(2, 1, 0)
        elif dense and (".norm." in name or re.match(r"downsample_layers\.\d\.0\.", name)):
            name = re.sub(r"\.(weight|bias)$", r".ln.\1", name)
        elif ".pwconv" in name:
            name = re.sub(r"\.(weight|bias)$", r".linear.\1", name)
        elif ".grn." in name:
            tensor = tensor.reshape(1, -1)
        if name.endswith("bias") and dense:
            tensor = tensor.reshape(1, -1)
        found[f"encoder.{name}"] = tensor
    return found


@pytest.mark.parametrize("form", ["sparse", "remapped", "encoder"])
def test_fcmae_checkpoints_load_for_fine_tuning(form: str, tmp_path: Path) -> None:
    encoder = {n: t for n, t in official(V2).items() if not n.startswith(("norm.", "head."))}
    decoder = {
        "decoder.0.dwconv.weight": torch.ones(4, 1, 7, 7),
        "decoder.0.grn.gamma": torch.ones(1, 1, 1, 16),
        "proj.weight": torch.ones(4, 32, 1, 1),
        "pred.weight": torch.ones(3072, 4, 1, 1),
        "mask_token": torch.ones(1, 4, 1, 1),
    }
    state = {"sparse": {**sparse(encoder), **decoder}, "remapped": {**encoder, **decoder}, "encoder": encoder}[form]
    torch.save({"model": state}, tmp_path / "x.pt")
    loaded = load(tmp_path / "x.pt", num_classes=7)
    expected = {n: t for n, t in weights(V2).items() if not n.startswith("head.")}
    own = loaded.model.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in expected.items())
    assert torch.equal(own["head.norm.weight"], torch.ones(32))
    assert any("starts fresh" in note for note in loaded.notes)


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("head", [{}, {"decode_head.conv_seg.weight": torch.ones(2)}])
def test_official_dense_prediction_backbones(prefix: str, head: State, tmp_path: Path) -> None:
    if head and not prefix:
        pytest.skip("a head stands beside a backbone that has a prefix")
    state = {n: t for n, t in official(classes=0).items() if not n.startswith("norm.")}
    norms = {f"norm{i}.{leaf}": torch.randn(w) for i, w in enumerate(SMALL.widths) for leaf in ("weight", "bias")}
    torch.save({"state_dict": {**{prefix + n: t for n, t in {**state, **norms}.items()}, **head}}, tmp_path / "x.pth")
    backbone = create_backbone(SMALL, weights=tmp_path / "x.pth", norms=True)
    own = backbone.state_dict()
    assert all(torch.equal(own[n], t) for n, t in weights(classes=0).items() if not n.startswith("head."))
    for name, tensor in norms.items():
        assert torch.equal(own[name.replace("norm", "norms.")], tensor)
    some = create_backbone(SMALL, (1, 3), weights=tmp_path / "x.pth", norms=True)
    assert torch.equal(some.state_dict()["norms.3.weight"], norms["norm3.weight"])
    assert not create_backbone(SMALL, weights=tmp_path / "x.pth").norms
    assert any("norm0, norm1, norm2, norm3" in note for note in find(tmp_path / "x.pth").notes)


def mmpretrain(state: State) -> State:
    renamed = {n.replace("dwconv", "depthwise_conv").replace("pwconv", "pointwise_conv"): t for n, t in state.items()}
    renamed = {n: t.reshape(-1) if ".grn." in n else t for n, t in renamed.items()}
    return {
        re.sub(r"^head\.", "head.fc.", n) if n.startswith("head.") else "backbone." + re.sub(r"^norm\.", "norm3.", n): t
        for n, t in renamed.items()
    }


@pytest.mark.parametrize("design", [SMALL, V2])
def test_mmpretrain(design: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": mmpretrain(official(design)), "meta": {}}, tmp_path / "x.pth")
    assert same(find(tmp_path / "x.pth").bundle.state, weights(design))


@pytest.mark.parametrize("form", ["official", "transformers", "transformers' backbone", "transformers on the Hub"])
def test_dinov3_as_published(form: str, tmp_path: Path) -> None:
    state = official(classes=0)
    if form == "official":
        state |= {f"norms.3.{leaf}": state[f"norm.{leaf}"] for leaf in ("weight", "bias")}
    else:
        transformers = pytest.importorskip("transformers")
        config = transformers.DINOv3ConvNextConfig(depths=list(SMALL.depths), hidden_sizes=list(SMALL.widths))
        kind = transformers.DINOv3ConvNextBackbone if "backbone" in form else transformers.DINOv3ConvNextModel
        names = kind(config).state_dict()
        prefix = "model." if any(n.startswith("model.") for n in names) else ""
        state = {n: torch.randn(t.shape) for n, t in names.items()}
        if form == "transformers on the Hub":
            state = {n.removeprefix(prefix): t for n, t in state.items()}
    torch.save(state, tmp_path / "x.pth")
    found = find(tmp_path / "x.pth")
    assert not found.bundle.about.design.differences(SMALL)
    assert found.bundle.about.licence == "dinov3-license"
    assert any("applies to every derivative" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "licence", "size"),
    [
        ("convnext_tiny.dinov3_lvd1689m", "dinov3-license", 224),
        ("convnext_tiny.eupe_lvd1689m", "fair-noncommercial-research-license", 256),
    ],
)
def test_timms_names_carry_their_licence_into_bundle_and_card(
    name: str, licence: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    real = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained: real(name, depths=SMALL.depths, dims=SMALL.widths)
    )
    loaded = load(f"timm:{name}", SMALL, num_classes=2)
    assert (loaded.about.licence, loaded.preprocessing.size) == (licence, (size, size))
    save_bundle(tmp_path / "b", loaded.model.state_dict(), loaded.about)
    card = model_card(load_bundle(tmp_path / "b").about)
    assert f"license: other\nlicense_name: {licence}\n" in card
    assert "erivative" in card


@pytest.mark.parametrize("form", ["b", "b.safetensors"])
@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c["design"].update(activation="relu"),
        lambda c: c["preprocessing"].update(mean=[float("nan")] * 3),
        lambda c: c["classes"].reverse(),
    ],
)
def test_an_edited_bundle_is_refused(form: str, edit: Callable[[Any], Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = save_bundle(tmp_path / form, weights(), About(SMALL, 5, classes=tuple("abcde")))
    if path.is_dir():
        content = json.loads((path / "nextify.json").read_text())
        edit(content)
        (path / "nextify.json").write_text(json.dumps(content))
    else:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            content = json.loads(file.metadata()["nextify"])
        edit(content)
        save_file(load_file(path), path, {"nextify": json.dumps(content)})
    with pytest.raises(WeightsError, match=r"edited|damaged"):
        load_bundle(path)
    if path.is_dir():  # a bundle from before the checksum
        content.pop("about_sha256")
        content["preprocessing"]["mean"] = [0.5] * 3
        (path / "nextify.json").write_text(json.dumps(content))
        assert load_bundle(path).about.preprocessing.mean == (0.5,) * 3


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><html>Not found</html>", r"web page \(HTML\)"),
        ("epoch,loss\n1,2\né".encode(), "text file"),
        (b"", "empty"),
        (b"\x80\x02\x00\xff\xfe\x00", "damaged"),
    ],
)
def test_other_files_get_their_own_line(content: bytes, message: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"x{suffix}").write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        load(tmp_path / f"x{suffix}")
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numpy_figures_beside_the_weights_are_read(tmp_path: Path) -> None:
    torch.save({"model": official(), "best": np.float64(0.5), "curve": np.arange(3.0)}, tmp_path / "x.pth")
    assert same(find(tmp_path / "x.pth").bundle.state, weights())


def test_a_refused_pickle_advises_nothing_unsafe(tmp_path: Path) -> None:
    torch.save({"model": official(), "optimizer": re.compile("x")}, tmp_path / "x.pth")
    with pytest.raises(UnsafeFile) as caught:
        load(tmp_path / "x.pth")
    assert "weights_only" not in str(caught.value)


def test_a_flat_dict_names_what_is_no_tensor(tmp_path: Path) -> None:
    torch.save({**official(), "epoch": 3, "name": "x"}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"not tensors: epoch \(int\), name \(str\)"):
        load(tmp_path / "x.pth")


def test_a_folder_of_checkpoints_names_the_one_that_holds_weights(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-500").mkdir()
    (tmp_path / "checkpoint-500" / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"holds no weights: .*; give \S+/checkpoint-500$"):
        load(tmp_path)
    tiny_bundle(tmp_path / "run" / "bundle", ("a", "b"), 16, 1.0)
    assert load(tmp_path / "run").about.classes == ("a", "b")  # the folder of a training stands for its bundle
    with pytest.raises(WeightsError, match=r"holds no weights: .*; give \S+/checkpoint-500$"):
        load(tmp_path)
