"""The best design for the user's images within a budget, against random search and the families (docs/search.md).

Successive halving (Jamieson and Talwalkar, AISTATS 2016; its rungs as in Hyperband, Li et al., JMLR 18, 2018): many
designs are trained for few epochs, the best third of them for three times as many, and so on, each training anew with a
schedule of its own length. Validation images that are held out of the training images decide; the winners of the three
are trained on all training images, with paired seeds, and measured on the test images.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from nextify.compare.budget import BudgetError, limits
from nextify.compare.designs import (
    UNFIT,
    Candidate,
    Measure,
    exhausted,
    family,
    measured,
    near,
    points,
    smallest,
    used,
)
from nextify.compare.records import Row
from nextify.compare.search_report import write
from nextify.compare.search_results import WORDS, Final, Found, Settings, Tried
from nextify.data import Images, open_images
from nextify.data.images import check_images, check_pictures
from nextify.data.sources.listing import split_train
from nextify.data.sources.parts import Splitting
from nextify.evaluation.profiling import Conditions
from nextify.fitting.fit import without_average
from nextify.fitting.scale import SCALES, scale
from nextify.paper.design import Design
from nextify.study.conclusions import study_data
from nextify.study.engine import Engine, EngineError, Event, Failed, LocalEngine
from nextify.study.folds import held_out
from nextify.study.ledger import Ledger
from nextify.study.plan import PlannedTrial
from nextify.study.results import finite, read
from nextify.study.statistics import conclude
from nextify.study.store import Store
from nextify.study.study import StudyEstimate, Trainings, default_side_by_side
from nextify.system.device import gpu_name, seeding, usable_device
from nextify.system.environment import cores
from nextify.system.files import UnusableFolder, link_latest, parse_json, write_json_atomic
from nextify.system.native import Mode
from nextify.system.text import plural
from nextify.tasks.metric_specs import ACCURACY
from nextify.training.prepare import Prepared, prepare
from nextify.training.request import Request, check_opened
from nextify.training.result import Result
from nextify.training.trial import Runtime, Trial, runtime

ETA = 3
"""Of so many designs one goes on, for so many times the epochs."""
RUNGS = 3
VALIDATION = 0.2
"""Share of the training images on which designs are judged."""
ROUNDS = 5
"""Times that the winners' latencies are measured in turn at the end."""
OTHER = {
    "images": "other images",
    "epochs": "another number of epochs",
    "latency_threads": "another number of threads for latency",
}
"""How a message names settings in which two searches differ, where it is not ``another`` and the name."""
Watch = Callable[[Trainings, StudyEstimate], AbstractContextManager[Callable[[Event], None]]]


@dataclass(frozen=True)
class _Trials:
    trials: tuple[PlannedTrial, ...] = ()


@dataclass
class Search:
    """A search in its store.

    ``designs.json`` holds the designs as they were measured, ``values.json`` what they reached and how long it took: a
    search that goes on decides by these alone, and so decides the same.
    """

    settings: Settings
    images: Images
    store: Store
    engine: Engine
    runtime: Runtime
    side_by_side: int
    command: str = ""
    watch: Watch = lambda trainings, estimate: nullcontext(lambda event: None)
    note: Callable[[str], None] = lambda line: None
    measure: Measure | None = None
    """None builds and times each design here."""

    def __post_init__(self) -> None:
        self._made: dict[tuple[bool, int | None], Prepared] = {}
        self._plans: dict[str, PlannedTrial] = {}
        check_images(self.images)
        check_pictures(self.images, "nextify search")
        self.limits = limits(self.settings.budget)
        everything = np.arange(len(self.images.train))
        rest, held, _ = split_train(
            self.images.train.labels, Splitting(VALIDATION), everything, self.images.train.groups
        )
        self.validated = held_out(self.images, rest, held, "search")
        self.ledger = Ledger(_Trials(), self.store, self.validated, self.runtime, self.side_by_side, self.command)
        self.ledger.load()
        self.epochs = self._prepared(self.images, self.settings.epochs).trial.recipe.epochs
        self.rungs = tuple(sorted({max(1, self.epochs // ETA**i) for i in range(RUNGS)}))
        self.device = usable_device(self.runtime.device)
        """That latency is measured on."""
        self.threads = self.settings.latency_threads or cores()
        self._load()

    # -- what is known ------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Read the designs of an earlier run. Raises ``UnusableFolder`` where they are of another search."""
        own = {k: v for k, v in asdict(self.settings).items() if k not in ("minutes", "seeds", "alone")}
        own |= {"epochs": self.epochs, "latency_threads": self.threads, "device": self.device}
        self.asked = own | {"images": self.images.fingerprint}
        self.tried: dict[str, list[Candidate]] = {}
        self.turns: dict[str, dict[str, list[float]]] = {}
        if not self.path.exists():
            return
        try:
            found: Any = parse_json(self.path.read_text(encoding="utf-8"))
            other = [name for name, value in self.asked.items() if found["asked"][name] != value]
            if not other:
                self.tried = {arm: [read(Candidate, one) for one in each] for arm, each in found["tried"].items()}
                self.turns = found["turns"]
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise UnusableFolder(f"{self.path} holds no designs of a search ({error}): choose another --out") from error
        if other and self.ledger.known:
            words = OTHER.get(other[0], f"another {other[0].replace('_', ' ')}")
            raise UnusableFolder(f"{self.store.root} holds a search with {words}: choose another --out")

    @property
    def path(self) -> Path:
        return self.store.root / "designs.json"

    def _keep(self) -> None:
        write_json_atomic(self.path, finite({"asked": self.asked, "tried": self.tried, "turns": self.turns}))

    def _cost(self, design: Design, timed: bool | None = None) -> Row:
        """What a design costs here; ``timed`` by default where the budget limits the latency."""
        if self.measure is not None:
            return self.measure(design)
        slowest = [each.value for each in self.limits if each.name == "latency"]
        conditions = Conditions(self.device, kernels=self.runtime.kernels)
        found = self.image_size, self.images.num_classes, self.threads, conditions
        return measured(design, *found, 0.0 if not (timed or slowest) else 1.5 * max(slowest, default=math.inf))

    @cached_property
    def image_size(self) -> int:
        return self._prepared(self.images, self.epochs).trial.data.image_size

    def _prepared(self, images: Images, epochs: int | None) -> Prepared:
        """The training that ``nextify train`` would make of it, whose design is replaced."""
        given, key = self.settings, (images is self.images, epochs)
        if key not in self._made:
            own = {} if images is self.images else {"calibration": "off"}
            request = Request(
                *("convnext_tiny", given.recipe, own, epochs),
                scale=given.scale,
                image_size=given.image_size,
                precision=given.precision,
            )
            self._made[key] = prepare(request, images)
        return self._made[key]

    def _planned(self, candidate: Candidate, epochs: int) -> PlannedTrial:
        """A training by which a design is judged."""
        name = f"{candidate.name}-epochs{epochs}"
        if name not in self._plans:
            trial = self._trial(candidate.design, self.validated, epochs, self.settings.seed)
            self._plans[name] = PlannedTrial(name, trial, name)
        return self._plans[name]

    def _trial(self, design: Design, images: Images, epochs: int, seed: int) -> Trial:
        trial = self._prepared(images, epochs).trial
        recipe = trial.recipe
        if design.norm == "batch" and recipe.ema != "off":
            recipe = without_average(recipe)[0]
        return replace(trial, design=design, recipe=recipe, seed=seed)

    def _known(self, candidate: Candidate, epochs: int) -> tuple[float, float] | None:
        """Accuracy and seconds of a training that has ended."""
        return self.ledger.known.get(self._planned(candidate, epochs).folder)

    def _seconds(self, candidates: Sequence[Candidate], *rungs: int) -> float:
        """What their trainings on these rungs took."""
        known = (self._known(each, epochs) for each in candidates for epochs in rungs)
        return sum(seconds for _, seconds in filter(None, known))

    # -- the three arms -----------------------------------------------------------------------------------------------

    def _candidates(self, arm: str) -> Iterator[Candidate]:
        """The designs of an arm that stay within the limits, those of earlier runs first, until ``UNFIT`` in a row do
        not. Raises ``BudgetError`` where the search has none."""
        steps = self.epochs * self._prepared(self.images, self.epochs).steps_per_epoch
        own = self.tried.setdefault(arm, [])
        if arm == "family" and not own:
            members = list(family(self.image_size, steps, self._cost, self.limits))
            # In a random order, or whenever time is short the same members would be left out.
            own += (members[i] for i in np.random.default_rng(self.settings.seed).permutation(len(members)))
            self._keep()
        yield from (each for each in own if each.used <= 1)
        if arm == "family":
            return
        place = arm, self.settings.seed, scale(self.settings.scale), self.image_size, steps
        if arm == "search" and not own:  # by the smallest of each, a budget too small for all is refused at once
            self._check_some_fit(self._cost(smallest(design)) for _, _, design in islice(points(*place), UNFIT))
        stream = near(*place, self._cost, self.limits, tuple(own))
        while not exhausted(own):
            own.append(candidate := next(stream))
            self._keep()
            if candidate.used <= 1:
                yield candidate
        if arm == "search":
            self._check_some_fit(each.row for each in own)

    def _check_some_fit(self, rows: Iterable[Row]) -> None:
        """Raise ``BudgetError`` where none of these designs stays within the limits."""
        over = []
        for row in rows:
            if used(row, self.limits) <= 1:
                return
            over.append(row)
        least = min(over, key=lambda row: used(row, self.limits))
        figures = ", ".join(limit.shown(least) for limit in self.limits)
        smaller = ["a smaller --scale"] if self.settings.scale != next(iter(SCALES)) else []
        smaller += ["a smaller --image-size"] if any(limit.name != "parameters" for limit in self.limits) else []
        raise BudgetError(
            f"{len(over)} designs do not stay within --budget {self.settings.budget}; the nearest takes {figures}: "
            f"give {', '.join(['more', *smaller[:-1]])}{''.join(f' or {each}' for each in smaller[-1:])}"
        )

    def _train(self, candidates: Sequence[Candidate], epochs: int) -> None:
        """Train what is missing of a rung. Raises ``EngineError`` where none of it can be trained."""
        planned = tuple(self._planned(each, epochs) for each in candidates)
        self._run(self.ledger, planned)
        failed = [outcome for p in planned if isinstance(outcome := self.ledger.outcomes.get(p.folder), Failed)]
        if len(failed) == len(planned):
            raise EngineError(f"none of {plural(len(planned), 'design')} could be trained: {failed[0].error}")

    def _run(self, trainings: Trainings, planned: tuple[PlannedTrial, ...]) -> None:
        trainings.plan = _Trials(planned)
        if still := trainings.open_trials:
            known = [self._known(c, e) for arm in self.tried.values() for c in arm for e in self.rungs if c.used <= 1]
            seconds = fmean(took for _, took in filter(None, known)) if any(known) else 0.0
            estimate = StudyEstimate(seconds * len(still) / self.side_by_side, {p.folder: seconds for p in still}, {})
            with self.watch(trainings, estimate) as on_event:
                trainings.run(self.engine, on_event)

    def _best(self, candidates: Sequence[Candidate], epochs: int) -> list[Candidate]:
        """Those that ended their training, the most accurate first."""
        reached = {each.name: known[0] for each in candidates if (known := self._known(each, epochs))}
        return sorted((each for each in candidates if each.name in reached), key=lambda each: -reached[each.name])

    def _halve(self, arm: str) -> Candidate | None:
        """Successive halving: the first rung takes designs until its share of the time is used."""
        stream, pool, first = self._candidates(arm), list[Candidate](), self.rungs[0]
        share = 60 * self.settings.minutes * self.side_by_side / len(self.rungs)
        while self._seconds(pool, first) < share and (more := list(islice(stream, 2 * self.side_by_side))):
            pool += more
            self._train(pool, first)
        if not pool:
            return None
        for before, epochs in pairwise(self.rungs):
            pool = self._best(pool, before)[: max(1, len(pool) // ETA)]
            self.note(f"{WORDS[arm]}: {plural(len(pool), 'design')} for {plural(epochs, 'epoch')}")
            if pool:
                self._train(pool, epochs)
        return next(iter(self._best(pool, self.rungs[-1])), None)

    def _random(self) -> Candidate | None:
        """Random search: designs in full, until they have cost at least what the search has; None where none keeps the
        budget."""
        stream, pool = self._candidates("random"), list[Candidate]()
        cost = self._seconds(self.tried["search"], *self.rungs)
        while not pool or self._seconds(pool, self.epochs) < cost:
            if not (more := list(islice(stream, self.side_by_side))):
                break
            pool += more
            self._train(pool, self.epochs)
        return next(iter(self._best(pool, self.epochs)), None)

    def run(self) -> Found:
        """Search and compare; writes only what a search that goes on needs. Raises ``BudgetError`` where no design
        stays within the limits, and ``EngineError`` where the trainings cannot go on; what is finished stays."""
        started = datetime.now(UTC)
        winner = self._halve("search")
        assert winner is not None  # a rung of which nothing is left raises
        chosen = {"search": winner}
        if not self.settings.alone:
            if (drawn := self._random()) is not None:
                chosen["random"] = drawn
            if (member := self._halve("family")) is not None:
                chosen["family"] = member
        latency = self._in_turn(chosen)
        final = Trainings(_Trials(), self.store, self.images, self.runtime, self.side_by_side, self.command)
        trials = {arm: self._finals(each) for arm, each in chosen.items()}
        final.plan = _Trials(tuple(p for seed in zip(*trials.values(), strict=True) for p in seed))
        final.load()
        self._run(final, final.plan.trials)
        took = {arm: self._seconds(self.tried[arm], *self.rungs) for arm in chosen}
        results = {arm: [final.outcomes.get(p.folder) for p in planned] for arm, planned in trials.items()}
        own = results["search"][0]
        same = (each.name for each in self.tried.get("family", ()) if each.design == winner.design)
        if isinstance(own, Result):
            link_latest(own.bundle)
        return Found(
            *(self.settings, study_data(self.images), self.image_size, self.rungs, len(self.validated.test)),
            *(ACCURACY[0].title, self.threads, self.side_by_side),
            tried=tuple(self._tried(arm, each) for arm in self.tried for each in self.tried[arm]),
            finals=_finals(chosen, results, latency, took, len(self.images.test), next(same, None)),
            bundle=own.bundle if isinstance(own, Result) else None,
            bundle_accuracy=own.main if isinstance(own, Result) else None,
            command=self.command,
            started=started.isoformat(timespec="seconds"),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            environment=final.environment
            | {"gpu": gpu_name(self.device), "device": self.device, "threads_per_trial": self.runtime.threads},
        )

    def _finals(self, candidate: Candidate) -> list[PlannedTrial]:
        """An arm's final trainings, on all training images."""
        name = f"final-{candidate.name}"
        seeds = range(self.settings.seeds)
        return [PlannedTrial(name, self._trial(candidate.design, self.images, self.epochs, s), name) for s in seeds]

    def _in_turn(self, chosen: Mapping[str, Candidate]) -> dict[str, list[float]]:
        """Latencies of the winners in ms, measured A B C A B C, by arm."""
        key = " ".join(each.name for each in chosen.values())
        if key not in self.turns:
            rows = [(arm, self._cost(each.design, timed=True)) for _ in range(ROUNDS) for arm, each in chosen.items()]
            self.turns[key] = {arm: [row.latency_ms_p50 or 0.0 for a, row in rows if a == arm] for arm in chosen}
            self._keep()
        return self.turns[key]

    def _tried(self, arm: str, candidate: Candidate) -> Tried:
        reached = [(epochs, known) for epochs in self.rungs if (known := self._known(candidate, epochs))]
        failed = (self.ledger.outcomes.get(self._planned(candidate, epochs).folder) for epochs in self.rungs)
        error = next((each.error for each in failed if isinstance(each, Failed)), None)
        seconds = sum(known[1] for _, known in reached)
        epochs, (accuracy, _) = reached[-1] if reached else (0, (None, None))
        return Tried(arm, candidate, epochs, accuracy, seconds, error)


def _finals(
    chosen: Mapping[str, Candidate],
    results: Mapping[str, Sequence[Result | Failed | None]],
    latency: Mapping[str, Sequence[float]],
    seconds: Mapping[str, float],
    test_images: int,
    member: str | None,
) -> tuple[Final, ...]:
    """The winner of each arm, with what the search's is worth against it, for new seeds and images, Holm's correction
    over both. A winner that is itself a ``member`` of the families is not compared with them."""
    values: dict[str, dict[int, float | None]] = {}
    scores: dict[str, dict[int, Any]] = {}
    for arm, outcomes in results.items():
        done = {seed: each for seed, each in enumerate(outcomes) if isinstance(each, Result)}
        values[arm] = {seed: each.main for seed, each in done.items()}
        scores[arm] = {seed: found for seed, each in done.items() if (found := each.image_scores) is not None}
    rivals = {f"over {arm}": arm for arm in chosen if arm != "search" and not (arm == "family" and member)}
    for over in rivals:
        values[over], scores[over] = values["search"], scores["search"]
    names = {over: f"“{WORDS[arm]} → {WORDS['search']}”" for over, arm in rivals.items()}
    references = dict.fromkeys(chosen, None) | rivals
    concluded = conclude(values, references, test_images=test_images, scores=scores, names=names)
    return tuple(
        Final(
            *(arm, candidate),
            replace(
                concluded[arm], comparison=concluded[over].comparison if (over := f"over {arm}") in rivals else None
            ),
            tuple(values[arm].get(seed) for seed in range(len(results[arm]))),
            *(tuple(latency[arm]), seconds[arm]),
            member=member if arm == "family" else None,
        )
        for arm, candidate in chosen.items()
    )


@seeding()
def search(
    data: str | Path | Images,
    budget: str,
    *,
    out: str | Path,
    device: str = "auto",
    threads: int | None = None,
    kernels: Mode = "auto",
    split_seed: int = 0,
    on_event: Callable[[Event], None] = lambda event: None,
    **settings: Any,
) -> Found:
    """Search the best design for these images within a budget, and compare it with random search and with the families.

    Writes ``search.json``, ``search.csv``, ``search.md`` and the figure ``search.svg`` and ``.png`` to ``out``; the
    result's ``winner`` is the design and its ``bundle`` the network. The same call goes on where it stopped.

    Args:
        data: as ``train`` takes it, for classification.
        budget: one or more of ``latency<10ms``, ``macs<20M`` and ``parameters<1M``, separated by commas. Latency is the
            median of single images here.
        threads: CPU threads of each training.
        on_event: called with each event of the study's engine.
        settings: the other fields of ``Settings``: minutes, epochs, seeds, seed, scale, image_size, recipe, alone,
            latency_threads, …

    Raises:
        BudgetError: a budget that cannot be read, or that no design keeps.
        DataError, RequestError: images that cannot be trained on, impossible options.
        UnusableFolder: ``out`` holds another search.
        EngineError: the trainings cannot go on; what is finished stays.
    """
    wanted, out = Settings(budget, **settings), Path(out)
    limits(budget)
    if isinstance(data, Images):
        check_opened(split_seed=split_seed)
    images = data if isinstance(data, Images) else open_images(data, split_seed=split_seed, cache=out / "cache")
    place = runtime(device, threads, kernels=kernels)
    together, each = default_side_by_side(scale(wanted.scale).largest_image, place.device, threads)
    with Store(out) as store, LocalEngine(replace(place, threads=each), together) as engine:
        made = Search(
            *(wanted, images, store, engine, engine.runtime, together),
            watch=lambda trainings, estimate: nullcontext(on_event),
        )
        found = made.run()
    write(found, out)
    return found
