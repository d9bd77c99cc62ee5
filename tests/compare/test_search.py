"""Search: designs within a budget, successive halving with trainings that take no time, and one that trains."""

import csv
import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import nextify
from nextify.cli import main
from nextify.cli.search import Options
from nextify.compare import search_report
from nextify.compare.budget import BudgetError, limits
from nextify.compare.designs import AIM, UNFIT, Candidate, drawn, family, grown, near, used
from nextify.compare.records import Row
from nextify.compare.search import ETA, Search
from nextify.compare.search_results import Settings
from nextify.fitting.fit import fit_design
from nextify.fitting.scale import scale
from nextify.networks.layout import cost
from nextify.networks.zoo import create_model
from nextify.paper.design import Design
from nextify.study.engine import Done, EngineError, Failed, Started, run_job
from nextify.study.store import Store
from nextify.system.files import UnusableFolder
from nextify.training.result import Result, packed
from nextify.training.trial import Runtime
from tests.helpers import TINY, server


@functools.cache
def cheap(design):
    """Latency by the multiply-adds, 1 ms each million, without building the network."""
    counted = cost(design, 16, 10)
    return Row("", 16, "measured", macs=counted.macs, parameters=counted.parameters, latency_ms_p50=counted.macs / 1e6)


def worth(design):
    """An additive game: GELU, layer norm and depth are good."""
    return 60 + 5 * (design.activation == "gelu") + 5 * (design.norm == "layer") + min(10, sum(design.depths))


class Instant:
    """An engine whose trainings take a second per epoch; ``broken`` fail; after ``most`` jobs it is interrupted."""

    def __init__(self, most=10**9, broken=lambda job: False):
        self.most, self.broken, self.trained = most, broken, []

    def run(self, jobs, on_event):
        for job in jobs:
            if len(self.trained) >= self.most:
                raise KeyboardInterrupt
            on_event(Started(job.key))
            if self.broken(job):
                on_event(Failed(job.key, "it diverged"))
                continue
            self.trained.append(job)
            job.folder.mkdir(parents=True, exist_ok=True)
            epochs, images = job.trial.recipe.epochs, len(job.images.test)
            right = np.arange(images) * 100 < (worth(job.trial.design) + job.trial.seed + epochs / 10) * images
            metrics = {"top1": 100 * float(right.mean()), "top5": 100.0}
            on_event(
                Done(
                    job.key,
                    Result(
                        *(job.trial.fingerprint, job.folder / "bundle", metrics, images, 0.1, float(epochs), 1.0, None),
                        *([], True, packed(right.astype(np.uint8).tobytes())),
                    ),
                )
            )


@pytest.fixture
def made(tmp_path, digits):
    def make(out="out", engine=None, **settings):
        settings = {"budget": "latency<2ms", "minutes": 0.3, "epochs": 9, "seeds": 2, **settings}
        return Search(
            Settings(**settings), digits, Store(tmp_path / out), engine or Instant(), Runtime(), 2, measure=cheap
        )

    return make


@pytest.mark.parametrize("image_size", [16, pytest.param(96, marks=pytest.mark.slow)])
def test_every_drawn_design_is_lawful_and_can_be_built(image_size):
    size = scale("tiny")
    made = (drawn(np.random.default_rng(number), size, image_size)[1] for number in range(60))
    designs = {fit_design(design, image_size=image_size, steps=500)[0] for design in made}
    assert len(designs) > 50
    assert {design.norms for design in designs} == {"after_every_conv", "before_expand"}
    assert {design.norm for design in designs} == {"batch", "layer"}
    for design in designs:
        block = ("none", "first", 3) if design.bottleneck == "none" else ("narrow", "middle", 3)
        assert design.groups == "depthwise" or (design.bottleneck, design.spatial, design.kernel_size) == block
        assert design.layer_scale == "off" or design.norms == "before_expand"
        assert cost(design, image_size, 10).macs > 0
    with torch.no_grad():
        for design in list(designs)[:4]:
            network = create_model(design, 10).eval()
            assert network(torch.zeros(1, 3, image_size, image_size)).shape == (1, 10)
    assert any(design.downsampling == "pooled" for design in designs) == (image_size <= 64)
    assert any(design.bottleneck == "none" for design in designs) == (image_size <= 64)


@pytest.mark.parametrize("budget", ["latency<2ms", "latency<2ms, parameters<100k"])
def test_a_design_is_widened_until_it_just_keeps_the_budget(budget):
    within, shares = limits(budget), []
    for number in range(8):
        _, design = drawn(np.random.default_rng(number), scale("tiny"), 16)
        wide, row, share = grown(design, cheap, within)
        assert share == used(row, within)
        assert share <= 1 or max(wide.widths) < max(design.widths)
        assert row == cheap(wide)
        assert wide.with_(widths=design.widths, depths=design.depths) == design
        assert wide.depths == design.depths or sum(wide.depths) < sum(design.depths)
        shares.append(share)
    assert sum(AIM - 0.1 < share <= 1 for share in shares) > 2


def test_a_design_that_takes_too_much_at_any_width_is_told_by_its_share():
    assert grown(TINY, cheap, limits("macs<100"))[2] > 1


@pytest.mark.slow
def test_a_member_of_each_family_is_the_largest_within_the_budget():
    within = limits("macs<20M")
    found = {each.name: each for each in family(32, 1000, cheap_at_32, within)}
    assert all(each.used <= 1 for each in found.values())
    assert "convnext_pooled@tiny" in found or not any("pooled" in name for name in found)
    assert len({each.design for each in found.values()}) == len(found)
    names = " ".join(found)
    assert "convnext_" in names
    assert "convnextv2_" in names
    assert "resnet50_" in names


def cheap_at_32(design):
    return Row("", 32, "measured", macs=cost(design, 32, 10).macs)


def test_candidates_go_on_after_those_that_are_known():
    given = (0, scale("tiny"), 16, 500, cheap, limits("latency<2ms"))
    stream = near("search", *given)
    first = [next(stream) for _ in range(9)]
    stream = near("search", *given, first[:5])
    assert [next(stream) for _ in range(4)] == first[5:]
    assert [each.origin for each in first[:3]] == ["resnet_pooled", "convnext_pooled", "ConvNeXt-T"]
    assert "search-" not in next(near("random", *given)).name


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ("latency", "cannot be read"),
        ("latency>10ms", "limits latency by <"),
        ("latency<10", "in ms, s"),
        ("latency<0ms", "leaves no room"),
        ("throughput>100", "names throughput"),
        ("memory<10MiB", "names memory"),
        ("", "cannot be read"),
    ],
)
def test_a_bad_budget_is_refused(budget, said):
    with pytest.raises(BudgetError, match=said):
        limits(budget)


def test_a_bad_budget_is_one_line(capsys):
    assert main(["search", "--budget", "latency<10"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("nextify: --budget knows latency in ms")
    assert "throughput" not in error
    assert error.count("\n") == 1


def test_the_best_of_the_designs_wins_and_all_arms_are_compared(made, tmp_path):
    engine = Instant()
    search = made(engine=engine)
    found = search.run()
    own = [t for t in found.tried if t.arm == "search" and t.epochs]
    assert worth(found.winner.design) >= max(worth(t.candidate.design) for t in own) - 1
    assert [final.arm for final in found.finals] == ["search", "random", "family"]
    assert found.rungs == (1, 3, 9)
    rungs = [sum(t.epochs >= epochs for t in own) for epochs in found.rungs]
    assert rungs[1:] == [rungs[0] // ETA, max(1, rungs[0] // ETA // ETA)]
    assert all(t.candidate.used <= 1 for t in found.tried if t.epochs)
    spent = {arm: sum(t.seconds for t in found.tried if t.arm == arm) for arm in ("search", "random")}
    assert spent["search"] <= spent["random"] < spent["search"] + 2 * 9 + 1
    validated = [job for job in engine.trained if not job.name.startswith("final-")]
    assert all(job.images is search.validated for job in validated)
    assert {len(job.images.train) for job in validated} == {len(search.images.train) - len(search.validated.test)}
    assert len(engine.trained) - len(validated) == 3 * 2
    assert found.finals[0].statistics.comparison is None
    over = found.finals[1].statistics.comparison
    assert over.change == pytest.approx(
        found.finals[0].statistics.summary.mean - found.finals[1].statistics.summary.mean
    )
    assert "the search’s winner" in over.conclusion
    written = search_report.write(found, tmp_path)
    assert [path.stat().st_size > 100 for path in written] == [True] * 5
    kept = json.loads(written[0].read_text())
    assert Design.from_dict(kept["finals"][0]["candidate"]["design"]) == found.winner.design
    assert len(written[1].read_text().splitlines()) == 1 + len(found.tried)


def without_times(found):
    return {k: v for k, v in found.to_dict().items() if k not in ("started", "finished", "environment", "bundle")}


@pytest.mark.parametrize(
    ("most", "alone"),
    [pytest.param(5, True, marks=pytest.mark.slow), pytest.param(18, True, marks=pytest.mark.slow), (25, False)],
)
def test_a_stopped_search_goes_on_to_the_same_result(made, most, alone):
    whole = made("whole", alone=alone).run()
    with pytest.raises(KeyboardInterrupt):
        made(engine=Instant(most), alone=alone).run()
    assert without_times(made(alone=alone).run()) == without_times(whole)


@pytest.mark.slow
def test_a_finished_search_of_more_minutes_keeps_what_is_trained(made):
    first, more = Instant(), Instant()
    found = made(engine=first, alone=True).run()
    longer = made(engine=more, minutes=0.6, alone=True).run()
    assert {job.key for job in first.trained if "final" not in job.key}.isdisjoint(job.key for job in more.trained)
    assert sum(t.arm == "search" for t in longer.tried) > sum(t.arm == "search" for t in found.tried)


@pytest.fixture
def members(monkeypatch):
    """The families: TINY in seven widths."""
    designs = [TINY.with_(widths=tuple(width + 4 * i for width in TINY.widths)) for i in range(7)]
    found = [Candidate(f"member{i}@tiny", "member", design, cheap(design), 0.5) for i, design in enumerate(designs)]
    monkeypatch.setattr(nextify.compare.search, "family", lambda *given: iter(found))
    return found


def test_members_without_time_are_told_and_not_always_the_same_ones(made, members, tmp_path):
    left = []
    for seed in range(4):
        found = made(f"seed{seed}", minutes=0.02, seed=seed).run()
        trained = {t.candidate.name for t in found.tried if t.arm == "family" and t.epochs}
        assert {*found.left_out} == {each.name for each in members} - trained
        said = f"There was no time to train {len(found.left_out)} of the 7 family members within the budget"
        assert said in " ".join(search_report.notes(found))
        assert found.to_dict()["members_left_out"] == found.left_out
        assert made(f"seed{seed}", minutes=0.02, seed=seed).run().left_out == found.left_out
        left.append(frozenset(found.left_out))
    assert all(left)
    assert len({*left}) > 1
    found = made("seed0", minutes=2.0).run()
    assert found.left_out == []
    assert "no time" not in " ".join(search_report.notes(found))


@pytest.mark.parametrize("only", [True, False])
def test_a_winner_that_is_a_member_is_not_compared_with_the_families(made, members, only):
    assert made("before").run().finals[2].statistics.comparison is not None
    twin = replace(made("before").run().winner, name="twin@tiny")
    members[:] = [twin] if only else [*members, twin]
    found = made("again").run()
    assert found.winner.design == twin.design
    final = found.finals[2]
    assert (final.arm, final.member, final.statistics.comparison) == ("family", "twin@tiny", None)
    assert found.finals[1].statistics.comparison is not None
    said = "The winner is the family member twin@tiny, so it is not compared with the families"
    said += "." if final.candidate.design == twin.design else "; the table shows the best of the other members."
    assert said in search_report.notes(found)
    assert "| winner is a member |" in search_report.markdown(found)


def test_a_limit_with_an_equals_sign_may_be_used_up():
    row = cheap(TINY)
    assert used(row, limits(f"macs<={row.macs}")) == 1
    assert used(row, limits(f"macs<{row.macs}")) > 1
    assert used(row, limits(f"macs<{row.macs + 1}")) < 1


def test_another_search_in_the_same_folder_is_refused(made):
    made(alone=True).run()
    with pytest.raises(UnusableFolder, match="another budget: choose another --out"):
        made(budget="latency<3ms")
    with pytest.raises(UnusableFolder, match="another number of threads for latency: choose another --out"):
        made(latency_threads=7)
    made(alone=True, seeds=3)


def test_failed_designs_are_left_out_and_named(made):
    found = made(engine=Instant(broken=lambda job: job.trial.design.norm == "batch"), alone=True).run()
    assert [final.arm for final in found.finals] == ["search"]
    assert {t.arm for t in found.tried} == {"search"}
    assert found.winner.design.norm == "layer"
    assert {t.error for t in found.tried if t.candidate.design.norm == "batch" and t.candidate.used <= 1} == {
        "it diverged"
    }
    with pytest.raises(EngineError, match="it diverged"):
        made("other", engine=Instant(broken=lambda job: True)).run()


def test_a_budget_that_no_design_keeps_is_refused_without_a_training(made):
    engine = Instant()
    with pytest.raises(BudgetError, match="do not stay within --budget macs<10; the nearest takes multiply-adds"):
        made(engine=engine, budget="macs<10").run()
    assert engine.trained == []
    with pytest.raises(BudgetError, match=r"takes parameters .*: give more$"):
        made(engine=engine, budget="parameters<10").run()
    measured = []
    search = made(budget="latency<10us")
    search.measure = lambda design: measured.append(design) or cheap(design)
    with pytest.raises(BudgetError, match="the nearest takes median latency 0"):
        search.run()
    assert len(measured) <= UNFIT
    made(engine=engine, budget="macs<100M", alone=True)  # nothing was trained, so the folder is free for another budget


@pytest.fixture
def few(monkeypatch):
    """Two designs within the budget, then none; random search draws none at all."""
    designs = [TINY.with_(widths=tuple(width + 4 * i for width in TINY.widths)) for i in range(200)]
    shares = {"search": [0.5, 0.9] + [1.5] * 198, "random": [1.5] * 200}

    def drawn(arm, *given):
        known = given[-1]
        for i in range(len(known), 200):
            yield Candidate(f"{arm}-{i + 1}", "a row", designs[i], cheap(designs[i]), shares[arm][i])

    monkeypatch.setattr(nextify.compare.search, "near", drawn)


@pytest.mark.parametrize("engine", [Instant(), Instant(2)])
def test_a_budget_that_few_designs_keep_is_searched_with_these(made, few, members, tmp_path, engine):
    members.clear()
    try:
        found = made(engine=engine).run()
    except KeyboardInterrupt:
        found = made().run()
    assert sum(t.arm == "search" for t in found.tried) == 2 + UNFIT
    assert sorted(t.candidate.name for t in found.tried if t.epochs) == ["search-1", "search-2"]
    assert [final.arm for final in found.finals] == ["search"]
    said = search_report.notes(found)
    assert "The search ended before its time, as the last 60 designs that it drew were over the budget." in said
    assert "No design that random search drew keeps the budget." in said
    assert "No member of the families keeps the budget." in said
    words = [text.get_text() for text in search_report.figure(found).texts]
    assert "● search" in words
    assert "● families" not in words


def test_depths_and_widths_are_those_of_the_trained_design(made, tmp_path):
    found = made(alone=True, minutes=0.05).run()
    search_report.write(found, tmp_path)
    lines = list(csv.DictReader((tmp_path / "search.csv").read_text().splitlines()))
    for line, tried in zip(lines, found.tried, strict=True):
        assert line["depths"] == "-".join(map(str, tried.candidate.design.depths))
        assert line["widths"] == "-".join(map(str, tried.candidate.design.widths))
        assert "depths" not in line["origin"]
        assert "widths" not in line["origin"]


def test_latencies_of_seconds_are_written_out():
    assert limits("latency<1s")[0].shown(Row("", 32, "measured", latency_ms_p50=9220.4)) == "median latency 9,220 ms"


def test_one_rung_of_one_epoch_is_told_as_such(made):
    said = " ".join(search_report.notes(made(epochs=1, alone=True, minutes=0.05).run()))
    assert "designs for 1 epoch. Of all" in said


def test_python_and_the_command_ask_for_the_same_precision():
    assert Settings("macs<20M").precision == Options(budget="macs<20M").machine.precision


class InProcess:
    """An engine that trains here."""

    def run(self, jobs, on_event):
        for job in jobs:
            run_job(job, Runtime(), on_event)


def test_a_real_search_leaves_a_bundle_that_gives_its_reported_accuracy(tmp_path, digits):
    settings = Settings("macs<300k", 1e-6, epochs=1, seeds=1, alone=True, latency_threads=1)
    with Store(tmp_path) as store:
        made = Search(settings, digits, store, InProcess(), Runtime(), 1)
        found = made.run()
        assert made.ledger.ended == len(made.ledger.known) + 1  # and the final one
    assert 0.5 < found.winner.used <= 1
    assert cost(found.winner.design, found.image_size, 10).macs == found.winner.row.macs <= 300_000
    assert all(milliseconds > 0 for milliseconds in found.finals[0].latency_ms)
    assert found.bundle_accuracy == found.finals[0].accuracies[0]
    assert nextify.evaluate(tmp_path / "trials" / "latest", digits).top1 == found.bundle_accuracy
    assert {path.name.partition("-")[0] for path in (tmp_path / "trials").iterdir()} == {"final", "latest"}


@pytest.mark.slow
def test_the_command_searches_reports_and_goes_on(tmp_path, monkeypatch, capsys):
    server()
    monkeypatch.chdir(tmp_path)
    command = ["search", "--budget", "latency<20ms, macs<600k", "--epochs", "3", "--seeds", "2", "--out", "out"]
    assert main([*command, "--minutes", "0.01"]) == 0
    first = json.loads((tmp_path / "out/search.json").read_text())
    assert [final["arm"] for final in first["finals"]] == ["search", "random", "family"]
    assert (tmp_path / "out/search.png").stat().st_size > 20_000
    said = capsys.readouterr().out
    assert "the winner's network: out/trials/final-search-" in said
    assert main([*command, "--minutes", "0.01"]) == 0
    again = json.loads((tmp_path / "out/search.json").read_text())
    assert [final["accuracies"] for final in again["finals"]] == [final["accuracies"] for final in first["finals"]]
    assert "finished already" in capsys.readouterr().out
