"""What int8 may cost: the interval, the parts of the images, the choice, and the whole of it once."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nextify.cli import exporting, main, quantizing
from nextify.data import Images
from nextify.data.images import ImageSet, UniformStore
from nextify.data.kept import Kept
from nextify.deploy import quantize as search
from nextify.deploy.gate import Answers, change, images_needed, interval
from nextify.deploy.gate_images import GATE_SHARE, TooFewImages, divided
from nextify.deploy.int8 import INT8
from nextify.deploy.quantize import Candidate, Quantized, quantize
from nextify.deploy.runners import Exported, open_runner
from nextify.deploy.verify import ExportFailed, Verification, some_images, verify
from nextify.evaluation.runner import Floats, Network
from nextify.weights import Preprocessing
from tests.deploy.test_export import bundle_of, installed
from tests.helpers import TINY, Captured


def test_the_interval_covers_the_truth() -> None:
    """Of 4,000 draws at each of four truths, 93.5 to 98.5 % of the intervals hold it (binomial error 0.35 points)."""
    draw = np.random.default_rng(0)
    for n, lost, won in ((100, 0.05, 0.03), (500, 0.01, 0.01), (500, 0.02, 0.0), (2000, 0.004, 0.002)):
        counts = draw.multinomial(n, (lost, won, 1 - lost - won), 4000)
        ends = {tuple(c): interval(*c, n) for c in np.unique(counts[:, :2], axis=0).tolist()}
        inside = [ends[x, y][0] <= won - lost <= ends[x, y][1] for x, y, _ in counts.tolist()]
        assert 0.935 <= np.mean(inside) <= 0.985, (n, lost, won, np.mean(inside))


def test_the_interval_solves_tangos_equation() -> None:
    """Without any change its ends are ±z² / (n + z²); a swap of the two networks mirrors it."""
    z = 1.959963984540054
    for n in (10, 1000):
        assert interval(0, 0, n) == pytest.approx((-(z**2) / (n + z**2), z**2 / (n + z**2)), rel=1e-9)
    low, high = interval(7, 2, 150)
    assert interval(2, 7, 150) == pytest.approx((-high, -low), abs=1e-12)
    assert low < (2 - 7) / 150 < high
    assert interval(5, 0, 5)[0] == pytest.approx(-1)


@pytest.mark.parametrize("max_drop", [0.3, 0.5, 1, 5])
def test_so_many_images_can_show_it(max_drop: float) -> None:
    n = images_needed(max_drop)
    assert 100 * interval(0, 0, n)[0] > -max_drop >= 100 * interval(0, 0, n - 2)[0]


def answers(right: str) -> Answers:
    return Answers(np.array([c == "1" for c in right]), np.full(len(right), 0.9, np.float32))


def test_a_change_counts_the_images_that_differ() -> None:
    found = change(answers("1110001111"), answers("1101101111"))
    assert (found.lost, found.won, found.images, found.value) == (1, 2, 10, pytest.approx(10))
    assert found.low < 10 < found.high


def test_the_three_parts_are_disjoint(digits: Images) -> None:
    calibration, gate, unseen = divided(digits, 1.0, seed=3)
    assert len(calibration) == 300
    assert calibration.max() < digits.train_images
    assert sorted([*gate.tolist(), *unseen.tolist()]) == list(range(digits.test_images))
    assert len(gate) == round(GATE_SHARE * digits.test_images)
    assert not np.array_equal(unseen, divided(digits, 1.0, seed=4)[2])


def test_equal_images_and_groups_are_in_one_part(digits: Images) -> None:
    def some(pixels: Any, groups: list[str]) -> ImageSet:
        return ImageSet(np.zeros(len(pixels), np.int64), UniformStore(Kept(pixels)), groups=groups)

    train, test = digits.train.array, digits.test.array
    assert train is not None
    assert test is not None
    shown = np.arange(1000) % 700  # the last 300 are the first ones again, without a group
    groups = [f"g{i // 10}" if i < 700 else "" for i in range(1000)]
    groups[700] = "g69"  # as which the image 0 is in two groups
    trained = some(np.concatenate([train[:400], test[:200]]), ["g69"] * 50 + [""] * 550)
    held = some(test[shown], groups)
    calibration, gate, unseen = divided(replace(digits, train=trained, test=held), 1.0, seed=3)
    assert len(calibration) == 300
    assert 50 <= calibration.min() <= calibration.max() < 400
    assert sorted([*gate.tolist(), *unseen.tolist()]) == list(range(1000))
    assert abs(len(gate) - 300) <= 10
    assert not {*shown[gate]} & {*shown[unseen]}
    assert {groups[i] for i in gate} & {groups[i] for i in unseen} == {""}
    assert len({i in gate for i in (*range(10), *range(690, 710))}) == 1
    with pytest.raises(TooFewImages, match="of too few groups"):
        divided(replace(digits, train=trained, test=some(test, ["one"] * len(test))), 1.0, seed=3)
    with pytest.raises(TooFewImages, match="is held out, too"):
        divided(replace(digits, train=some(test[:9], [""] * 9), test=held), 1.0, seed=3)


def test_too_few_images_are_said_before_any_work(tmp_path: Path, capsys: Captured) -> None:
    source = bundle_of(tmp_path / "b", TINY, 8)
    assert main(["quantize", str(source), "--data", "digits", "--max-drop", "0.1"]) == 2
    said = capsys.readouterr().err
    assert "1,197 held-out images of digits cannot show a loss below 0.1 points" in said
    assert "give about 5,4" in said
    assert main(["quantize", str(source), "--data", "digits", "--max-drop", "0"]) == 2
    assert "give --max-drop above 0" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


class Noisy:
    """A file that gives the bundle's logits, a share of them for another class, in a given time."""

    def __init__(self, network: Network, share: float, work: int) -> None:
        self.network, self.share, self.work = network, share, work

    def __call__(self, inputs: Floats) -> Floats:
        logits = self.network(inputs)
        draw = np.random.default_rng([int(abs(x) * 1e4) for x in inputs[:, 0, 3, 3].tolist()])
        wrong = draw.random(len(logits)) < self.share
        logits[wrong] = np.roll(logits[wrong], 1, axis=1)
        return logits


def pretended(
    costs: dict[str, tuple[float, int]], tmp_path: Path, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A bundle of which no OpenVINO files are made, but some that are known to be right or wrong, fast or slow."""
    installed("openvino")
    pytest.importorskip("nncf")
    source = bundle_of(tmp_path / "b", TINY, 8)
    network = Network(source, kernels="off")
    named_by_network(digits, network, monkeypatch)

    def write(exported: Exported, *rest: Any) -> None:
        (rest[-1] / exported.file).write_text(exported.precision)

    monkeypatch.setattr(search.formats, "write", write)
    monkeypatch.setattr(search, "write_int8", write)
    monkeypatch.setattr(search, "INT8", INT8[:1])
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(search, "start", lambda path, exported, threads: Noisy(network, *costs[exported.precision]))

    def times(tried: Any, inputs: Floats) -> None:
        for one in tried:
            one.single = one.batched = [1.0 + one.run.work]

    monkeypatch.setattr(search, "_time", times)
    return source


@pytest.mark.parametrize(
    ("int8", "bf16", "chosen"),
    [
        ((0.0, 0), (0.0, 0), "int8"),
        ((0.2, 0), (0.0, 0), "bf16"),  # it loses too much
        ((0.0, 9), (0.0, 0), "bf16"),  # it is slower than fp32
        ((0.2, 0), (0.2, 0), "fp32"),
    ],
)
def test_the_best_that_keeps_the_promise_is_written(
    int8: tuple[float, int],
    bf16: tuple[float, int],
    chosen: str,
    tmp_path: Path,
    digits: Images,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = pretended({"fp32": (0.0, 4), "bf16": bf16, "int8": int8}, tmp_path, digits, monkeypatch)
    found = quantize(source, digits, tmp_path / "out", max_drop=1)
    verdicts = {c.name: c.verdict for c in found.candidates}
    assert [name.split()[1].rstrip(",") for name, verdict in verdicts.items() if verdict == "chosen"] == [chosen]
    assert found.final.low > -1
    said = json.loads((tmp_path / "out" / "nextify.json").read_text())["export"]
    assert said["precision"] == chosen
    assert [c["verdict"] for c in said["gate"]["candidates"]] == list(verdicts.values())
    assert said["gate"]["images"] == {"calibration": 300, "gate": 359, "unseen": 838}
    if int8[0]:
        assert "points" in verdicts["openvino int8"]


def test_what_differs_from_the_bundle_gives_way_to_the_next(
    tmp_path: Path, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was an error, after all the work, where the next candidate would have done."""
    source = pretended(
        dict.fromkeys(("fp32", "bf16", "int8"), (0.0, 0)) | {"fp32": (0.0, 4)}, tmp_path, digits, monkeypatch
    )

    def checked(exported: Exported, *rest: Any) -> Verification:
        if exported.precision == "int8":
            raise ExportFailed("openvino int8 does not compute what the bundle does: x; nothing was written")
        return verify(exported, *rest)

    monkeypatch.setattr(search, "verify", checked)
    found = quantize(source, digits, tmp_path / "out", max_drop=1)
    verdicts = {c.name: c.verdict for c in found.candidates}
    assert verdicts["openvino int8"] == "differs from the bundle"
    assert verdicts["openvino bf16"] == "chosen"
    assert "openvino int8 does not compute what the bundle does: x" in found.notes
    assert json.loads((tmp_path / "out" / "nextify.json").read_text())["export"]["precision"] == "bf16"


def test_a_disk_that_fills_at_the_end_is_one_error(
    tmp_path: Path, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a list of tuples, one for each file."""
    source = pretended({"fp32": (0.0, 4), "bf16": (0.0, 9), "int8": (0.0, 0)}, tmp_path, digits, monkeypatch)
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def large(exported: Exported, *rest: Any) -> None:
        (rest[-1] / exported.file).write_bytes(bytes(10**5))

    def full(exported: Exported, *rest: Any) -> Verification:
        found = verify(exported, *rest)
        if exported.precision == "int8":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        return found

    monkeypatch.setattr(search, "write_int8", large)
    monkeypatch.setattr(search, "verify", full)
    try:
        with pytest.raises(OSError, match=r"model\.xml") as raised:
            quantize(source, digits, tmp_path / "out", max_drop=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.errno == errno.EFBIG
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_int8_may_round_an_image_without_a_large_logit(digits: Images) -> None:
    shown = some_images(digits.test)
    settings = Preprocessing((8, 8), 8)

    def bundle(inputs: Floats) -> Floats:
        logits = np.zeros((len(inputs), 2), np.float32)
        logits[:, 0] = np.where(np.arange(len(inputs)) == 1, 0.01, 2.0)
        return logits

    def file(inputs: Floats) -> Floats:
        return bundle(inputs) + np.float32(0.05)

    found = verify(Exported("onnx", "int8", (8, 8)), file, bundle, shown, settings, "x")
    assert found.largest_difference == pytest.approx(0.05 / 2, rel=1e-3)
    with pytest.raises(ExportFailed, match="differs by 5 of its largest logit"):
        verify(Exported("onnx", "bf16", (8, 8)), file, bundle, shown, settings, "x")


@pytest.mark.parametrize("command", ["quantize", "export"])
def test_the_command_shows_every_candidate(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    source = bundle_of(tmp_path / "b", TINY, 8)
    lost = change(answers("1" * 90 + "0" * 10), answers("1" * 89 + "0" * 11))
    parts = {"calibration": 300, "gate": 100, "unseen": 100}
    tried = (
        Candidate("openvino fp32", 90.0, change(answers("10"), answers("10")), 1.0, 10**6, 2.0, 800.0, "not chosen"),
        Candidate("openvino int8", 89.0, lost, 1.5, 3 * 10**5, 1.0, 1600.0, "chosen"),
    )
    given: dict[str, Any] = {}

    def made(bundle: str, images: Images, out: Path, **options: Any) -> Quantized:
        given.update(options, out=out)
        return Quantized(None, out, tried, lost, 0.2, options["max_drop"], parts, 0, ("left out: a format",))

    if command == "quantize":
        monkeypatch.setattr(quantizing, "quantized", made)
    else:
        monkeypatch.setattr(exporting, "fastest", made)
    more = [] if command == "quantize" else ["--fastest"]
    asked = [command, str(source), "--data", "digits", "--max-drop", "2", "--threads", "1", *more]
    assert main(asked) == 0
    said = capsys.readouterr()
    assert given["max_drop"] == 2
    assert given["threads"] == 1
    assert "left out: a format" in said.err
    assert "top-1 −1.00 [−5" in said.out
    assert said.out.endswith(f"written: openvino int8, {given['out']}\n")
    assert "(allowed: −2), 1 lost and 0 won, calibration error +0.20 points" in said.out
    assert "…" not in said.out  # the table fits 80 columns without cutting words
    assert main([*asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [c["verdict"] for c in told["candidates"]] == ["not chosen", "chosen"]
    assert told["path"] == str(tmp_path / ("b-openvino-quantized" if command == "quantize" else "b-fastest"))


def test_fp32_as_the_last_resort_is_not_compared_with_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    source = bundle_of(tmp_path / "b", TINY, 8)
    same = change(answers("10"), answers("10"))
    tried = tuple(
        Candidate(f"openvino {name}", 50.0, same, 1.0, 10**6, 2.0, 800.0, verdict)
        for name, verdict in (("fp32", "chosen"), ("int8, SmoothQuant 0.5, all three kept", "may lose 9.00 points"))
    )
    counts = {"calibration": 300, "gate": 100, "unseen": 100}
    found = Quantized(None, tmp_path / "q", tried, same, 0.0, 2.0, counts, 0)
    monkeypatch.setattr(quantizing, "quantized", lambda *_, **__: found)
    assert main(["quantize", str(source), "--data", "digits"]) == 0
    said = capsys.readouterr().out
    assert "openvino fp32: no other candidate is faster and was shown to keep its accuracy\n" in said
    assert "unseen images" not in said
    assert "…" not in said


def named_by_network(images: Images, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label the images with the network's own answers, nine of ten of them right."""
    held: ImageSet = images.test
    inputs = np.stack([network.preprocessing(held.load(i)).numpy() for i in range(len(held))])
    labels = network(inputs).argmax(1).astype(np.int64)
    labels[::10] = (labels[::10] + 1) % 10
    monkeypatch.setattr(held, "labels", labels)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["openvino", "onnx"])
def test_a_network_is_quantized(to: str, tmp_path: Path, digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(to)  # type: ignore[arg-type]
    pytest.importorskip("nncf")
    source = bundle_of(tmp_path / "b", TINY.with_(layer_scale=0.3), 16)
    network = Network(source, kernels="off")
    named_by_network(digits, network, monkeypatch)
    found = quantize(source, digits, tmp_path / "out", to=to, max_drop=5, threads=1)  # type: ignore[arg-type]
    assert len(found.candidates) >= 1 + len(INT8)
    runner = open_runner(tmp_path / "out")
    inputs = np.stack([network.preprocessing(digits.test.load(i)).numpy() for i in range(100)])
    assert (runner(inputs).argmax(1) == network(inputs).argmax(1)).mean() > 0.9
    changed = [c for c in found.candidates if c.change.lost + c.change.won > 0]
    assert changed, "no candidate changed any answer, so nothing was quantized"
