"""The robustness of a bundle: its figures against figures made here by hand, and the command."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextify.cli import main
from nextify.compare import accuracy
from nextify.compare.records import Model
from nextify.data import DataError, Images, open_images
from nextify.evaluation import corrupted_images, robustness
from nextify.evaluation.answers import Partial
from nextify.evaluation.corruption_error import ALEXNET_ERRORS, Point, summarize
from nextify.evaluation.corruptions import CORRUPTIONS, corrupt
from nextify.evaluation.evaluate import evaluate
from nextify.evaluation.inspection import inspect_images
from nextify.evaluation.metrics import calibration
from nextify.evaluation.robustness import Robustness, measure
from nextify.networks.zoo import create_model
from nextify.report.robustness import csv_text, picture, table, write
from nextify.system.text import printable
from nextify.weights import About, WeightsError, load, save_bundle
from tests.helpers import TINY, tiny_bundle

CLASSES = ("ant", "bee", "cow", "dog")
COLORS = {"ant": (200, 60, 40), "bee": (60, 180, 60), "cow": (50, 70, 200), "dog": (180, 180, 60)}


def saved(path: Path, seed: int, size: int = 24, classes: tuple[str, ...] = CLASSES) -> Path:
    """A small network that tells images apart, though by chance."""
    return tiny_bundle(path, classes, size, 0.8, seed=seed, sharpness=100, name=f"tiny-{seed}")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("a") / "bundle", 0)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("b") / "bundle", 3, size=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for c, name in enumerate(("bee", "cow", "dog")):
        for part, count in (("train", 1), ("val", 4)):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                random = np.random.RandomState(100 * c + 10 * i + (part == "val"))
                pixels = np.clip(random.normal(COLORS[name], 70, (6, 7, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).resize((40, 34), Image.Resampling.BICUBIC).save(root / part / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def images(folder: Path) -> Images:
    return open_images(str(folder))


def by_hand(bundle: Path, images: Images, name: str | None, severity: int, only_present: bool) -> tuple[float, float]:
    """Error in percent and calibration error, an image at a time."""
    loaded = load(bundle)
    right, confidence = [], []
    for i in range(len(images.test)):
        pixels = loaded.preprocessing.pixels(images.test.load(i)).numpy()
        if name is not None:
            pixels = corrupt(pixels, name, severity, i)
        s = loaded.preprocessing
        x = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - torch.tensor(s.mean)[:, None, None]) / torch.tensor(
            s.std
        )[:, None, None]
        with torch.no_grad():
            logits = loaded.model(x[None])[0]
        names = list(CLASSES)
        if only_present:
            logits, names = logits[1:], names[1:]  # no image is of the first class
        found = logits.softmax(-1)
        confidence.append(float(found.max()))
        right.append(names[int(found.argmax())] == images.classes[images.test.labels[i]])
    return 100 * (1 - np.mean(right)), calibration(np.array(confidence), np.array(right))[0]


@pytest.mark.parametrize("only_present", [False, True])
def test_errors_and_calibration_are_those_of_single_images(bundle, other, images, only_present):
    found = measure(
        bundle,
        images,
        corruptions=("zoom_blur", "gaussian_noise"),
        severities=(5, 2),
        baseline=other,
        only_present_classes=only_present,
    )
    assert found.images == 12
    assert [(p.corruption, p.severity) for p in found.points] == [
        (name, s) for name in ("gaussian_noise", "zoom_blur") for s in (2, 5)
    ]
    expected = by_hand(bundle, images, None, 0, only_present)
    assert (found.clean_error, found.clean_calibration_error) == pytest.approx(expected, abs=1e-4)
    assert found.baseline_clean_error == pytest.approx(by_hand(other, images, None, 0, only_present)[0])
    for p in found.points:
        expected = by_hand(bundle, images, p.corruption, p.severity, only_present)
        assert (p.error, p.expected_calibration_error) == pytest.approx(expected, abs=1e-4)
        assert p.baseline_error == pytest.approx(by_hand(other, images, p.corruption, p.severity, only_present)[0])
    assert 0 < found.mean_error < 100
    assert found.mean_error == pytest.approx(np.mean([p.error for p in found.points]))


def test_present_classes_are_those_of_the_images_measured(bundle, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "val" / "dog")
    how = {"corruptions": (), "only_present_classes": True, "baseline": bundle}
    found = measure(bundle, open_images(str(tmp_path / "data")), **how)
    alone = measure(bundle, open_images(str(tmp_path / "data" / "val"), to_train=False), **how)
    assert (found.clean_error, found.clean_calibration_error) == (alone.clean_error, alone.clean_calibration_error)
    assert found.baseline_clean_error == alone.baseline_clean_error


def test_workers_and_threads_change_nothing(bundle, images):
    settings = {"corruptions": ("fog", "elastic_transform", "glass_blur"), "severities": (1, 4)}
    seen = []
    alone = measure(bundle, images, **settings, progress=lambda done, total: seen.append((done, total)))
    beside = measure(bundle, images, **settings, workers=1)
    assert alone.points == beside.points
    assert seen[-1] == (12 * 7, 12 * 7)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_seed_decides_and_a_limit_takes_an_even_spread(bundle, images):
    def noisy(**settings) -> Robustness:
        return measure(bundle, images, corruptions=("impulse_noise",), severities=(5,), **settings)

    assert noisy().points == noisy().points
    assert noisy().points != noisy(seed=1).points
    assert noisy(limit=3).images == 3
    assert noisy(limit=3).clean_error == pytest.approx(
        100 / 3 * sum(error_of(bundle, images, i) for i in (0, 6, 11)), abs=1e-4
    )
    assert noisy(limit=99).images == 12


def error_of(bundle: Path, images: Images, index: int) -> bool:
    loaded = load(bundle)
    with torch.no_grad():
        said = int(loaded.model(loaded.preprocessing(images.test.load(index))[None]).argmax())
    return CLASSES[said] != images.classes[images.test.labels[index]]


def test_corruption_errors_are_ratios_of_sums():
    points = [Point("fog", 1, 20.0, 0.1, 40.0), Point("fog", 2, 40.0, 0.3, 60.0)]
    found = summarize("fog", points, clean=10.0, base_clean=30.0)
    assert found.group == "weather"
    assert found.error == 30.0
    assert found.expected_calibration_error == pytest.approx(0.2)
    assert found.corruption_error == pytest.approx(100 * 60 / 100)
    assert found.relative_corruption_error == pytest.approx(100 * (10 + 30) / (10 + 30))
    alone = summarize("fog", [Point("fog", 1, 20.0, 0.1, None)], 10.0, None)
    assert alone.corruption_error is alone.baseline_error is alone.relative_corruption_error is None
    perfect = summarize("fog", [Point("fog", 1, 20.0, 0.1, 0.0)], 10.0, 0.0)
    assert perfect.corruption_error is perfect.relative_corruption_error is None


def test_a_bundle_against_itself_is_100(bundle, images):
    found = measure(bundle, images, corruptions=("contrast", "frost"), severities=(3,), baseline=bundle)
    assert found.baseline == f"tiny-0 of {bundle}"
    assert found.mean_corruption_error == pytest.approx(100)
    assert found.made_frost


def test_a_baseline_of_another_size_is_told(bundle, images, tmp_path):
    smaller = tiny_bundle(tmp_path / "smaller", images.classes, 16, 1.0, seed=1)
    (said,) = [
        n for n in measure(bundle, images, corruptions=(), baseline=smaller).notes if "the baseline's images" in n
    ]
    assert "resized to 16×16 before they were corrupted" in said


def test_a_baseline_that_no_corruption_hurts_has_no_relative_error(bundle, images, tmp_path):
    constant = tiny_bundle(tmp_path / "constant", images.classes, 24, 1.0, sharpness=0)
    found = measure(bundle, images, corruptions=("contrast", "fog"), severities=(1,), baseline=constant)
    assert found.relative_mean_corruption_error is None
    assert "no relative mCE: the baseline is no worse than on clean images under fog, contrast" in found.notes


def test_alexnets_published_errors(bundle, images):
    """Rounded, they are the paper's."""
    rounded = (88.6, 89.4, 92.3, 82.0, 82.6, 78.6, 79.8, 86.7, 82.7, 81.9, 56.5, 85.3, 64.6, 71.8, 60.7)
    assert tuple(ALEXNET_ERRORS) == CORRUPTIONS
    np.testing.assert_allclose(list(ALEXNET_ERRORS.values()), rounded, atol=0.051)
    found = measure(bundle, images, corruptions=("fog", "frost"), baseline="alexnet")
    for summary in found.corruptions:
        base = ALEXNET_ERRORS[summary.corruption]
        assert summary.corruption_error == pytest.approx(100 * summary.error / base)
        assert summary.relative_corruption_error == pytest.approx(
            100 * (summary.error - found.clean_error) / (base - 43.5)
        )
    notes = " ".join(found.notes)
    for words in ("this network has 4", "24×24", "JPEG of quality 85", "generated texture"):
        assert words in notes


def test_published_images_are_cropped_and_not_resized(bundle, images, tmp_path):
    """A folder of our own corrupted images, with a margin that the crop removes, gives what corrupting here gives."""
    settings = load(bundle).preprocessing
    for i in range(len(images.test)):
        pixels = corrupt(settings.pixels(images.test.load(i)).numpy(), "fog", 2, i)
        for group in ("", "weather"):
            place = tmp_path / (group or "plain") / group / "fog" / "2" / images.classes[images.test.labels[i]]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.pad(pixels, ((3, 3), (5, 5), (0, 0)))).save(place / f"{i}.png")
    here = measure(bundle, images, corruptions=("fog",), severities=(2,))
    for root in ("plain", "weather"):
        seen = []
        found = measure(
            bundle,
            images,
            corruptions=("fog",),
            severities=(2,),
            imagenet_c=tmp_path / root,
            progress=lambda done, total, seen=seen: seen.append((done, total)),
        )
        assert found.points == here.points
        assert not found.corrupted_here
        assert seen[-1] == (24, 24)
    with pytest.raises(ValueError, match="leave snow out"):
        measure(bundle, images, corruptions=("snow",), severities=(2,), imagenet_c=tmp_path / "plain")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"corruptions": ("rain",)}, "no corruption is called rain; there are gaussian_noise"),
        ({"severities": (0, 1)}, "severities must be some of 1 to 5, got 0, 1"),
        ({"severities": ()}, "got none"),
        ({"limit": 0}, "--limit must be 1 or more"),
        ({"baseline": "alexnet", "severities": (1, 2)}, "leave --severities out"),
    ],
)
def test_settings_that_cannot_be_are_refused(bundle, images, settings, words):
    with pytest.raises(ValueError, match=words):
        measure(bundle, images, **settings)


def test_what_is_written(bundle, images, tmp_path):
    found = measure(bundle, images, corruptions=("fog", "contrast"), severities=(1, 5), baseline=bundle)
    written = write(found, tmp_path / "out")
    assert [path.name for path in written] == [
        "robustness.json",
        "robustness.csv",
        "robustness.svg",
        "robustness.png",
        "robustness.html",
    ]
    content = json.loads(written[0].read_text(encoding="utf-8"))
    assert content["clean_error"] == found.clean_error
    assert len(content["points"]) == 4
    lines = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert [(line["corruption"], line["severity"]) for line in lines] == [
        ("clean", "0"),
        ("fog", "1"),
        ("fog", "5"),
        ("contrast", "1"),
        ("contrast", "5"),
    ]
    assert float(lines[2]["error"]) == found.points[1].error
    with Image.open(written[3]) as shown_as:
        assert shown_as.width > 500
    assert ET.parse(written[2]).getroot().tag.endswith("svg")
    shown = written[4].read_text(encoding="utf-8")
    assert "http" not in shown
    assert "<script" not in shown
    assert f"{found.points[1].error:.2f}" in shown
    assert f"mCE 100.0, where 100 is tiny-0 of {bundle}." in shown
    header, rows = table(found)
    assert all(len(row) == len(header) for row in rows)
    assert rows[-1][0] == "mean"
    clean = measure(bundle, images, corruptions=())
    assert clean.mean_error == clean.clean_error
    assert [path.name for path in write(clean, tmp_path / "clean")] == ["robustness.json", "robustness.csv"]


def test_every_line_of_the_pictures_title_is_whole(bundle, images):
    found = measure(bundle, images, corruptions=("fog", "frost"), severities=(1, 5), baseline=bundle)
    figure = picture(replace(found, model="a long name " * 8, data="/a/folder" * 8))
    figure.canvas.draw()
    axes = figure.axes[0]
    title = axes.get_title(loc="left")
    assert title.count("\n") == 3
    assert "□" not in title
    (drawn,) = (text for text in axes.get_children() if getattr(text, "get_text", str)() == title)
    box, (width, height) = drawn.get_window_extent(), figure.canvas.get_width_height()
    assert box.x0 >= 0
    assert box.x1 <= width
    assert box.y0 >= 0
    assert box.y1 <= height


def test_the_command(bundle, folder, tmp_path, capsys):
    arguments = ["robustness", str(bundle), "--data", str(folder), "--device", "cpu"]
    assert main([*arguments, "--corruptions", "fog", "frost", "--out", str(tmp_path), "--baseline", str(bundle)]) == 0
    said = capsys.readouterr()
    for words in (
        "tiny-0 on 12 images",
        "severity 5",
        "fog",
        "mean",
        "mCE 100.0",
        "published for 32×32",
        "generated texture",
    ):
        assert words in said.out
    assert (tmp_path / "robustness.html").is_file()
    assert not (tmp_path / "unfinished").exists()
    assert main([*arguments, "--clean-only", "--present-classes", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["only_present_classes"] is True
    assert content["points"] == []
    assert main([*arguments[:3], str(folder / "val"), *arguments[4:], "--clean-only"]) == 0
    assert "tiny-0 on 12 images" in capsys.readouterr().out  # all of them, as nextify evaluate
    assert main([*arguments, "--corruptions", "rain"]) == 2
    assert "no corruption is called rain" in capsys.readouterr().err
    for refused, words in (
        (["--clean-only", "--corruptions", "fog"], "leave --corruptions out"),
        (["--clean-only", "--baseline", str(bundle)], "leave --baseline out"),
        (["--corruptions"], "--corruptions names none"),
    ):
        assert main([*arguments, *refused]) == 2
        assert words in capsys.readouterr().err


def test_results_of_another_measurement_are_not_replaced(bundle, folder, tmp_path, capsys):
    def run(weights: Path, *options: str) -> int:
        fixed = ("--data", str(folder), "--device", "cpu", "--out", str(tmp_path / "out"))
        return main(["robustness", str(weights), *fixed, *options])

    asked = ("--corruptions", "fog", "--severities", "1", "2", "3", "4", "5")
    again = saved(tmp_path / "again" / "bundle", 0)  # the same weights
    retrained = tiny_bundle(tmp_path / "retrained" / "bundle", CLASSES, 24, 0.8, seed=5, name="tiny-0")
    assert run(bundle, *asked) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    others = (
        (bundle, *asked[:2], "--severities", "2"), (bundle, "--corruptions", "snow"), (bundle, "--clean-only"),
        (bundle, *asked, "--baseline", "alexnet"), (bundle, *asked, "--seed", "1"), (retrained, *asked),
    )  # fmt: skip
    for other in others:
        assert run(*other) == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert "holds another robustness measurement (tiny-0 on photos" in said, other
        assert said.endswith("choose another --out"), other
        assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert run(again, *asked) == 0
    (tmp_path / "out" / "robustness.json").write_text("cut off")
    assert run(bundle, "--corruptions", "snow", "--severities", "2") == 0


def test_control_characters_in_a_name_do_not_reach_the_terminal(bundle, folder, tmp_path, capsys):
    data = tmp_path / "a\x1b[31m"
    shutil.copytree(folder, data)
    assert main(["robustness", str(bundle), "--data", str(data), "--device", "cpu", "--clean-only"]) == 0
    said = capsys.readouterr().out
    assert "of a\\x1b[31m, fp32" in said
    assert "\x1b" not in said


def test_a_killed_measurement_goes_on_to_the_same_figures(bundle, other, images, tmp_path, monkeypatch):
    """Batches of 5 of 12 images; the second is interrupted, and only that one and the third are made again."""
    monkeypatch.setattr(robustness, "BATCH", 5)
    settings = {"corruptions": ("fog", "impulse_noise"), "severities": (1, 4), "baseline": other}
    whole = measure(bundle, images, **settings)
    made: list[str] = []
    corrupt_batch = corrupted_images.corrupt_batch

    def counted(pixels, name, severity, seeds, pictures=None):
        if len(made) == 11 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        made.append(f"{name}-{severity}")
        return corrupt_batch(pixels, name, severity, seeds, pictures)

    monkeypatch.setattr(corrupted_images, "corrupt_batch", counted)
    partial = Partial(tmp_path / "unfinished")
    with pytest.raises(KeyboardInterrupt):
        measure(bundle, images, **settings, partial=partial)
    assert len(list((tmp_path / "unfinished").rglob("*.npz"))) == 1
    (tmp_path / "again").touch()
    made.clear()
    seen = []
    resumed = Partial(tmp_path / "unfinished")
    found = measure(
        bundle, images, **settings, partial=resumed, progress=lambda done, total: seen.append((done, total))
    )
    # Two networks that take other pixels: 4 corrupted batches each, of the second and third batch of images.
    assert len(made) == 2 * 2 * 4
    assert seen[0] == (2 * 5 * 5, 2 * 12 * 5)
    assert seen[-1] == (2 * 12 * 5, 2 * 12 * 5)
    assert (found.points, found.clean_error, found.mean_error) == (whole.points, whole.clean_error, whole.mean_error)
    different = measure(bundle, images, **settings, seed=1, partial=Partial(tmp_path / "unfinished"))
    assert different.points != whole.points
    resumed.remove()
    assert [len(list(f.iterdir())) for f in (tmp_path / "unfinished").iterdir()] == [3]  # the other request's


def test_a_damaged_part_is_made_again(tmp_path):
    partial = Partial(tmp_path)
    partial.begin("a")
    partial.save("made-0", {"x": np.arange(3)})
    assert partial.load("made-0")["x"].tolist() == [0, 1, 2]
    assert partial.load("made-1") is None
    file = next(tmp_path.rglob("made-0.npz"))
    file.write_bytes(file.read_bytes()[:40])
    assert partial.load("made-0") is None
    partial.remove()
    assert not tmp_path.exists()


def test_more_classes_than_the_bundle_knows_are_refused(folder, tmp_path, capsys):
    few = saved(tmp_path / "few", 1, classes=("bee", "cow"))
    assert main(["robustness", str(few), "--data", str(folder), "--device", "cpu"]) == 2
    assert "dog" in capsys.readouterr().err
    with pytest.raises(DataError, match=rf"^the baseline {re.escape(str(few))}: .* does not know: dog"):
        measure(saved(tmp_path / "all", 0), open_images(str(folder)), corruptions=("fog",), baseline=few)


def test_weights_without_a_classifier_are_refused_with_the_remedy(images, tmp_path):
    model = create_model(TINY, 0)
    bundle = save_bundle(tmp_path / "pretrained", model.state_dict(), About(TINY, 0))
    entry = Model("bundle", str(bundle), "other")
    for call in (evaluate, measure, inspect_images, lambda b, i: accuracy.evaluate(entry, str(b), i, "cpu", 1)):
        with pytest.raises(WeightsError, match=r"pretrained has no classifier: .* train one with nextify train"):
            call(bundle, images)


@pytest.mark.parametrize("call", [measure, evaluate])
def test_a_path_instead_of_images_is_refused_in_a_line(bundle, folder, call):
    with pytest.raises(TypeError, match=r"images must be what nextify\.open_images\(…\) returns, got str '"):
        call(bundle, str(folder))


def test_control_characters_of_names_are_escaped():
    assert printable("a\x1b[31m\nb\u2028 名 é") == "a\\x1b[31m\\nb\\u2028 名 é"
    assert printable("caf\udce9") == "caf�"
