"""The worth of each decision in any order: orders, estimates against an exact enumeration, and what is kept."""

import functools
import itertools
import json
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from nextify.cli import attribution as cli_attribution
from nextify.cli import main
from nextify.data import open_images
from nextify.fitting.scale import scale
from nextify.paper.roadmap import roadmap
from nextify.report.attribution import Results, notes
from nextify.study.attribution import AFTER, Attributed, Subset, legal, mirrored, prefixes
from nextify.study.engine import Done, Failed, Started
from nextify.study.ledger import Attributing
from nextify.study.plan import make_plan
from nextify.study.results import StudyData
from nextify.study.store import Store
from nextify.study.study import StudyEstimate
from nextify.system.files import UnusableFolder
from nextify.training.result import Result
from nextify.training.trial import Data, Runtime
from tests.helpers import server


class Facts:
    train_images = 600
    num_classes = 10
    mirror_keeps_class = False


def attributed(pairs=1, ends=1, regime="resnet50"):
    made = Attributed(
        make_plan(roadmap(regime), scale("tiny"), Facts(), Data("digits", "test", 10, 16), seeds=0), Facts(), ends
    )
    made.extend(pairs)
    return made


def lawful(order):
    return all(
        order.index(first) < order.index(name) for first, others in AFTER.items() if first in order for name in others
    )


@pytest.mark.parametrize("first", AFTER)
def test_random_orders_keep_the_rule_and_all_of_them_are_equally_likely(first):
    names = (first, *AFTER[first], *("gelu", "width")[: 4 - len(AFTER[first])])
    every = {order for order in itertools.permutations(names) if lawful(order)}
    rng = np.random.default_rng(0)
    drawn = Counter(legal([names[i] for i in rng.permutation(len(names))]) for _ in range(6000))
    assert drawn.keys() == every
    expected = 6000 / len(every)
    assert sum((n - expected) ** 2 / expected for n in drawn.values()) < stats.chi2.ppf(0.999, len(every) - 1)


def test_a_mirrored_order_is_lawful_and_mirrored_back():
    made = attributed()
    for pair in range(20):
        order, mirror = made.orders(pair)
        assert lawful(order)
        assert lawful(mirror)
        assert mirrored(mirror) == order
        tied = {name for first, after in AFTER.items() for name in (first, *after)}
        others = [name for name in order if name not in tied]
        assert [name for name in mirror if name in others] == others[::-1]


@pytest.mark.parametrize("regime", ["resnet50", "resnet200"])
def test_the_papers_order_is_lawful_and_its_subsets_are_the_roadmaps_rows(regime):
    made = attributed(regime=regime)
    assert lawful(made.names)
    rows = [made.plan.rows[0], *made.plan.rows[1:]]
    ways = [Subset(), *prefixes(made.names), Subset(made.names)]
    assert [made.design(way) for way in ways] == [row.design for row in rows]
    assert [made.trial(way, 0).trial.recipe for way in ways] == [row.recipe for row in rows]


@pytest.mark.parametrize("regime", ["resnet50", "resnet200"])
def test_no_lawful_order_meets_a_network_that_is_too_dear(regime):
    made = attributed(regime=regime)
    rng = np.random.default_rng(1)
    for _ in range(40):
        order = legal([made.names[i] for i in rng.permutation(len(made.names))])
        assert all(made.trainable(subset) for subset in prefixes(order))
    assert not made.trainable(Subset({"move_up", "kernel_7", "width"}))


def test_every_subset_is_another_network():
    made = attributed(pairs=3)
    fingerprints = {planned.trial.fingerprint for planned in made.trials}
    assert len(fingerprints) == len(made.trials) == len({p.folder for p in made.trials})


def test_a_further_pair_changes_nothing_of_the_earlier_ones():
    one, three = attributed(pairs=1), attributed(pairs=3)
    assert [p.folder for p in three.trials][: len(one.trials)] == [p.folder for p in one.trials]


def game(subset):
    """Additive but for one pair of decisions."""
    worth = {"gelu": 2.0, "width": -1.0, "depthwise": 0.5, "kernel_7": 1.0}
    return 50 + sum(worth.get(name, 0.25) for name in subset) + (3.0 if {"gelu", "patchify"} <= subset else 0)


def test_values_of_an_additive_game_are_exact_and_its_pair_is_shared_and_found():
    made = attributed(pairs=16, ends=2)
    found = made.attribution({(s, p): game(s) for s, p in made.keyed})
    worth = {w.decision: w for w in found.worths}
    assert worth["width"].shapley.mean == pytest.approx(-1.0)
    assert worth["width"].shapley.low == pytest.approx(-1.0)
    assert worth["kernel_7"].alone.mean == pytest.approx(1.0)
    assert worth["gelu"].shapley.mean + worth["patchify"].shapley.mean == pytest.approx(2.0 + 0.25 + 3.0)
    assert worth["gelu"].shapley.mean == pytest.approx(3.5)  # an order and its mirror image share the pair exactly
    assert worth["gelu"].last.mean == pytest.approx(5.0)
    assert worth["gelu"].in_papers_order.mean == pytest.approx(5.0)
    assert found.gap == pytest.approx(0, abs=1e-9)
    assert {found.interactions[0].first, found.interactions[0].second} == {"gelu", "patchify"}
    assert found.interactions[0].mean == pytest.approx(3.0, abs=1e-6)
    assert all(abs(i.mean) < 1e-6 for i in found.interactions[1:])


@pytest.mark.parametrize("pairs", [1, 2, 5, 6])
def test_few_pairs_of_orders_rank_nothing(pairs):
    made = attributed(pairs=pairs, ends=0)
    found = made.attribution({(s, p): game(s) for s, p in made.keyed})
    data = StudyData("digits", test_images=1197)
    results = Results(found, "resnet50", data, "tiny", 16, "top-1", "%", 99, 1.0, "nextify attribute", "", "", {})
    said = " ".join(notes(results))
    assert ("too early to rank" in said) == (pairs < 6)
    assert ("ranks away from the paper's" in said) == (pairs == 6)
    assert ("Opposite sign to the paper's: Depthwise conv, Increase width" in said) == (pairs == 6)
    assert ("6 pairs would do" in said) == (pairs < 6)
    assert "those of tens of pairs are too narrow" in said


def comes_before(a, b):
    """Share of the lawful orders of the groups that ``a`` and ``b`` belong to in which ``a`` comes before ``b``."""
    groups = [{first, *others} for first, others in AFTER.items()]
    names = sorted(set().union({a, b}, *(group for group in groups if group & {a, b})))
    orders = [order for order in itertools.permutations(names) if lawful(order)]
    return sum(order.index(a) < order.index(b) for order in orders) / len(orders)


def test_values_agree_with_those_over_all_orders():
    rng = np.random.default_rng(3)
    made = attributed(pairs=30, ends=0)
    names = made.names
    pairwise = dict(zip(itertools.product(names, names), rng.normal(0, 1, len(names) ** 2).tolist(), strict=True))

    def value(subset):
        return sum(pairwise[a, b] for a in subset for b in subset)

    before = functools.cache(comes_before)
    exact = {
        a: pairwise[a, a] + sum(before(b, a) * (pairwise[a, b] + pairwise[b, a]) for b in names if b != a)
        for a in names
    }
    assert sum(exact.values()) == pytest.approx(value(names))
    found = made.attribution({(s, p): value(s) + rng.normal(0, 0.5) for s, p in made.keyed})
    for worth in found.worths:
        half = (worth.shapley.high - worth.shapley.low) / 2
        assert abs(worth.shapley.mean - exact[worth.decision]) < 2 * half < 4
    assert sum(w.shapley.mean for w in found.worths) == pytest.approx(found.whole.mean)


def test_incomplete_and_failed_pairs_count_nowhere():
    made = attributed(pairs=3, ends=0)
    values = {(s, p): game(s) for s, p in made.keyed}
    del values[made.subsets(1)[5], 1]
    found = made.attribution(values, failed=[(made.subsets(1)[5], 1)])
    assert (found.pairs, found.left_out) == (2, 1)
    assert made.attribution({}).pairs == 0


class Instant:
    """An engine whose trainings take no time; ``broken`` ones fail, and after ``most`` it is interrupted."""

    def __init__(self, made, broken=(), most=10**9):
        self.value = {planned.folder: game(s) for (s, _), planned in made.keyed.items()}
        self.broken, self.most = broken, most

    def run(self, jobs, on_event):
        for number, job in enumerate(jobs):
            if number >= self.most:
                raise KeyboardInterrupt
            on_event(Started(job.key))
            if job.key in self.broken:
                on_event(Failed(job.key, "it diverged"))
                continue
            job.folder.mkdir(parents=True)
            figures = {"top1": self.value[job.key], "top5": 99.0}
            on_event(Done(job.key, Result("f", job.folder, figures, 100, 0.1, 2.0, 100.0, None, [])))


@pytest.fixture
def trainings(tmp_path):
    images = open_images("digits")

    def make(pairs=2, out="out"):
        return Attributing(attributed(pairs, 0), Store(tmp_path / out), images, Runtime(), 2)

    return make


def test_a_stopped_run_goes_on_to_the_same_result_and_keeps_no_networks(trainings):
    whole = trainings(out="whole")
    whole.run(Instant(whole.plan), lambda event: None)
    first = trainings()
    with pytest.raises(KeyboardInterrupt):
        first.run(Instant(first.plan, most=11), lambda event: None)
    assert len(first.known) == 11
    second = trainings()
    second.load()
    assert len(second.open_trials) == len(second.plan.trials) - 11
    second.run(Instant(second.plan), lambda event: None)
    assert second.attribution() == whole.attribution()
    assert list(second.store.trials.iterdir()) == []
    assert json.loads(second.path.read_text()) == {f: list(v) for f, v in second.known.items()}


def test_a_failed_training_leaves_its_pair_out(trainings):
    made = trainings()
    broken = made.plan.trials[3].folder
    made.run(Instant(made.plan, broken=(broken,)), lambda event: None)
    assert made.open_trials == []
    found = made.attribution()
    assert (found.pairs, found.left_out) == (1, 1)


@pytest.mark.parametrize("content", ["[]", "null", "{", '{"a": 3}', '{"a": ["x", 1]}'])
def test_a_file_that_holds_no_values_is_refused(trainings, content):
    made = trainings()
    made.path.write_text(content)
    with pytest.raises(UnusableFolder, match="choose another --out"):
        made.load()


def test_a_pair_costs_at_most_two_ways_and_its_ends():
    made = attributed(pairs=2, ends=1)
    ways = 2 * (len(made.names) - 1)
    assert len(made.subsets(1)) <= 2 + ways  # the mirrored order may meet a subset again
    assert len(made.subsets(0)) <= 2 + ways + 2 * len(made.names) + len(made.names) - 1


class Here(Instant):
    """The same, as the command's engine."""

    runtime, side_by_side = Runtime(), 1

    def __init__(self):
        self.broken, self.most, self.trained = (), 10**9, []

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def run(self, jobs, on_event):
        self.value = {job.key: 90.0 for job in jobs}
        self.trained += [job.key for job in jobs]
        super().run(jobs, on_event)


def test_what_is_finished_beyond_a_gap_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(cli_attribution, "chosen_engine", lambda *given: Here())
    monkeypatch.setattr(Attributing, "probe", lambda self, engine: StudyEstimate(1.0, {}, {}))
    command = ["attribute", "--ends", "0", "--out", str(tmp_path), "--pairs", "7"]
    assert main(command) == 0
    values = json.loads((tmp_path / "values.json").read_text())
    first = next(iter(values))
    (tmp_path / "values.json").write_text(json.dumps({f: value for f, value in values.items() if f != first}))
    engine = Here()
    monkeypatch.setattr(cli_attribution, "chosen_engine", lambda *given: engine)
    assert main(command) == 0
    assert engine.trained == [first]
    assert json.loads((tmp_path / "attribution.json").read_text())["attribution"]["pairs"] == 7


def test_where_every_run_fails_the_command_ends(tmp_path, monkeypatch, capsys):
    class Failing(Here):
        def run(self, jobs, on_event):
            self.broken = [job.key for job in jobs]
            super().run(jobs, on_event)

    engine = Failing()
    monkeypatch.setattr(cli_attribution, "chosen_engine", lambda *given: engine)
    monkeypatch.setattr(Attributing, "probe", lambda self, engine: StudyEstimate(1.0, {}, {}))
    assert main(["attribute", "--ends", "0", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "failed, it diverged" in said.out
    assert "no pair of orders is complete yet" in said.out
    assert said.err == ""
    assert len(engine.trained) < 30  # one pair, and no other after it


@pytest.mark.slow
def test_the_command_trains_reports_and_goes_on(tmp_path, monkeypatch, capsys):
    server()
    monkeypatch.chdir(tmp_path)
    command = ["attribute", "--epochs", "1", "--ends", "0", "--out", "out", "--hours", "0.0001"]
    assert main([*command, "--pairs", "1"]) == 0
    first = json.loads((tmp_path / "out/attribution.json").read_text())
    assert first["attribution"]["pairs"] == 1
    assert main([*command, "--pairs", "2"]) == 0
    second = json.loads((tmp_path / "out/attribution.json").read_text())
    assert second["attribution"]["pairs"] == 2
    assert "Kernel size 7" in (tmp_path / "out/report.html").read_text()
    assert "1 pair of orders finished already" in capsys.readouterr().out
