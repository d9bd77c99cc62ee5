"""Reports of made-up studies: every file is written whole, says what the data says, and copes with what is missing."""

import csv
import io
import json
import random
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from nextify import report
from nextify.paper.recipe import CONVNEXT, RESNET
from nextify.paper.roadmap import ROADMAPS
from nextify.report import columns, step_cards, study_page, tables, text
from nextify.report import figures as figure
from nextify.study.results import StudyResults, named
from nextify.study.statistics import conclude
from nextify.system.fonts import lettered
from nextify.tasks.metric_specs import ACCURACY


def fake(seeds=3, *, adopted_only=False, finished=None, name="digits", epochs=20, regime="resnet50"):
    """The results of a study that nobody ran, with the shape of one that somebody did.

    ``finished``: that many rows are trained, the next one has one seed only, the rest nothing.
    """
    draw = random.Random(0)
    path = [r for r in ROADMAPS[regime] if r.adopted or not adopted_only]
    accuracies, trials = {}, []
    for i, row in enumerate(path):
        done = seeds if finished is None or i < finished else 1 if i == finished else 0
        for seed in range(done):
            top1 = round(93.6 + 0.5 * (row.published.top1 - 76.13) + draw.gauss(0, 0.35), 2)
            accuracies.setdefault(row.name, {})[seed] = top1
            length = epochs if i else epochs * 3 // 4
            curve = []
            for epoch in range(1, length + 1):
                point = {"epoch": epoch, "train_loss": 0.4 * (i > 0) + 2.0 * 0.92**epoch, "learning_rate": 1e-3}
                if epoch % 10 == 0:
                    point["test_top1"] = top1 - 30 * 0.9**epoch
                curve.append(point)
            trials.append(
                {"step": row.name, "seed": seed, "top1": top1, "top5": 99.7, "seconds": 12.3,
                 "final_train_loss": curve[-1]["train_loss"],
                 "images_per_second": 2000.0, "curve": curve, "fingerprint": f"{i:04x}{seed:04x}",
                 "status": "done"}
            )  # fmt: skip
    found = conclude(accuracies, {r.name: r.compared_with for r in path}, test_images=1197)
    rows = []
    for i, row in enumerate(path):
        s, c = found[row.name].summary, found[row.name].comparison
        rows.append(
            {"step": row.name, "title": row.title, "group": row.group, "adopted": row.adopted,
             "n": s.n, "top1_mean": s.mean, "top1_std": s.std, "change": c and c.change,
             "change_low": c and c.low, "change_high": c and c.high,
             "compared_with": row.compared_with, "p_value": c and c.p_value,
             "conclusion": c.conclusion if c else None, "verdict": c.verdict if c else None,
             "parameters": 410_000 + 31_700 * i, "macs": int(3.1e6 * row.published.gflops),
             "images_per_second": 2100.0 - 55 * i if s.n else None, "published_top1": row.published.top1,
             "published_std": row.published.std, "published_change": row.published_change,
             "published_gflops": row.published.gflops}
        )  # fmt: skip
    return {
        "schema": 1,
        "study": {
            "regime": regime,
            "data": {"name": name, "classes": 10, "train_images": 600, "test_images": 1197, "fingerprint": "d1g1t5",
                     "notes": ["1,797 images of 8×8 pixels, split with seed 0"]},
            "scale": "tiny", "image_size": 16, "seeds": list(range(seeds)),
            "command": f"nextify roadmap --data digits --seeds {seeds} --explore",
            "started": "2026-01-02T03:04:05+00:00", "finished": "2026-01-02T03:12:00+00:00", "seconds": 475.0,
            "notes": ["epochs 300 → 20: 600 images are few", "layer scale 1e-6 → 0.1: 720 steps <are> few"],
            "recipes": {"original": RESNET.to_dict(), "modern": {**CONVNEXT.to_dict(), "rand_augment": None}},
        },
        "rows": rows,
        "trials": trials,
        "environment": {"nextify": "0.1.0", "python": "3.11.2", "torch": "2.11.0", "torchvision": "0.26.0",
                        "timm": "1.0.20", "cpu": "Some CPU @ 2.50GHz", "cores": 2, "gpu": None, "os": "Linux 6.1",
                        "threads_per_trial": 1, "trials_side_by_side": 2, "date": "2026-01-02", "git_commit": None},
    }  # fmt: skip


def typed(results):
    """The results as reports take them."""
    return StudyResults.from_dict(results)


def everything_missing(results):
    """The same study with null for every number of a row and nothing known of data, machine or trials."""
    keep = ("step", "title", "group", "adopted")
    rows = [{k: (v if k in keep else 0 if k == "n" else None) for k, v in r.items()} for r in results["rows"]]
    return {"schema": 1, "study": {"seeds": [0]}, "rows": rows, "trials": [], "environment": {}}


def brief(name="digits"):
    """Two rows of one seed: the quickest report that has everything in it."""
    results = fake(1, epochs=10, name=name)
    return {**results, "rows": results["rows"][:2], "trials": results["trials"][:2]}


def test_the_trials_have_top5_of_more_than_five_classes():
    results = brief()
    assert "top-5, %" in study_page.page(typed(results))
    results["study"]["data"]["classes"] = 5
    assert "top-5, %" not in study_page.page(typed(results))


LONG_NAME = "/home/me/<script>alert(1)</script> $x_1$ 漢字 & | `photos`/" + "very/long/" * 20
STUDIES = {
    "17 rows, 3 seeds": fake(),
    "14 rows, 1 seed": fake(1, adopted_only=True),
    "8 seeds": fake(8),
    "unfinished": fake(finished=5),
    "not started": fake(finished=0, seeds=0),
    "the larger regime": fake(regime="resnet200"),
    "a long name": fake(name=LONG_NAME),
    "nothing known": everything_missing(fake()),
    "no rows": {"schema": 1, "study": {}, "rows": [], "trials": [], "environment": {}},
}


@pytest.fixture(params=STUDIES, scope="module")
def results(request):
    return STUDIES[request.param]


SLOW = pytest.mark.slow


@pytest.fixture(
    params=["17 rows, 3 seeds", pytest.param("unfinished", marks=SLOW), "a long name", "nothing known", "no rows"],
    scope="module",
)
def written(request, tmp_path_factory):
    """Some results and a folder with their report."""
    out = tmp_path_factory.mktemp("study") / "new" / "folder"
    results = brief(LONG_NAME) if request.param == "a long name" else STUDIES[request.param]
    assert report.write(typed(results), out) == [out / name for name in report.FILES]
    return results, out


class Page(HTMLParser):
    """Checks that elements nest, and collects ids, links and text."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self, source):
        super().__init__()
        self.open, self.ids, self.tags, self.links, self.words = [], [], [], [], []
        self.feed(source)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src"):
                self.links.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, words):
        self.words.append(words)


def test_write_leaves_five_whole_files(written):
    results, out = written
    assert sorted(p.name for p in out.iterdir()) == sorted(report.FILES)
    assert StudyResults.read(out / "results.json") == typed(json.loads(json.dumps(report.finite(results))))
    assert (out / "results.csv").read_text("utf-8") == tables.csv_text(typed(results))
    assert (out / "roadmap.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "roadmap.svg").read_text("utf-8")


def test_the_same_results_make_the_same_bytes(tmp_path):
    paths = report.write(typed(brief()), tmp_path)
    before = [p.read_bytes() for p in paths]
    report.write(StudyResults.read(paths[0]), tmp_path)
    assert before == [p.read_bytes() for p in paths]


def test_page_is_well_formed_offline_and_escaped(written):
    results, out = written
    source = (out / "report.html").read_text("utf-8")
    page = Page(source)
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert not re.search(r"https?:|//\w", source.replace(typed(results).study.data.name, ""))
    assert "script" not in page.tags
    assert "<script" not in source
    assert "None" not in "".join(page.words)
    assert "nan" not in "".join(page.words).split()
    assert page.tags.count("h1") == 1
    assert "prefers-color-scheme: dark" in source
    assert "@media print" in source


def test_page_says_what_the_results_say():
    source = study_page.page(typed(STUDIES["17 rows, 3 seeds"]))
    words = " ".join("".join(Page(source).words).split())
    for row in STUDIES["17 rows, 3 seeds"]["rows"]:
        assert row["title"] in words
        assert text.mean_std(row["top1_mean"], row["top1_std"]) in words
        assert text.interval(row["change_low"], row["change_high"]) in words
    for trial in STUDIES["17 rows, 3 seeds"]["trials"]:
        assert f"{trial['top1']:.2f}" in words
    for expected in (
        "cannot go below p = 0.25; 6 paired seeds would do",
        "trained 3 times each (seeds 0, 1 and 2) on 600 images of digits (10 classes, 16×16 pixels)",
        "layer scale 1e-6 → 0.1: 720 steps <are> few",
        "torch 2.11.0",
        "Some CPU @ 2.50GHz (2 cores), 2 trials side by side, 1 thread each",
        "nextify roadmap --data digits --seeds 3 --explore",
        "learning rate",
        "seed 2",
    ):
        assert expected in words
    assert source.count("<svg") == 2 + 17 * 3 - 1, "figures; steps' seeds, losses and, but for one, accuracies"


def with_hits(seeds=6, better=0.1):
    """A study in which it is known which images each network gets right; every other step is better."""
    results, draw = fake(seeds, adopted_only=True), np.random.default_rng(0)
    easy = 0.2 + 0.2 * draw.random(1197)
    right = {
        row["step"]: {s: draw.random(1197) < np.clip(easy + better * (i // 2), 0, 1) for s in range(seeds)}
        for i, row in enumerate(results["rows"])
    }
    accuracies = {step: {s: 100 * float(hits.mean()) for s, hits in of.items()} for step, of in right.items()}
    references = {row["step"]: row["compared_with"] for row in results["rows"]}
    names = {row["step"]: row["title"] for row in results["rows"]}
    found = conclude(accuracies, references, test_images=1197, scores=right, names=names)
    for row in results["rows"]:
        row.update(named(found[row["step"]].figures(), ACCURACY))
    for trial in results["trials"]:
        trial["top1"] = accuracies[trial["step"]][trial["seed"]]
    return results


def test_verdicts_for_new_seeds_and_images_in_all_media(tmp_path):
    results = typed(with_hits())
    assert {row.verdict for row in results.rows} >= {"higher", "no conclusion"}
    page = " ".join("".join(Page(study_page.page(results)).words).split())
    made, (sentences, notes) = tables.markdown(results), (text.verdicts(results), text.notes(results))
    assert len(sentences) == 13
    for row, sentence in zip(results.rows[1:], sentences, strict=True):
        assert sentence in page
        assert sentence in made
        assert row.name in sentence
        assert ("raises top-1 by" in sentence) == (row.verdict == "higher")
        assert text.interval(row.interval_low, row.interval_high) in page
        assert text.interval(row.interval_low, row.interval_high) in made
    assert any("Holm’s correction over the 13 comparisons" in note for note in notes)
    assert not any("sign-flip" in note for note in notes)
    assert "sign-flip" not in " ".join(words for words, _ in _texts(figure.roadmap_figure(results)))


def test_few_seeds_are_said_to_rest_on_a_bell_curve():
    said = " ".join(text.notes(typed(with_hits(3))))
    assert "follow a bell curve" in said
    assert "with 3 paired seeds it cannot go below p = 0.25; 6 would do" in said


def test_steps_with_more_seeds_than_others_are_counted_by_themselves():
    results = with_hits(9)
    results["study"]["first_look"] = 6
    kept = [row["step"] for row in results["rows"][:2]]
    for row in results["rows"]:
        row["seeds"] = row["n"] = 9 if row["step"] in kept else 6
    results["trials"] = [t for t in results["trials"] if t["step"] in kept or t["seed"] < 6]
    results = typed(results)
    assert "trained 6 to 9 times each (seeds 0 to 8)" in text.what_was_trained(results)
    assert "are finished" not in text.what_was_trained(results)
    said = " ".join(text.notes(results))
    assert "n = 6 to 9 seeds" in said
    assert "in at most 5 looks, the first with 6 seeds" in said
    assert "Unfinished" not in said


def test_page_links_the_networks_that_are_there(tmp_path):
    results = typed(brief())
    first = results.trials[0]
    (tmp_path / "trials" / first.folder / "bundle").mkdir(parents=True)
    report.write(results, tmp_path)
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    links = [link for link in page.links if not link.startswith("#")]
    assert links == [f"trials/{first.step}-seed0-{first.fingerprint}/bundle"]
    assert (tmp_path / links[0]).is_dir()


def test_a_step_s_seeds_are_placed_on_one_axis_and_paired():
    results = typed(fake(3))
    made = step_cards.cards(results)
    assert len(made) == 17
    places = [dot.x for card in made for dot in card.dots]
    assert (min(places), max(places)) == (0, 100)
    by_step = {card.step.step: card for card in made}
    card = made[-1]
    before = {dot.seed: dot.x for dot in by_step[card.step.compared_with].dots}
    assert {dot.seed: dot.before for dot in card.dots} == before
    assert [curve.label for curve in card.curves] == ["training loss", "test top-1, %"]
    assert all(len(curve.lines) == 3 for curve in card.curves)


def test_unfinished_studies_say_so():
    words = study_page.page(typed(STUDIES["unfinished"]))
    assert "16 of 51 runs are finished" in words
    assert "12 of 17 steps have fewer than 3 trained seeds" in words
    assert "Top-1 went from" not in words


def test_csv_has_the_documented_columns_unrounded(results):
    lines = list(csv.DictReader(io.StringIO(tables.csv_text(typed(results)))))
    assert len(lines) == len(results["rows"])
    for line, row in zip(lines, results["rows"], strict=True):
        assert list(line) == [column.key for column in columns.of_metric(columns.COLUMNS, ACCURACY[0])]
        assert line["adopted"] == ("true" if row["adopted"] else "false")
        for key in ("top1_mean", "change", "published_top1", "macs"):
            assert line[key] == ("" if row[key] is None else str(row[key]))


def test_documentation_names_every_key(request):
    documented = (request.config.rootpath / "docs" / "results-schema.md").read_text("utf-8")
    results = STUDIES["17 rows, 3 seeds"]
    results = {**typed(results).to_dict(), "environment": results["environment"]}
    keys = {*results, *results["study"], *results["study"]["data"], *results["rows"][0]}
    keys |= {column.key for column in columns.of_metric(columns.COLUMNS, ACCURACY[0])}
    keys |= {*results["trials"][0], *results["environment"], *results["trials"][0]["curve"][9]}
    assert not {key for key in keys if f"`{key}`" not in documented}


def test_a_new_column_is_one_line(tmp_path, request):
    new = columns.Column("square", "squared", "%²", getter=lambda step: step.published_top1**2, shown=columns.TABLES)
    request.addfinalizer(lambda: columns.COLUMNS.remove(new))
    columns.COLUMNS.append(new)
    results = typed(brief())
    report.write(results, tmp_path)
    data, words = 76.13**2, f"{76.13**2:.2f}"
    assert json.loads((tmp_path / "results.json").read_text("utf-8"))["rows"][0]["square"] == data
    lines = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text("utf-8"))))
    assert lines[0]["square"] == str(data)
    console = Console(width=200, record=True, file=io.StringIO(), color_system=None)
    console.print(tables.terminal(results))
    shown = (console.export_text(), tables.markdown(results), (tmp_path / "report.html").read_text("utf-8"))
    assert all("squared, %²" in table and words in table for table in shown)


def test_a_report_is_made_again_from_its_json(tmp_path, request):
    """Of the committed study, whose every figure stays."""
    folder = request.config.rootpath / "docs" / "results" / "digits"
    report.write(StudyResults.read(folder / "results.json"), tmp_path)
    for name in ("results.json", "results.csv"):
        assert (tmp_path / name).read_text("utf-8") == (folder / name).read_text("utf-8")


def test_results_of_another_schema_are_refused():
    with pytest.raises(ValueError, match="schema 2; this nextify reads schema 1"):
        StudyResults.from_dict({"schema": 2})


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_table_fits_and_marks_explored_rows(results, width):
    console = Console(width=width, record=True, file=io.StringIO(), color_system=None)
    console.print(tables.terminal(typed(results)))
    shown = console.export_text()
    assert max(len(line) for line in shown.splitlines()) <= width
    assert shown.count("○") == sum(not r["adopted"] for r in results["rows"])
    if width == 120 and results is STUDIES["17 rows, 3 seeds"]:
        row = results["rows"][-1]
        line = next(x for x in shown.splitlines() if "Separate" in x)
        assert text.mean_std(row["top1_mean"], row["top1_std"]) in line
        assert line.split()[-2:] == ["81.97", "+0.50"]


def test_legend_says_what_can_be_concluded():
    said = " ".join(text.notes(typed(STUDIES["17 rows, 3 seeds"])))
    assert "n = 3 seeds" in said
    assert "No change here can be told from chance" in said
    one = " ".join(text.notes(typed(STUDIES["14 rows, 1 seed"])))
    assert "n = 1: one run per step" in one
    assert "Explored" not in one
    eight = " ".join(text.notes(typed(STUDIES["8 seeds"])))
    assert "higher after Training technique" in eight
    assert "With Holm's correction over the 16 comparisons together, no step stays below 0.05." in eight


def test_markdown_carries_its_provenance(results):
    made = tables.markdown(typed(results))
    lines = [line for line in made.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(results["rows"])
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {10}
    if results is STUDIES["17 rows, 3 seeds"]:
        for fact in ("nextify roadmap", "n = 3 seeds", "Some CPU", "torch 2.11.0", "2026-01-02", "7 min 55 s"):
            assert fact in made.splitlines()[-1]


def _texts(made):
    """(words, box in pixels) of every text of a figure."""
    with lettered(made):
        made.canvas.draw()
    renderer = made.canvas.get_renderer()
    found = []
    for axes in made.axes:
        texts = [*axes.texts]
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        found += [(t.get_text(), t.get_window_extent(renderer)) for t in texts if t.get_text() and t.get_visible()]
    return found


ALIKE = ("14 rows, 1 seed", "8 seeds", "the larger regime")


@pytest.mark.parametrize("study", [pytest.param(name, marks=SLOW if name in ALIKE else ()) for name in STUDIES])
def test_no_text_of_the_figure_overlaps_or_leaves_the_sheet(study):
    results = typed(STUDIES[study])
    for made in (figure.roadmap_figure(results), figure.curves_figure(results)):
        if made is None:
            continue
        found = _texts(made)
        width, height = made.canvas.get_width_height()
        for i, (words, box) in enumerate(found):
            assert box.x0 >= 0, words
            assert box.y0 >= 0, words
            assert box.x1 <= width, words
            assert box.y1 <= height, words
            for other, other_box in found[i + 1 :]:
                overlap_x = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
                overlap_y = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
                assert overlap_x <= 0 or overlap_y <= 1, (words, other)


def test_figure_shows_both_panels_and_says_where_the_axes_start():
    made = figure.roadmap_figure(typed(STUDIES["17 rows, 3 seeds"]))
    ours, theirs = made.axes[1:]
    words = [w for w, _ in _texts(made)]
    assert sum(w.startswith("%, axis starts at") for w in words) == 2
    assert len(ours.patches) == 17
    assert sum(bool(p.get_hatch()) for p in ours.patches) == 3
    assert sum(line.get_marker() == "D" for line in theirs.lines) == 17
    for row, bar in zip(STUDIES["17 rows, 3 seeds"]["rows"], ours.patches, strict=True):
        assert bar.get_x() + bar.get_width() == pytest.approx(row["top1_mean"])
    assert ours.get_xlim()[0] == pytest.approx(min(p.get_x() for p in ours.patches))
    assert max(ours.get_xticks()) <= 100


def test_low_accuracies_start_at_zero():
    results = fake(adopted_only=True)
    for i, row in enumerate(results["rows"]):
        row["top1_mean"] = 3.0 + 2 * i
    assert figure.roadmap_figure(typed(results)).axes[1].get_xlim()[0] == 0


def test_equal_and_perfect_accuracies():
    results = fake(adopted_only=True)
    for row in results["rows"]:
        row.update(top1_mean=100.0, top1_std=0.0, change=0.0)
    made = figure.roadmap_figure(typed(results))
    assert max(made.axes[1].get_xticks()) <= 100
    assert not any(w.startswith("+0.00") for w, _ in _texts(made))


def test_curves_without_test_accuracy_and_without_anything():
    results = fake()
    for trial in results["trials"]:
        for point in trial["curve"]:
            point.pop("test_top1", None)
    assert len(figure.curves_figure(typed(results)).axes) == 2  # the sheet and one panel
    for trial in results["trials"]:
        trial["curve"] = []
    assert figure.curves_figure(typed(results)) is None
    assert 'id="curves"' not in study_page.page(typed(results))


def test_not_a_number_becomes_null(tmp_path):
    results = brief()
    results["rows"][1]["change"] = float("nan")
    results["trials"][0]["final_train_loss"] = float("inf")
    report.write(typed(results), tmp_path)
    read = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert read["rows"][1]["change"] is None
    assert read["trials"][0]["final_train_loss"] is None


def test_numbers_as_words():
    assert [text.signed(v) for v in (0.204, -0.2, -0.001, None)] == ["+0.20", "−0.20", "0.00", "–"]
    assert [text.count(v) for v in (None, 0, 999, 1000, 25_557_032, 999_999, 4.09e9)] == [
        "–", "0", "999", "1.00 k", "25.6 M", "1.00 M", "4.09 G"
    ]  # fmt: skip
    assert [text.duration(v) for v in (None, 26, 200, 3720)] == ["–", "26.0 s", "3 min 20 s", "1 h 02 min"]
    assert [text.rate(v) for v in (0, 0.154, 6.24, 9.96, 1234)] == ["0", "0.15", "6.2", "10", "1,234"]
    assert text.listing(["a", "b", "c"]) == "a, b and c"
    assert text.listing([]) == ""


def test_importing_the_report_is_quick_and_light():
    code = (
        "import sys, time; import nextify; t = time.process_time(); import nextify.report;"
        "t = time.process_time() - t; heavy = {'torch', 'matplotlib', 'scipy', 'numpy', 'rich'} & set(sys.modules);"
        "assert not heavy, heavy; assert t < 0.1, t"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_making_a_report_does_not_need_torch(tmp_path):
    code = (
        f"import sys; sys.modules['torch'] = None; from nextify import report;"
        f"report.write(report.StudyResults.read({str(tmp_path / 'in.json')!r}), {str(tmp_path / 'out')!r})"
    )
    (tmp_path / "in.json").write_text(json.dumps(brief()))
    subprocess.run([sys.executable, "-c", code], check=True)
