"""The trainer: exact resume, ingredients that can each be switched off, checkpoints that survive damage."""

import json
import math
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from nextify.data import open_images
from nextify.kernels import choice
from nextify.networks.zoo import create_model
from nextify.paper.recipe import CONVNEXT, RECIPES, RandAugment, Recipe
from nextify.training.checkpoint import load_checkpoint, save_checkpoint
from nextify.training.loop import TrainingDiverged, TrainingStopped
from nextify.training.optimizers import build_optimizers, depth_group, parameter_groups
from nextify.training.probe import probe
from nextify.training.run import TrainingOutOfMemory, run_trial
from nextify.training.schedule import learning_rate
from nextify.training.trainer import Trainer, build_average
from nextify.training.trial import Runtime
from tests.helpers import fewer
from tests.kernels.helpers import needs_kernels
from tests.training.helpers import small_trial

RUNTIME = Runtime()
SMALL = Recipe(
    epochs=2,
    warmup_epochs=0.5,
    batch_size=50,
    learning_rate=2e-3,
    crop="shift",
    test_crop_ratio=1.0,
    horizontal_flip=0.0,
)


@pytest.fixture(scope="module")
def digits(digits):
    """Six batches an epoch, and few to test on."""
    return fewer(digits, 300, 100)


def trial_of(step="separate_downsampling", recipe=SMALL, seed=0):
    return small_trial(step, recipe, seed)


def advance(run, steps):
    for pixels, labels in run.batches.iterate(run.step, run.step + steps):
        run.train_step(pixels, labels)
    return run


def weights(run):
    return {k: v.clone() for k, v in run.model.state_dict().items()}


def equal(a, b):
    return all(torch.equal(a[k], b[k]) for k in a) and a.keys() == b.keys()


@pytest.mark.parametrize(
    ("step", "recipe"),
    [
        ("separate_downsampling", SMALL.with_(ema=0.9, stochastic_depth=0.3)),
        ("training_technique", SMALL),
        ("baseline", SMALL.with_(optimizer="sgd", schedule="step", warmup_epochs=0.0, min_learning_rate=0.0)),
        ("layer_norm", SMALL.with_(optimizer="muon", gradient_clip=1.0)),
        ("layer_norm", SMALL.with_(progressive_resizing=0.5)),
    ],
)
def test_resumed_in_the_middle_of_an_epoch_the_weights_are_bit_identical(digits, tmp_path, step, recipe):
    torch.set_num_threads(1)
    trial = trial_of(step, recipe)
    undisturbed = advance(Trainer(trial, digits, RUNTIME), 9)

    stopped = advance(Trainer(trial, digits, RUNTIME), 4)  # six steps an epoch
    save_checkpoint(tmp_path / "c.pt", stopped.state())
    torch.manual_seed(12345)  # what happened in between must not matter
    resumed = Trainer(trial, digits, RUNTIME)
    state = load_checkpoint(tmp_path / "c.pt")
    assert state is not None
    resumed.load_state(state)
    advance(resumed, 5)

    assert equal(weights(undisturbed), weights(resumed))
    assert not equal(weights(stopped), weights(resumed))
    if undisturbed.average is not None:
        assert resumed.average is not None
        assert equal(undisturbed.average.state_dict(), resumed.average.state_dict())


def test_train_continues_from_a_checkpoint_to_the_same_result(digits, tmp_path):
    trial = trial_of()
    whole = run_trial(trial, digits, RUNTIME, tmp_path / "whole")
    folder = tmp_path / "trial"
    folder.mkdir()
    stopped = advance(Trainer(trial, digits, RUNTIME), 3)
    save_checkpoint(folder / "checkpoint.pt", stopped.state())
    seen = []
    continued = run_trial(trial, digits, replace(RUNTIME, checkpoint_seconds=0.0), folder, seen.append)
    assert (continued.top1, continued.top5) == (whole.top1, whole.top5)
    assert continued.curve[-1]["train_loss"] == whole.curve[-1]["train_loss"]
    assert not (folder / "checkpoint.pt").exists()
    assert len((folder / "log.jsonl").read_text().splitlines()) == 2


@needs_kernels
def test_the_result_says_what_trained(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "AVX512", True)
    recipe = replace(SMALL, epochs=1, batch_size=200, warmup_epochs=0.0)
    run_trial(trial_of("baseline", recipe), digits, replace(RUNTIME, threads=1), tmp_path)
    groups = json.loads((tmp_path / "result.json").read_text())["kernels"]["layers"]
    assert {(group["module"], group["kernel"]) for group in groups} == {("FastBlock", "whole"), ("FastChain", "whole")}
    assert "stages.0.blocks.0" in groups[0]["layers"] + groups[1]["layers"]


def test_a_training_stopped_in_its_evaluation_goes_on_there(digits, tmp_path, monkeypatch):
    trial = trial_of(recipe=replace(SMALL, epochs=1, batch_size=200, warmup_epochs=0.0))
    stopped, seen, evaluate = [], [], Trainer.evaluate

    def stopping(trainer, look):
        stopped.append(trainer.seconds)
        look()

    def slow(trainer, *look):
        time.sleep(0.2)
        return evaluate(trainer, *look)

    monkeypatch.setattr(Trainer, "evaluate", stopping)
    with pytest.raises(TrainingStopped):
        run_trial(trial, digits, RUNTIME, tmp_path, seen.append, should_stop=lambda: bool(stopped))
    monkeypatch.setattr(Trainer, "evaluate", slow)
    result = run_trial(trial, digits, RUNTIME, tmp_path, seen.append)
    assert [progress.entry for progress in seen if progress.entry] == result.curve
    assert result.seconds >= stopped[0] + 0.2


def test_a_seed_changes_the_result_and_the_fingerprint(digits):
    a, b = trial_of(seed=0), trial_of(seed=1)
    assert a.fingerprint != b.fingerprint
    assert a.fingerprint == trial_of(seed=0).fingerprint
    first, second = (advance(Trainer(t, digits, RUNTIME), 2) for t in (a, b))
    assert not equal(weights(first), weights(second))


@pytest.mark.parametrize(
    "off",
    [
        {"rand_augment": "off"},
        {"mixing.mixup": "off"},
        {"mixing.cutmix": "off"},
        {"mixing": "off"},
        {"random_erasing": 0.0},
        {"label_smoothing": 0.0},
        {"stochastic_depth": 0.0},
        {"warmup_epochs": 0.0},
        {"weight_decay": 0.0},
        {"crop": "none"},
    ],
    ids=str,
)
def test_each_ingredient_can_be_switched_off_alone_and_does_something(digits, off):
    everything = SMALL.with_(stochastic_depth=0.3, random_erasing=0.5, rand_augment=RandAugment())
    with_it = advance(Trainer(trial_of(recipe=everything), digits, RUNTIME), 2)
    without = advance(Trainer(trial_of(recipe=everything.with_(**off)), digits, RUNTIME), 2)
    assert not equal(weights(with_it), weights(without))


def test_accumulation_gives_the_same_step(digits):
    trial = trial_of(recipe=SMALL.with_(stochastic_depth=0.0))
    whole = advance(Trainer(trial, digits, RUNTIME), 2)
    parts = advance(Trainer(trial, digits, replace(RUNTIME, accumulation=4)), 2)
    for name, value in weights(whole).items():
        torch.testing.assert_close(parts.model.state_dict()[name], value, rtol=1e-4, atol=2e-5)


def test_frozen_stages_average_clipping_and_parts_go_together(digits):
    recipe = SMALL.with_(stochastic_depth=0.3, ema=0.5, gradient_clip=0.1)
    trial, in_parts = replace(trial_of(recipe=recipe), frozen_stages=2), replace(RUNTIME, accumulation=4)
    first = Trainer(trial, digits, in_parts)
    frozen = {n for n, p in first.model.named_parameters() if not p.requires_grad}
    start, expected = weights(first), {name: value.clone() for name, value in weights(first).items()}
    assert any(name.startswith("stages.1.") for name in frozen)
    assert not any(name.startswith(("stages.2.", "head.")) for name in frozen)
    for step in range(4):
        advance(first, 1)
        for name, value in weights(first).items():  # the average begins with the first step's weights
            expected[name] = value if step == 0 else 0.5 * expected[name] + 0.5 * value
    assert all(torch.equal(value, start[name]) == (name in frozen) for name, value in weights(first).items())
    for name, value in first.average.module.state_dict().items():
        torch.testing.assert_close(value, expected[name])

    whole = advance(Trainer(trial, digits, RUNTIME), 4)
    for name, value in weights(whole).items():
        torch.testing.assert_close(first.model.state_dict()[name], value, rtol=1e-4, atol=2e-5)

    resumed = Trainer(trial, digits, in_parts)
    resumed.load_state(advance(Trainer(trial, digits, in_parts), 2).state())
    assert equal(weights(advance(resumed, 2)), weights(first))
    assert equal(resumed.average.state_dict(), first.average.state_dict())

    unclipped = replace(trial, recipe=recipe.with_(gradient_clip="off"))
    assert not equal(weights(advance(Trainer(unclipped, digits, in_parts), 4)), weights(first))


def test_the_parts_of_a_batch_belong_to_the_trial_where_batch_norm_sees_them(digits):
    trial = trial_of("training_technique", SMALL.with_(stochastic_depth=0.0))
    in_parts = replace(trial, accumulation=4)
    assert in_parts.fingerprint != trial.fingerprint
    assert replace(trial, accumulation=1).fingerprint == trial.fingerprint
    whole, parts = (advance(Trainer(t, digits, RUNTIME), 2) for t in (trial, in_parts))
    name = next(name for name in weights(whole) if name.endswith("running_mean"))
    assert not torch.allclose(weights(whole)[name], weights(parts)[name], rtol=1e-3)
    with pytest.raises(ValueError, match="the trial's accumulation"):
        Trainer(trial, digits, replace(RUNTIME, accumulation=4))


def test_an_average_copies_what_is_no_float():
    model = torch.nn.BatchNorm1d(3)
    model.register_buffer("index", torch.arange(1000))
    average = build_average(model, 0.99)
    assert not average.module.training
    for step in range(4):
        with torch.no_grad():
            model.weight.fill_(step)
        model(torch.randn(5, 3) + 10)
        average.update_parameters(model)
    assert torch.equal(average.module.index, torch.arange(1000))
    assert average.module.num_batches_tracked == 4
    assert 0 < average.module.weight.detach()[0] < 0.1
    assert torch.all(average.module.running_mean < model.running_mean)


def test_a_training_resumed_with_other_threads_says_so(digits, tmp_path):
    trial, said = trial_of(recipe=SMALL.with_(epochs=1)), []
    save_checkpoint(tmp_path / "checkpoint.pt", advance(Trainer(trial, digits, RUNTIME), 3).state())
    run_trial(trial, digits, replace(RUNTIME, threads=2), tmp_path, warn=said.append)
    assert len(said) == 1
    assert "--threads 1 and resumes with 2" in said[0]


def test_bf16_trains(digits):
    run = Trainer(trial_of(recipe=SMALL.with_(precision="bf16")), digits, RUNTIME)
    advance(run, 1)
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in run.model.parameters())


def test_a_loss_that_is_no_number_stops_with_step_and_remedy(digits, tmp_path):
    trial = trial_of("fewer_norms", SMALL.with_(optimizer="sgd", learning_rate=1e30, warmup_epochs=0.0))
    with pytest.raises(TrainingDiverged, match=r"step \d+ of 12 .*learning rate \S+e\+.*try a lower"):
        run_trial(trial, digits, RUNTIME, tmp_path)


def test_probe_measures_without_keeping(digits):
    found = probe(trial_of(), digits, RUNTIME, steps=3)
    assert found.step_seconds > 0
    assert found.total_steps == 12


def test_a_damaged_checkpoint_gives_the_one_before(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"step": 1})
    save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 2}
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    assert load_checkpoint(path) == {"step": 1}
    path.write_bytes(b"")
    (tmp_path / "c.pt.before").write_bytes(b"also damaged")
    assert load_checkpoint(path) is None


def test_a_failed_save_loses_only_itself(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nextify.system.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"step": 2})
    monkeypatch.undo()
    assert load_checkpoint(path) == {"step": 1}


def test_a_full_disk_in_the_middle_costs_one_line_and_no_training(digits, tmp_path, monkeypatch):
    trial, said, saves = trial_of(), [], []

    def full_from_the_second_on(path, state):
        saves.append(state["step"])
        if len(saves) > 1:
            raise OSError(28, "No space left on device")
        save_checkpoint(path, state)

    monkeypatch.setattr("nextify.training.records.save_checkpoint", full_from_the_second_on)
    kept = []

    def save_bundle(*_):
        kept.append(load_checkpoint(tmp_path / "checkpoint.pt")["step"])

    with monkeypatch.context() as at_the_end:
        at_the_end.setattr("nextify.training.kept.save_bundle", save_bundle)
        result = run_trial(trial, digits, replace(RUNTIME, checkpoint_seconds=0.0), tmp_path, warn=said.append)
    assert len(said) == 1
    assert "cannot save a checkpoint" in said[0]
    assert "No space left" in said[0]
    assert kept == saves[:1]
    assert result.top1 == run_trial(trial, digits, RUNTIME, tmp_path / "undisturbed").top1


def test_out_of_memory_in_the_middle_says_how_to_go_on(digits, tmp_path, monkeypatch):
    step = Trainer.train_step

    def short_of_memory(run, *batch):
        if run.step == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return step(run, *batch)

    monkeypatch.setattr(Trainer, "train_step", short_of_memory)
    with pytest.raises(TrainingOutOfMemory, match=r"--accumulation 2 .*from the last checkpoint"):
        run_trial(trial_of(), digits, replace(RUNTIME, checkpoint_seconds=0.0), tmp_path)
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    assert state is not None
    assert state["step"] == 3


def test_schedules():
    recipe = CONVNEXT.with_(epochs=10, warmup_epochs=2.0)
    rates = [learning_rate(recipe, step, 100) for step in range(1000)]
    assert rates[0] == recipe.learning_rate / 200
    assert rates[199] == max(rates) == recipe.learning_rate
    assert rates[-1] == pytest.approx(recipe.min_learning_rate, rel=0.05)
    assert all(a >= b for a, b in pairwise(rates[199:]))
    steps = RECIPES["resnet"]
    assert [learning_rate(steps, e * 10, 10) for e in (0, 29, 30, 60, 89)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.001, 0.001]
    )


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_optimizes_every_parameter_once(name):
    model = create_model(trial_of().design, 10)
    optimizers = build_optimizers(model, RECIPES[name])
    found = [id(p) for o in optimizers for g in o.param_groups for p in g["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters())


def test_decay_spares_what_modules_declare():
    model = create_model(trial_of().design, 10)
    names = {id(p): n for n, p in model.named_parameters()}
    groups = parameter_groups(model, CONVNEXT)
    spared = {names[id(p)] for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    assert spared == {n for n, p in model.named_parameters() if p.ndim == 1}
    assert all(g["weight_decay"] > 0 for g in parameter_groups(model, RECIPES["resnet"]))


def test_depth_groups_of_the_paper():
    depths = (3, 3, 27, 3)  # appendix A.2: 12 groups, the head one more
    assert depth_group("stem.conv.weight", depths) == 0
    assert depth_group("stages.0.blocks.2.norm.weight", depths) == 1
    assert depth_group("stages.1.downsample.conv.weight", depths) == 2
    assert depth_group("stages.2.blocks.0.norm.weight", depths) == 3
    assert depth_group("stages.2.blocks.26.norm.weight", depths) == 11
    assert depth_group("stages.3.blocks.0.norm.weight", depths) == 12
    assert depth_group("head.classifier.weight", depths) == 13


def test_top1_of_untrained_weights_is_chance():
    accuracy = Trainer(trial_of(), open_images("digits"), RUNTIME).evaluate()
    assert accuracy.images == 1197
    assert accuracy.top1 < 40
    assert accuracy.top5 >= accuracy.top1
    assert math.isclose(accuracy.top1 * 1197 / 100, round(accuracy.top1 * 1197 / 100), abs_tol=1e-6)
