"""Batches keep every answer with its own request, through deaths and failures of the network."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from nextify.deploy.serve.batching import ALONE, TOGETHER, Batcher, Full
from nextify.deploy.serve.metrics import Metrics
from nextify.deploy.serve.workers import Died, Failed, Replaced

POISON, FATAL = 13, 7


class Echo:
    """Answers each image with itself; raises where its turn says so, or an image is the poisonous or fatal one."""

    prepares = False

    def __init__(self, turns: str = "", pause: float = 0.0) -> None:
        self.turns, self.pause, self.batches, self.starts = iter(turns), pause, list[list[int]](), 0
        self.killed = False
        self.another: Sequence[int] = ()

    def start(self) -> Any:
        self.starts += 1
        self.killed = False
        return "another network" if self.starts in self.another else "the network"

    def __call__(self, call: str, batch: Any, arguments: Any) -> Any:
        assert arguments == batch[:, 0].tolist()
        time.sleep(self.pause)
        self.batches.append(batch[:, 0].tolist())
        match next(self.turns, ""):
            case "d":
                raise Died("signal 9")
            case "f" if len(batch) > 1:
                raise Failed("no luck")
            case "h":
                while not self.killed:
                    time.sleep(0.001)
                raise Died("signal 9")
        if FATAL in batch:
            raise Died("signal 9")
        if POISON in batch:
            raise Failed("poison")
        return batch * 2

    def kill(self) -> None:
        self.killed = True

    def stop(self) -> None:
        pass


def run(
    work: Callable[[Batcher], Awaitable[Any]], *workers: Echo, max_batch: int = 4, wait: float = 0.005, **more: Any
) -> Any:
    async def whole() -> Any:
        settings = {"capacity": 10_000, "hangs_after": 5.0} | more
        batcher = Batcher(workers, Metrics(), max_batch, wait, **settings)
        batcher.open()
        await batcher.start()
        try:
            return await asyncio.wait_for(work(batcher), 20)
        finally:
            await batcher.stop()

    return asyncio.run(whole())


def image(value: int) -> Any:
    return np.array([value, 0])


async def ask(batcher: Batcher, *values: int, call: str = "logits") -> list[int]:
    with batcher.place(len(values)):
        return [int(row[0]) for row in await batcher(call, [image(value) for value in values], values)]


@pytest.mark.parametrize("turns", ["", "dd", "f" * 9, "dfdf"])
def test_every_request_gets_its_own_answer(turns: str) -> None:
    rng = random.Random(turns)
    requests = [tuple(rng.randrange(100, 10**6) for _ in range(rng.randrange(1, 6))) for _ in range(60)]
    workers = Echo(turns), Echo(turns[::-1])

    async def work(batcher: Batcher) -> list[list[int]]:
        return await asyncio.gather(*(ask(batcher, *values) for values in requests))

    assert run(work, *workers) == [[2 * value for value in values] for values in requests]
    assert all(len(batch) <= 4 for worker in workers for batch in worker.batches)
    if not turns:
        assert sum(len(worker.batches) for worker in workers) < 60


def test_only_the_image_to_blame_fails(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "nextify.serve")  # whatever a library that another test imported set
    worker = Echo()

    async def work(batcher: Batcher) -> list[Any]:
        values = [1, POISON, 2, FATAL, 3, 4]
        return await asyncio.gather(*(ask(batcher, value) for value in values), return_exceptions=True)

    found = run(work, worker)
    assert [found[i] for i in (0, 2, 4, 5)] == [[2], [4], [6], [8]]
    assert isinstance(found[1], Failed)
    assert isinstance(found[3], Failed)
    assert f"died {ALONE} times" in str(found[3])
    assert worker.starts == 1 + ALONE
    again, one_by_one, given_up = (
        f"a worker died (signal 9); its {what}"
        for what in ("batch runs again", "images run again one by one", "image is given up")
    )
    assert caplog.messages == [again, one_by_one, *[again] * (ALONE - TOGETHER - 1), given_up]


def test_images_wait_for_a_full_batch_and_no_longer() -> None:
    worker = Echo()

    async def work(batcher: Batcher) -> float:
        started = time.monotonic()
        await asyncio.gather(*(ask(batcher, i) for i in range(20, 28)))
        full = time.monotonic() - started
        assert await ask(batcher, 100) == [200]
        assert full < 0.3 <= time.monotonic() - started
        return full

    run(work, worker, wait=0.3)
    assert worker.batches == [[20, 21, 22, 23], [24, 25, 26, 27], [100]]


def test_workers_share_what_waits() -> None:
    workers = Echo(pause=0.05), Echo(pause=0.05)

    async def work(batcher: Batcher) -> None:
        await asyncio.gather(*(ask(batcher, i) for i in range(20, 27)))

    run(work, *workers, max_batch=8, wait=0.05)
    assert sorted(len(batch) for worker in workers for batch in worker.batches)[-2:] == [2, 4]
    assert all(worker.batches for worker in workers)


def test_a_batch_is_of_one_kind() -> None:
    worker = Echo()

    async def work(batcher: Batcher) -> list[list[int]]:
        return await asyncio.gather(ask(batcher, 1), ask(batcher, 2, call="explain 0"), ask(batcher, 3))

    assert run(work, worker) == [[2], [4], [6]]
    assert worker.batches == [[1], [2], [3]]


def test_a_client_that_leaves_takes_nobody_along() -> None:
    worker = Echo(pause=0.02)

    async def work(batcher: Batcher) -> list[Any]:
        tasks = [asyncio.create_task(ask(batcher, 20 + i)) for i in range(12)]
        await asyncio.sleep(0.01)
        for task in tasks[5:9]:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert batcher.accepted == 0
        return [one for one in found if not isinstance(one, asyncio.CancelledError)]

    assert run(work, worker, wait=0) == [[40 + 2 * i] for i in (0, 1, 2, 3, 4, 9, 10, 11)]
    assert not {25, 26, 27, 28} & {value for batch in worker.batches[1:] for value in batch}


def test_a_worker_that_hangs_is_killed() -> None:
    worker = Echo("h")
    assert run(lambda batcher: ask(batcher, 1), worker, hangs_after=0.05) == [2]
    assert worker.starts == 2


def test_a_worker_has_all_the_time_to_start_again() -> None:
    """The dead one's time limit does not end the process that takes its place."""
    ended = []

    class Loading(Echo):
        def start(self) -> Any:
            time.sleep(0.8 if self.starts else 0)
            return super().start()

        def kill(self) -> None:
            ended.append(self.starts)

    worker = Loading("d")
    assert run(lambda batcher: ask(batcher, 1), worker, hangs_after=0.5) == [2]
    assert (worker.starts, ended) == (2, [])


def test_a_worker_is_started_again_once_the_system_allows_it() -> None:
    class Refused(Echo):
        def start(self) -> Any:
            if self.starts == 1:
                self.starts += 1
                raise OSError(24, "Too many open files")
            return super().start()

    worker = Refused("d")
    assert run(lambda batcher: ask(batcher, 1), worker) == [2]
    assert worker.starts == 3


def test_a_worker_that_finds_another_network_is_not_used() -> None:
    """It is tried again, as the network that was replaced may be put back."""
    worker = Echo("d")
    worker.another = (2, 3)

    async def work(batcher: Batcher) -> int:
        for _ in range(2):  # the first waits until the worker is dead, the second is refused at once
            with pytest.raises(Replaced, match="replaced while it was being served: restart the server"):
                await ask(batcher, 1)
        assert worker.batches == [[1]]
        assert batcher.alive == 0
        while not batcher.alive:
            await asyncio.sleep(0.01)
        assert await ask(batcher, 2) == [4]
        return worker.starts

    assert run(work, worker) == 4


def test_workers_that_have_the_network_go_on_without_one_that_has_not() -> None:
    dying, other = Echo("d"), Echo(pause=0.02)
    dying.another = range(2, 100)

    async def work(batcher: Batcher) -> list[list[int]]:
        found = await asyncio.gather(*(ask(batcher, value) for value in range(20, 40)))
        assert batcher.alive == 1
        return found

    assert run(work, dying, other) == [[2 * value] for value in range(20, 40)]
    assert len(dying.batches) == 1


def test_workers_of_different_networks_do_not_start() -> None:
    other = Echo()
    other.another = (1,)
    with pytest.raises(Replaced, match="replaced while it was being opened: start the server again"):
        run(lambda batcher: ask(batcher, 1), Echo(), other)


def test_no_place_beyond_the_capacity() -> None:
    async def work(batcher: Batcher) -> None:
        with batcher.place(3), pytest.raises(Full), batcher.place(2):
            pass
        with batcher.place(4):
            assert batcher.accepted == 4
        assert batcher.accepted == 0

    run(work, Echo(), capacity=4)
