"""Pre-training by masked images: the command, exact resume, what it leaves, and fine-tuning from that."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import nextify
from nextify import kernels
from nextify.cli import main
from nextify.data import DataError, Images
from nextify.data.opening import open_unlabelled
from nextify.data.share import share
from nextify.networks.masked.design import MaskedDesign, fitted_masks
from nextify.networks.masked.network import MaskedAutoencoder
from nextify.networks.zoo import find_design
from nextify.paper.recipe import RECIPES, Shift
from nextify.system import processes
from nextify.tasks.masked import Errors, MaskedImages
from nextify.training.learned import task_of
from nextify.training.loop import TrainingStopped
from nextify.training.prepare import Prepared, prepare
from nextify.training.records import State
from nextify.training.request import Request, RequestError
from nextify.training.run import run_trial
from nextify.training.trainer import Trainer
from nextify.training.trial import Data, Runtime, Trial
from nextify.weights import WeightsError, load
from nextify.weights.autoencoder import DECODER, decoder_in_our_names, load_autoencoder, save_decoder
from nextify.weights.bundle import load_bundle
from nextify.weights.naming import rename
from tests.helpers import Captured, fewer, save_noise

SMALL = RECIPES["fcmae"].with_(
    epochs=2, warmup_epochs=0.5, batch_size=50, learning_rate=2e-3, crop="shift", test_crop_ratio=1.0
)
V2 = find_design("convnextv2_atto").with_(
    depths=(1, 1, 2, 1), widths=(8, 12, 16, 20), stem="patchify2", stage_strides=(1, 2, 2, 1)
)
ROW = find_design("resnet50_depthwise").with_(
    depths=(1, 1), widths=(8, 12), stage_strides=(1, 2), stem="patchify2"
)  # batch norm
HERE = ("--device", "cpu", "--threads", "1")
TINY = ("--scale", "tiny", "--image-size", "32", "--epochs", "1", "--set", "batch_size=16", *HERE)


@pytest.fixture(scope="module")
def digits(digits: Images) -> Images:
    """All that are trained on, and few to test on."""
    return fewer(digits, 600, 64)


@pytest.fixture(scope="module")
def few(digits: Images) -> Images:
    """Six batches an epoch, and few to test on."""
    return fewer(digits, 300, 64)


def trial_of(design=V2, recipe=SMALL, seed=0) -> Trial:
    masked, _ = fitted_masks(design, 16)
    return Trial(replace(masked, width=16), recipe, Data("digits", "test", 10, 16, task="masked"), seed)


def advance(run: Trainer, steps: int) -> Trainer:
    for pixels, labels in run.batches.iterate(run.step, run.step + steps):
        run.train_step(pixels, labels)
    return run


def equal(a: State, b: State) -> bool:
    mine, theirs = a["model"], b["model"]
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pretraining")


@pytest.fixture(scope="module")
def bundle(out: Path, shapes: Path) -> Path:
    """What a pre-training of one epoch leaves."""
    assert main(["pretrain", "convnextv2_atto", "--data", str(shapes), "--out", str(out), *TINY]) == 0
    (found,) = out.glob("*/bundle")
    return found


@pytest.mark.parametrize(
    ("design", "recipe"),
    [(V2, SMALL), (V2, SMALL.with_(stochastic_depth=0.3)), (ROW, SMALL)],
    ids=["V2", "paths", "BN"],
)
def test_resumed_in_the_middle_of_an_epoch_it_is_bit_identical(few: Images, design, recipe) -> None:
    torch.set_num_threads(1)
    trial = trial_of(design, recipe)
    undisturbed = advance(Trainer(trial, few, Runtime()), 9)
    stopped = advance(Trainer(trial, few, Runtime()), 4)  # six steps an epoch
    stopped.evaluate()
    resumed = Trainer(trial, few, Runtime())
    resumed.load_state(stopped.state())
    assert equal(advance(resumed, 5).state(), undisturbed.state())
    assert undisturbed.evaluate().values() == resumed.evaluate().values()


def test_stopped_and_given_again_it_leaves_the_same_weights(few: Images, tmp_path: Path) -> None:
    trial = trial_of()
    whole = run_trial(trial, few, Runtime(), tmp_path / "whole")
    asked = iter([False, False, False, True])
    with pytest.raises(TrainingStopped):
        run_trial(trial, few, Runtime(), tmp_path / "parts", should_stop=lambda: next(asked))
    parts = run_trial(trial, few, Runtime(), tmp_path / "parts")
    for name in ("bundle/model.safetensors", "decoder.safetensors"):
        a, b = (load_file(tmp_path / where / name) for where in ("whole", "parts"))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert parts.masked_error == whole.masked_error
    assert not run_trial(trial, few, Runtime(), tmp_path / "parts").trained


@pytest.mark.slow
def test_it_learns_and_the_kernels_do_not_matter(digits: Images) -> None:
    trial = trial_of(recipe=SMALL.with_(epochs=12, warmup_epochs=1.0, batch_size=100, learning_rate=1e-2))
    losses = []
    for mode in ("auto", "off"):
        run = Trainer(trial, digits, Runtime(kernels=mode))
        before = run.evaluate().error
        losses.append([float(run.train_step(*run.batches.batch(step))) for step in range(3)])
        if mode == "auto":
            advance(run, 69)
            assert run.evaluate().error < before - 0.1
            layers = kernels.describe(run.model)["layers"]
            assert any(layer["module"] == "GatheredEncoder" for layer in layers)  # type: ignore[attr-defined, index]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_parts_of_a_batch_give_the_whole_batchs_step(few: Images) -> None:
    torch.set_num_threads(1)
    trial = trial_of()
    one, three = (advance(Trainer(trial, few, Runtime(accumulation=parts)), 2) for parts in (1, 3))
    for name, tensor in one.state()["model"].items():
        torch.testing.assert_close(three.state()["model"][name], tensor, rtol=2e-3, atol=2e-5)


def test_processes_mask_what_one_would(digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trial_of()
    task = task_of(trial, digits, torch.device("cpu"))
    pixels = torch.zeros(10, 16, 16, 3, dtype=torch.uint8)
    _, whole = task.training_batch(pixels, None, 5, None)
    for rank in range(2):
        mine = share(10, rank, 2)
        _, masked = task.training_batch(pixels[mine.rows], None, 5, mine)
        assert torch.equal(masked, whole[mine.rows])
    monkeypatch.setattr(processes, "launched", lambda: 1)
    assert not torch.equal(task.training_batch(pixels, None, 6, None)[1], whole)


def test_images_that_fill_a_batch_do_not_count() -> None:
    masked, _ = fitted_masks(V2, 16)
    task = MaskedImages(masked, 16, (0.5,) * 3, (0.2,) * 3, 0, torch.device("cpu"))
    model = MaskedAutoencoder(masked).eval()
    pixels = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    with torch.no_grad():
        all_, few = (
            task.observe(model, *task.test_batch(pixels, torch.tensor(labels))) for labels in ([0, 0, 0], [0, 0, -1])
        )
    assert (all_.images, few.images) == (3, 2)
    assert few.total < all_.total
    with pytest.raises(ValueError, match="no images"):
        task.metrics([Errors(0.0, 0)])


# -- the command ---------------------------------------------------------------------------------------------------


def test_it_leaves_an_encoder_its_decoder_and_pictures(out: Path, bundle: Path) -> None:
    about = load_bundle(bundle).about
    assert (about.num_classes, about.classes, about.licence, about.name) == (0, (), "yours", "convnextv2_atto")
    assert [metric.name for metric in about.metrics] == ["masked_error"]
    result = json.loads((bundle.parent / "result.json").read_text())
    assert 0 < result["masked_error"] < 3
    assert (bundle.parent / "reconstructions" / "epoch-0001.png").read_bytes().startswith(b"\x89PNG")
    recipe = json.loads((bundle.parent / "recipe.json").read_text())
    assert recipe["request"]["mask_ratio"] == 0.6
    assert any("units of" in note for note in recipe["notes"])
    assert load(bundle).model(torch.randn(1, 3, 32, 32)).shape == (1, 80)
    model = load_autoencoder(bundle)
    assert model.design.unit == load_autoencoder(bundle, image_size=32).design.unit < 32
    found, _ = model.reconstruct(torch.randn(1, 3, 32, 32), torch.tensor([[[True, False], [False, True]]]))
    assert found.shape == (1, 3, 32, 32)


def test_a_decoder_of_another_network_is_refused(bundle: Path, digits: Images, tmp_path: Path) -> None:
    copied = tmp_path / "copied" / "bundle"
    shutil.copytree(bundle, copied)
    decoder = load_file(bundle.parent / "decoder.safetensors")
    request = Request("convnextv2_atto", mask_ratio=0.6, weights=str(copied), image_size=32)
    for other in ({**decoder, "pred.bias": torch.zeros(3)}, {n: t for n, t in decoder.items() if n != "pred.bias"}):
        save_file(other, copied.parent / "decoder.safetensors")
        with pytest.raises(WeightsError, match=r"prediction\.bias(.|\n)*remove it, and a new decoder is trained"):
            prepare(request, digits)
    save_file(decoder, copied.parent / "decoder.safetensors")
    assert "the decoder starts from them too" in prepare(request, digits).notes


def test_train_fine_tunes_from_it_and_the_licence_goes_along(bundle: Path, shapes: Path, tmp_path: Path) -> None:
    content = json.loads((bundle / "nextify.json").read_text())
    first = tmp_path / "first"
    first.mkdir()
    (first / "model.safetensors").write_bytes((bundle / "model.safetensors").read_bytes())
    (first / "nextify.json").write_text(json.dumps({**content, "licence": "cc-by-nc-4.0", "source": "the beginning"}))
    small = ("--epochs", "1", "--set", "batch_size=16", *HERE)
    before = first
    for number, command in enumerate(("pretrain", "train", "train")):
        out = tmp_path / str(number)
        given = ["--data", str(shapes), "--out", str(out), "--weights", str(before), *small]
        assert main([command, "convnextv2_atto", *given]) == 0
        (before,) = out.glob("*/bundle")
        about = load_bundle(before).about
        assert about.licence == "cc-by-nc-4.0"
        assert "the beginning" in about.source
    assert about.num_classes == 3


def test_the_same_command_trains_nothing_again(capsys: Captured, out: Path, bundle: Path, shapes: Path) -> None:
    assert main(["pretrain", "convnextv2_atto", "--data", str(shapes), "--out", str(out), *TINY]) == 0
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet50", "--data", "digits"), "choose a ConvNeXt, or a row of the roadmap from depthwise on"),
        (("convnextv2_atto", "--data", "digits", "--set", "groups=1"), "but this design has groups=1"),
        (("convnextv2_atto", "--data", "digits", "--mask-ratio", "1"), "--mask-ratio must be"),
        (("convnextv2_atto", "--data", "digits", *TINY, "--set", "mixing.mixup=0.8"), "pre-training has no mixing"),
        (("convnextv2_atto", "--data", "digits", *TINY, "--set", "layer_decay=0.8"), "pre-training has no layer_decay"),
        (("convnextv2_atto", "--data", "digits", *TINY, "--set", "test_mirror=on"), "pre-training has no test_mirror"),
        (("convnextv2_atto", "--data", "digits", *TINY, "--set", "head_init_scale=2"), "has no head_init_scale"),
        (("convnext_pooled", "--data", "digits", "--image-size", "33"), "patches of 8: --image-size 32"),
        (("convnextv2_atto", "--data", "digits", *TINY, "--compile"), "--compile works only for classifiers"),
        (("convnextv2_atto", "--data", "digits", "--weights", "/nowhere"), "no weights at /nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    capsys: Captured, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert main(["pretrain", *arguments, "--out", str(tmp_path / "out")]) in (1, 2)
    last = capsys.readouterr().err.splitlines()[-1]
    assert message in last
    assert last.startswith("nextify: ")


def test_a_recipe_that_is_taken_anyway_is_not_advised(digits: Images) -> None:
    request = Request("convnextv2_atto", recipe="fcmae_small", mask_ratio=0.6, settings={"label_smoothing": 0.2})
    with pytest.raises(RequestError, match=r"no label_smoothing: leave it out$"):
        prepare(request, digits)


def test_boxes_are_refused(digits: Images) -> None:
    from nextify.data.dense.opening import open_dense

    with pytest.raises(RequestError, match="annotated with boxes"):
        prepare(Request("convnextv2_atto", mask_ratio=0.6), open_dense("scenes"))
    with pytest.raises(RequestError, match="no frozen stages"):
        prepare(Request("convnextv2_atto", mask_ratio=0.6, frozen_stages=1), digits)


def test_a_request_without_masks_is_written_as_before() -> None:
    assert "mask_ratio" not in Request("convnext_atto").to_dict()


def prepared(model: str, images: Images, **request: object) -> Prepared:
    return prepare(Request(model, mask_ratio=0.6, **request), images)  # type: ignore[arg-type]


def test_the_recipe_is_fitted_to_few_images(digits: Images) -> None:
    made = prepared("convnext_pooled", digits, image_size=32)
    recipe = made.trial.recipe
    assert made.recipe_name == "fcmae_small"
    assert recipe.optimizer == RECIPES["fcmae"].optimizer
    assert (recipe.mixing, recipe.ema, recipe.stochastic_depth) == ("off", "off", 0.0)
    assert RECIPES["fcmae"].learning_rate == pytest.approx(1.5e-4 * RECIPES["fcmae"].batch_size / 256)
    assert isinstance(made.trial.design, MaskedDesign)
    assert made.trial.design.unit == 8
    assert any("units of 8 pixels, not 32: 4×4" in note for note in made.notes)
    assert made.preflight.lines() == ["600 images to train on and 64 to test on, of 8×8 pixels"]
    assert made.uses_batch_norm


# -- images without classes ----------------------------------------------------------------------------------------


def test_a_folder_without_classes_is_taken_whole(tmp_path: Path) -> None:
    for i in range(30):
        save_noise(tmp_path / "all" / ("" if i % 2 else "deeper") / f"{i}.png", i)
    images = open_unlabelled(tmp_path / "all")
    assert (len(images.train), len(images.test), images.classes) == (28, 2, ("images",))
    assert any("no class folders" in note for note in images.notes)
    for i in range(4):
        save_noise(tmp_path / "parts" / "train" / f"{i}.png", i)
        save_noise(tmp_path / "parts" / "val" / f"{i}.png", 10 + i)
    parts = open_unlabelled(tmp_path / "parts")
    assert (len(parts.train), len(parts.test)) == (3, 1)
    assert any(note.startswith("Other splits of") for note in parts.notes)
    for i in range(30):
        save_noise(tmp_path / "mixed" / ("", "a", "b/c")[i % 3] / f"{i}.png", i)
    assert len(open_unlabelled(tmp_path / "mixed").train) == 28
    for place in ("mixed", "pools"):
        for i in range(10):
            save_noise(tmp_path / "pools" / f"pool/{'xy'[i % 2]}" / f"{i}.png", i)
            save_noise(tmp_path / place / "val" / f"{i}.png", 50 + i)
        images = open_unlabelled(tmp_path / place)
        assert not any(own.name(i).startswith("val/") for own in (images.train, images.test) for i in range(len(own)))
        assert "10 images in val/ left out, as test images." in images.notes
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no images"):
        open_unlabelled(tmp_path / "empty")


@pytest.mark.parametrize(
    ("head", "cells", "tested"),
    [("path", "", 2), ("path,split", ",train", 3), ("path,label", ",", 2), ("path,label", ",cat", 2)],
)
def test_a_list_without_labels_is_taken(tmp_path: Path, head: str, cells: str, tested: int) -> None:
    for i in range(30):
        save_noise(tmp_path / f"{i}.png", i)
    rows = [f"{i}.png{',val' if 'split' in head and i < tested else cells}" for i in range(30)]
    (tmp_path / "list.csv").write_text("\n".join((head, *rows)))
    images = open_unlabelled(tmp_path / "list.csv")
    assert (len(images.train), len(images.test), images.classes) == (30 - tested, tested, ("images",))
    assert "list.csv is read without labels." in images.notes
    (tmp_path / "list.csv").write_text("name\n0.png\n")
    with pytest.raises(DataError, match="has no column path and no column label"):
        open_unlabelled(tmp_path / "list.csv")


def test_classes_are_used_for_the_split_alone(shapes: Path) -> None:
    labelled, same = nextify.open_images(shapes), open_unlabelled(shapes)
    assert labelled.fingerprint == same.fingerprint


def test_in_python(tmp_path: Path) -> None:
    for i in range(40):
        save_noise(tmp_path / "all" / f"{i}.png", i, (16, 16))
    settings = {"batch_size": 16, "stage_strides": (1, 2, 2, 1), "depths": (1, 1, 1, 1), "widths": (4, 8, 8, 8),
                "stem": "patchify2"}  # fmt: skip
    options = {"device": "cpu", "threads": 1, "epochs": 1, "settings": settings}
    result = nextify.pretrain("convnextv2_atto", tmp_path / "all", out=tmp_path / "out", **options)
    assert result.trained
    assert result.masked_error > 0
    for i in range(40):
        save_noise(tmp_path / "few" / "ab"[i % 2] / f"{i}.png", i, (16, 16))
    images = nextify.open_images(tmp_path / "few")
    tuned = prepare(Request("convnextv2_atto", weights=result.bundle, epochs=1), images)  # type: ignore[arg-type]
    assert (tuned.recipe_name, tuned.request.weights) == ("few_labels", str(result.bundle))


@pytest.mark.parametrize(("recipe", "ratio", "of"), [("fcmae_small", None, "pretrain"), ("few_labels", 0.6, "train")])
def test_recipes_of_the_other_kind_are_refused(recipe: str, ratio: float | None, of: str, few: Images) -> None:
    with pytest.raises(RequestError, match=f"{recipe} is a recipe for nextify {of}: choose"):
        prepare(Request("convnextv2_atto", recipe=recipe, mask_ratio=ratio), few)


def test_small_images_are_shifted_over_their_mirror_image(few: Images) -> None:
    made = prepare(Request("convnextv2_atto", scale="tiny", mask_ratio=0.6, image_size=32), few)
    assert made.trial.recipe.crop == Shift(border="reflect")
    assert any("black ones would be learned" in change.reason for change in made.changes)


def test_it_says_how_many_units_are_masked(few: Images) -> None:
    _, notes = fitted_masks(find_design("convnextv2_atto"), 64, 0.6)
    assert "3 of 4 units are masked, which is 75%, not 60%" in notes
    assert not any("are masked" in note for note in fitted_masks(find_design("convnextv2_atto"), 224, 0.6)[1])


# -- official checkpoints ------------------------------------------------------------------------------------------


def official(model: MaskedAutoencoder) -> dict[str, torch.Tensor]:
    """A state dict as the public code of FCMAE names and shapes it, with MinkowskiEngine's kernels."""
    own = model.state_dict()
    encoder = {n.removeprefix("encoder."): t for n, t in own.items() if n.startswith("encoder.")}
    found = {}
    for name, tensor in rename(encoder, model.design.encoder, "official").items():
        if name.startswith("norm."):
            continue
        if name.endswith("dwconv.weight"):
            kernel = tensor[:, 0].transpose(1, 2).flatten(1).T  # (K K, C), columns before rows
            found[f"encoder.{name.removesuffix('weight')}kernel"] = kernel.contiguous()
        elif ".1.weight" in name and name.startswith("downsample_layers") and "layers.0" not in name:
            kernel = tensor.transpose(2, 3).flatten(2).permute(2, 1, 0)  # (K K, I, O)
            found[f"encoder.{name.removesuffix('weight')}kernel"] = kernel.contiguous()
        elif ".pwconv" in name:
            found[f"encoder.{name.replace('.weight', '.linear.weight').replace('.bias', '.linear.bias')}"] = tensor
        elif ".norm." in name or (name.startswith("downsample_layers") and ".0.0." not in name and ".0." in name[-9:]):
            found[f"encoder.{name.replace('.weight', '.ln.weight').replace('.bias', '.ln.bias')}"] = tensor
        elif ".grn." in name:
            found[f"encoder.{name}"] = tensor.reshape(1, -1)
        else:
            found[f"encoder.{name}"] = tensor
    found["proj.weight"], found["proj.bias"] = own["projection.weight"][..., None, None], own["projection.bias"]
    found["pred.weight"], found["pred.bias"] = own["prediction.weight"][..., None, None], own["prediction.bias"]
    found["mask_token"] = own["mask_token"][None, :, None, None]
    for ours, theirs in (("spatial", "dwconv"), ("norm", "norm"), ("pointwise1", "pwconv1"), ("pointwise2", "pwconv2")):
        for leaf in ("weight", "bias"):
            found[f"decoder.0.{theirs}.{leaf}"] = own[f"decoder.{ours}.{leaf}"]
    for ours, theirs in (("weight", "gamma"), ("bias", "beta")):
        found[f"decoder.0.grn.{theirs}"] = own[f"decoder.response_norm.{ours}"][None, None, None]
    return {name: tensor.clone().contiguous() for name, tensor in found.items()}


def test_official_checkpoints_reconstruct(tmp_path: Path) -> None:
    torch.manual_seed(0)
    design = find_design("convnextv2_atto").with_(depths=(1, 1, 1, 1), widths=(4, 6, 8, 10))
    model = MaskedAutoencoder(MaskedDesign(design, 32, 0.6, 12)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("encoder.head"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    path = tmp_path / "convnextv2_atto_1k_224_fcmae.pt"
    torch.save({"model": official(model)}, path)
    loaded = load_autoencoder(path)
    images, masked = torch.randn(1, 3, 96, 96), torch.rand(1, 3, 3) < 0.6
    for a, b in zip(loaded.reconstruct(images, masked), model.reconstruct(images, masked), strict=True):
        torch.testing.assert_close(a, b)
    without = {name: tensor for name, tensor in official(model).items() if name.startswith("encoder.")}
    torch.save({"model": without}, tmp_path / "encoder.pt")
    with pytest.raises(WeightsError, match="no decoder, so it cannot reconstruct images"):
        load_autoencoder(tmp_path / "encoder.pt")
    assert load(path).about.licence == "cc-by-nc-4.0"
    assert load(tmp_path / "encoder.pt").about.licence == "unknown"


def test_a_decoder_behind_a_prefix_is_found(tmp_path: Path) -> None:
    model = MaskedAutoencoder(MaskedDesign(V2, 8, 0.6, 12))
    save_decoder(tmp_path, model.state_dict())
    saved = load_file(tmp_path / DECODER)
    assert "decoder.0.dwconv.weight" in saved
    found = decoder_in_our_names({f"module.{name}": tensor for name, tensor in saved.items()})
    assert set(found) == {name for name in model.state_dict() if not name.startswith("encoder.")}
    assert all(torch.equal(found[name], model.state_dict()[name]) for name in found)
    assert not decoder_in_our_names({"stem.weight": torch.zeros(1)})
