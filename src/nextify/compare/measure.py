"""The comparison itself: count, probe, plan, then measure size by size with the networks in turn (A B C A B C …), and
all sizes again. What fails for one network at one size is recorded in its row, and the run goes on.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median

import torch
from torch import nn

from nextify.compare.entries import build, find_all
from nextify.compare.memory import MIB, Memory, Processes, describe_failure, of_one_network
from nextify.compare.records import Model
from nextify.compare.settings import (
    KEPT_SHARE,
    LONG_CALL,
    RESERVE,
    SHORTEST_TIMED,
    VISITS,
    Choices,
    Left,
    Plan,
    Settings,
    fit_batches,
    plan,
)
from nextify.evaluation import profiling
from nextify.evaluation.profiling import Counts
from nextify.system.device import threads
from nextify.system.environment import available_bytes

PROBED_ON_GPU = 16
"""Images in the batch that a probe times."""
MOST_CALLS = 100
"""Timed calls of a visit at batch 1, however small the network."""
Progress = Callable[[str, float], None]
"""Called with what is being done, and the share of the whole that is finished, 0 to 1."""


@dataclass
class Cell:
    """What was found of one network at one size so far."""

    entry: Model
    image_size: int
    counts: Counts | None = None
    memory: Memory | None = None
    image_seconds: float = math.nan
    """Expected time of one image in inference, from the probe."""
    latency: list[list[float]] = field(default_factory=list)
    """Seconds of the calls at batch 1, a list per round."""
    throughput: dict[int, list[float]] = field(default_factory=dict)
    """``{batch size: images/s per round}``."""
    training: list[float] = field(default_factory=list)
    """Images/s per round."""
    problems: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        if self.counts is None:
            return "cannot be built"
        if not self.latency:
            return "does not fit memory" if any("memory" in p for p in self.problems) else "not measured"
        return "partly measured" if self.problems else "measured"


@dataclass
class Comparison:
    """All cells, network by network in each size."""

    settings: Settings
    cells: list[Cell]
    plan: Plan | None = None
    interleaved: bool = True
    """False where the networks do not fit memory together, so that one was measured after the other."""
    complete: bool = False

    def at(self, image_size: int) -> list[Cell]:
        return [cell for cell in self.cells if cell.image_size == image_size]


def count(settings: Settings, progress: Progress = lambda words, share: None) -> Comparison:
    """Count every network at every size on the meta device, which takes no memory and hardly any time."""
    entries = find_all(settings.models)
    if settings.head is not None:  # the paper's figures are of classifiers
        entries = [replace(entry, published=None) for entry in entries]
    cells = [Cell(entry, size) for size in settings.sizes for entry in entries]
    for done, cell in enumerate(cells):
        size = cell.image_size
        progress(f"counting {cell.entry.model} at {size}×{size}", done / len(cells))
        try:
            with torch.device("meta"):
                model = build(cell.entry, size, settings.num_classes, settings.fitted_to, settings.head)
            cell.counts = profiling.count(model, size)
        except Exception as error:  # whatever a library raises for a size that it cannot take
            cell.problems.append(f"cannot be built at {size}×{size}: {describe_failure(error)}")
    return Comparison(settings, cells)


def probe(comparison: Comparison, batches: Choices = ()) -> Plan:
    """Time one image of the smallest size through each network, and plan the rounds.

    Other sizes are extrapolated by multiply-adds. On a GPU a batch is timed, since one image would not load it. Of
    ``batches``, if given, the largest that fit the time replace those of the settings.
    """
    settings, fastest = comparison.settings, dict[str, tuple[float, int]]()
    for cell in comparison.cells:
        if cell.counts is None:
            continue
        name = cell.entry.name
        if name not in fastest:
            fastest[name] = _image_seconds(cell, settings), cell.counts.macs
        seconds, macs = fastest[name]
        cell.image_seconds = seconds * cell.counts.macs / macs
    expected = _expected(comparison)
    if batches:
        comparison.settings = settings = fit_batches(settings, expected, batches)
    comparison.plan = plan(settings, expected)
    parameters = sum(cell.counts.parameters for cell in comparison.cells if cell.counts)
    if 3 * 4 * parameters <= KEPT_SHARE * _free_bytes(settings):  # fp32 weights and the optimizer's two moments
        keeping = replace(settings, keeps=True)
        if not (made := plan(keeping, expected)).over_budget:
            comparison.settings, comparison.plan = keeping, made
    return comparison.plan


def _image_seconds(cell: Cell, settings: Settings) -> float:
    given = settings.conditions
    batch = PROBED_ON_GPU if given.on_gpu else 1
    try:
        with threads(settings.threads), profiling.conditions(given):
            model = profiling.place(built(cell, settings), given)
            step = profiling.inference(model, profiling.random_images(batch, cell.image_size, given), given)
            step()
            return min(profiling.seconds(step, given.device) for _ in range(2)) / batch
    except Exception as error:
        if not of_one_network(error):
            raise
        return 1.0  # the measurement will record it


def _expected(comparison: Comparison, slowness: float = 1.0) -> dict[int, list[float]]:
    """``{image size: expected seconds of one image of each network}``."""
    sizes = comparison.settings.sizes
    return {size: [slowness * c.image_seconds for c in comparison.at(size) if c.counts] for size in sizes}


def measure(comparison: Comparison, progress: Progress, after_size: Callable[[], object] | None = None) -> None:
    """Fill the cells, visiting all sizes several times for a share of their rounds each.

    ``after_size`` is called after every visit, so that what was found can be kept. After a ``KeyboardInterrupt``, which
    is passed on, the cells hold what was measured until then.
    """
    settings = comparison.settings
    made = comparison.plan or probe(comparison)
    ledger = _Ledger(progress, made.seconds)
    start = time.perf_counter()
    done, passes = dict.fromkeys(settings.sizes, 0), dict.fromkeys(settings.sizes, settings.passes)
    kept: dict[tuple[int, str], _Runners] = {}
    with threads(settings.threads), profiling.conditions(settings.conditions), Processes() as processes:
        for size in settings.sizes * settings.passes:
            if settings.rounds is None and ledger.spent > 0.02 * made.seconds:
                # The machine may be slower or faster than the probe expected. Half of the reserve is kept.
                elapsed = time.perf_counter() - start
                available = (1 - RESERVE / 2) * settings.minutes * 60 - elapsed
                expected = _expected(comparison, elapsed / ledger.spent)
                comparison.plan = replace(made, rounds=plan(settings, expected, available, Left(done, passes)).rounds)
            assert comparison.plan is not None
            rounds = max(1, (comparison.plan.rounds[size] - done[size]) // passes[size])
            cells = [cell for cell in comparison.at(size) if cell.counts]
            for cell in cells if passes[size] == settings.passes else ():
                ledger.say(f"{size}×{size}, memory: {cell.entry.model}")
                _measure_memory(cell, settings, processes)
                ledger.done(settings.memory_seconds(cell.image_seconds))
            runnable = [cell for cell in cells if cell.memory is not None and cell.memory.inference is not None]
            for group in _groups(runnable, comparison):
                key = size, group[0].entry.name
                runners = kept.pop(key, None) or _Runners(group, settings, ledger)
                _time(runners, settings, rounds, ledger)
                if settings.keeps:
                    kept[key] = runners
                del runners
                gc.collect()
                if settings.conditions.on_gpu:
                    torch.cuda.empty_cache()
            done[size] += rounds
            passes[size] -= 1
            if after_size:
                after_size()
    comparison.complete = True


def built(cell: Cell, settings: Settings) -> nn.Module:
    """Build the network of a cell, untrained, on the settings' device."""
    with torch.device(settings.conditions.device):
        return build(cell.entry, cell.image_size, settings.num_classes, settings.fitted_to, settings.head)


def _measure_memory(cell: Cell, settings: Settings, processes: Processes) -> None:
    cell.memory = processes.measure(cell.entry, cell.image_size, settings)
    if cell.memory.problem:
        cell.problems.append(cell.memory.problem)


def _groups(cells: list[Cell], comparison: Comparison) -> list[list[Cell]]:
    """Return all cells as one group, or each by itself where memory does not hold all networks."""
    needed = sum(max(c.memory.inference or 0, c.memory.training or 0) for c in cells if c.memory) * MIB
    if comparison.settings.keeps or needed <= 0.8 * _free_bytes(comparison.settings):
        return [cells] if cells else []
    comparison.interleaved = False
    return [[cell] for cell in cells]


def _free_bytes(settings: Settings) -> int:
    device = settings.conditions.device
    free = torch.cuda.mem_get_info(device)[0] if settings.conditions.on_gpu else available_bytes()
    return free or 2**62


class _Runners:
    """Networks at one size, built and warmed up for inference; those that train are warmed up for it when asked."""

    def __init__(self, cells: list[Cell], settings: Settings, ledger: _Ledger) -> None:
        given, size = settings.conditions, cells[0].image_size
        self.cells, self.size = cells, size
        self.models = [profiling.place(built(cell, settings), given) for cell in cells]
        self.batches = sorted({1, *settings.batch_sizes})
        self.inference: dict[tuple[int, int], Callable[[], None]] = {}
        """``{(cell, batch size): step}``."""
        self._training: dict[int, Callable[[], None]] | None = None
        images = {batch: profiling.random_images(batch, size, given) for batch in self.batches}
        for (i, cell), batch in ((c, b) for c in enumerate(cells) for b in self.batches):
            ledger.say(f"{size}×{size}, inference: warming up {cell.entry.model}")
            with _recorded(cell, f"inference in batches of {batch}"):
                step = profiling.inference(self.models[i], images[batch], given)
                for _ in range(2 if batch == 1 else 1):
                    step()
                self.inference[i, batch] = step
        ledger.done(sum(settings.warming_seconds(cell.image_seconds) for cell in cells))

    def training(self, settings: Settings, ledger: _Ledger) -> dict[int, Callable[[], None]]:
        """``{cell: step}`` of those whose training fits memory."""
        if self._training is None:
            self._training, given = {}, settings.conditions
            for i, cell in enumerate(self.cells):
                if cell.memory is None or cell.memory.training is None:
                    continue
                ledger.say(f"{self.size}×{self.size}, training: warming up {cell.entry.model}")
                with _recorded(cell, "training"):
                    images = profiling.random_images(settings.training_batch_size, self.size, given)
                    step = profiling.training(self.models[i], images, given)
                    step()
                    self._training[i] = step
        return self._training


def _time(runners: _Runners, settings: Settings, rounds: int, ledger: _Ledger) -> None:
    """Time latency and throughput of all cells in turn, then training of all in turn."""
    cells, size, steps, given = runners.cells, runners.size, runners.inference, settings.conditions
    for model in runners.models:
        model.eval()
    for turn in range(rounds):
        calls: dict[int, list[float]] = {i: [] for i, batch in steps if batch == 1}
        for batch in (*[1] * VISITS, *runners.batches[1:]):
            for i, cell in enumerate(cells):
                ledger.say(f"{size}×{size}, inference: round {turn + 1} of {rounds}, {cell.entry.model}")
                if (i, batch) not in steps:
                    continue
                if batch > 1:
                    cell.throughput.setdefault(batch, []).append(batch / repeated(steps[i, batch], given.device))
                    continue
                if cell.image_seconds < LONG_CALL:
                    steps[i, 1]()
                calls[i] += [profiling.seconds(steps[i, 1], given.device) for _ in range(calls_of(cell, settings))]
        for i, times in calls.items():
            cells[i].latency.append(times)
            cells[i].throughput.setdefault(1, []).append(1 / median(times))
        ledger.done(sum(settings.inference_seconds(cell.image_seconds) for cell in cells))
    training = runners.training(settings, ledger)
    for model in runners.models:
        model.train()
    for turn in range(rounds):
        for i, step in training.items():
            ledger.say(f"{size}×{size}, training: round {turn + 1} of {rounds}, {cells[i].entry.model}")
            cells[i].training.append(settings.training_batch_size / repeated(step, given.device))
            ledger.done(settings.training_seconds(cells[i].image_seconds))


def calls_of(cell: Cell, settings: Settings) -> int:
    """Return the timed calls of a visit at batch 1: more than the settings' for a very small network."""
    if settings.conditions.on_gpu:
        return settings.calls
    return max(settings.calls, min(MOST_CALLS, math.ceil(SHORTEST_TIMED / 2 / cell.image_seconds)))


def repeated(step: Callable[[], None], device: str) -> float:
    """Seconds of one call: the mean over as many as take ``SHORTEST_TIMED`` together."""
    found = [profiling.seconds(step, device)]
    while math.fsum(found) < SHORTEST_TIMED:
        found.append(profiling.seconds(step, device))
    return math.fsum(found) / len(found)


@contextmanager
def _recorded(cell: Cell, doing: str) -> Iterator[None]:
    """Record that memory ran out or a compilation failed; nothing else is caught."""
    try:
        yield
    except Exception as error:
        if not of_one_network(error):
            raise
        problem = f"{doing}: {describe_failure(error)}"
        if problem not in cell.problems:  # it returns with every pass
            cell.problems.append(problem)
        gc.collect()


class _Ledger:
    """Progress: the expected seconds of finished work as a share of the whole."""

    def __init__(self, progress: Progress, total: float) -> None:
        self.progress, self.total, self.spent, self.words = progress, max(total, 1e-9), 0.0, ""

    def say(self, words: str) -> None:
        self.words = words
        self.progress(words, min(1.0, self.spent / self.total))

    def done(self, seconds: float) -> None:
        self.spent += seconds
        self.progress(self.words, min(1.0, self.spent / self.total))
