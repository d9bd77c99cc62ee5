"""Dynamic batching: images wait until a batch is full or the first has waited long enough. Workers share what waits,
so that a second one does not stand idle beside a large batch.

An image that was accepted is answered. A batch on a worker that dies is run again on another; one that kills two
workers, or on which the network fails, is run again image by image, so that only the image to blame fails.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nextify.data.decode import UnreadableImage
from nextify.deploy.serve.metrics import Metrics
from nextify.deploy.serve.tasks import ENCODED, Array
from nextify.deploy.serve.workers import Died, Facts, Failed, Replaced, ServeError, Worker

log = logging.getLogger("nextify.serve")
TOGETHER = 2
"""Workers that may die of a batch before its images are run one by one."""
ALONE = 5
"""Workers that may die of an image before it is given up."""


class Full(Exception):
    """No place for another image."""


@dataclass(eq=False)
class _Item:
    call: str
    pixels: Array
    argument: Any
    arrived: float
    answer: asyncio.Future[Any]
    deaths: int = 0
    alone: bool = False

    @property
    def kind(self) -> tuple[object, ...]:
        """What the images of a batch have in common."""
        return (self.call,) if self.call == ENCODED else (self.call, self.pixels.dtype, self.pixels.shape)


@dataclass(eq=False)
class Batcher:
    """A queue before the workers. All but ``open`` runs in one event loop."""

    workers: Sequence[Worker]
    metrics: Metrics
    max_batch: int
    max_wait: float
    """Seconds."""
    capacity: int
    """Images that may be accepted and not answered."""
    hangs_after: float
    """Seconds after which a worker that has not answered is killed."""
    accepted: int = 0
    alive: int = 0
    replaced: bool = False
    """Whether a worker could not be started again because it found another network than the others have."""
    _queue: deque[_Item] = field(default_factory=deque)

    def open(self) -> Facts:
        """Start the workers. Raises ``ServeError``, also where they do not all have the same network."""
        self._threads = ThreadPoolExecutor(len(self.workers), "worker")
        facts: list[Facts] = list(self._threads.map(lambda worker: worker.start(), self.workers))
        self._facts = facts[0]
        if any(one != self._facts for one in facts):
            raise Replaced("the bundle was replaced while it was being opened: start the server again")
        self.alive = len(self.workers)
        return self._facts

    async def start(self) -> None:
        """Begin to serve; ``open`` comes first."""
        self._gathering, self._some, self._full = asyncio.Lock(), asyncio.Event(), asyncio.Event()
        self._tasks = [asyncio.create_task(self._serve(worker)) for worker in self.workers]

    async def stop(self) -> None:
        """End the workers. Whoever still waits is answered with an error."""
        for task in self._tasks:
            task.cancel()
        for item in self._queue:
            item.answer.cancel()
        for worker in self.workers:
            await asyncio.to_thread(worker.stop)
        self._threads.shutdown()

    @contextmanager
    def place(self, images: int = 1) -> Iterator[None]:
        """Hold places for some images. Raises ``Full``."""
        if self.accepted + images > self.capacity:
            raise Full
        self.accepted += images
        try:
            yield
        finally:
            self.accepted -= images

    async def __call__(self, call: str, images: Sequence[Array], arguments: Sequence[Any]) -> list[Any]:
        """The workers' answer for each image, in order; for images that have a place. Raises ``Failed`` or
        ``UnreadableImage``, of several the first image's; ``Replaced`` where no worker is left that has the network."""
        if self.replaced and not self.alive:
            raise _replaced()
        loop = asyncio.get_running_loop()
        pairs = zip(images, arguments, strict=True)
        items = [_Item(call, image, argument, loop.time(), loop.create_future()) for image, argument in pairs]
        self._queue.extend(items)
        self._tell()
        try:
            return [await item.answer for item in items]
        finally:
            for item in items:  # the others of a bad image or a client that has gone: what has not begun never does
                if not item.answer.cancel() and not item.answer.cancelled():
                    item.answer.exception()  # else, asyncio would log it as overlooked

    def _tell(self) -> None:
        if self._queue:
            self._some.set()
        if len(self._queue) >= self.max_batch:
            self._full.set()

    async def _batch(self) -> list[_Item]:
        """The next images of one kind, at most this worker's share of all; none if their clients have all gone."""
        async with self._gathering:
            self._some.clear()
            self._full.clear()
            self._tell()
            await self._some.wait()
            left = self._queue[0].arrived + self.max_wait - asyncio.get_running_loop().time()
            if left > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._full.wait(), left)
            most = min(self.max_batch, math.ceil(len(self._queue) / len(self.workers)))
            batch: list[_Item] = []
            while self._queue and len(batch) < most:
                item = self._queue[0]
                if batch and (item.kind != batch[0].kind or item.alone or batch[0].alone):
                    break
                self._queue.popleft()
                if not item.answer.done():
                    batch.append(item)
            return batch

    async def _serve(self, worker: Worker) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._batch()
            if not batch:
                continue
            self.metrics.batch_size.observe(len(batch))
            try:
                images, arguments = [item.pixels for item in batch], [item.argument for item in batch]
                pixels = images if batch[0].call == ENCODED else np.stack(images)
                watchdog = loop.call_later(self.hangs_after, worker.kill)
                try:
                    with self.metrics.network_seconds.time():
                        rows = await loop.run_in_executor(self._threads, worker, batch[0].call, pixels, arguments)
                finally:
                    watchdog.cancel()  # else, it could kill the process that takes the place of a dead one
            except Died as death:
                log.warning("a worker died (%s); %s", death, self._after_death(batch))
                await self._restart(worker)
            except Failed as error:
                self._again(batch, str(error))
            else:
                for item, row in zip(batch, rows, strict=True):
                    if item.answer.done():
                        continue
                    if isinstance(row, UnreadableImage):
                        item.answer.set_exception(row)
                    else:
                        item.answer.set_result(row)

    def _after_death(self, batch: Sequence[_Item]) -> str:
        """What becomes of the batch, for the log."""
        for item in batch:
            item.deaths += 1
        if max(item.deaths for item in batch) >= (ALONE if len(batch) == 1 else TOGETHER):
            self._again(batch, f"the network's process died {batch[0].deaths} times on this image")
            return "its image is given up" if len(batch) == 1 else "its images run again one by one"
        self._queue.extendleft(reversed(batch))
        self._tell()
        return "its batch runs again"

    def _again(self, batch: Sequence[_Item], reason: str) -> None:
        """Run the images of a batch one by one; give up one that was alone."""
        if len(batch) == 1:
            if not batch[0].answer.done():
                batch[0].answer.set_exception(Failed(reason))
            return
        for item in batch:
            item.alone = True
        self._queue.extendleft(reversed(batch))
        self._tell()

    async def _restart(self, worker: Worker) -> None:
        self.alive -= 1
        self.metrics.restarts.inc()
        pause = 0.1
        while True:
            try:
                facts = await asyncio.get_running_loop().run_in_executor(self._threads, worker.start)
                if facts != self._facts:
                    await asyncio.get_running_loop().run_in_executor(self._threads, worker.stop)
                    raise _replaced()
            except (ServeError, OSError) as error:  # no memory or files are left to start one, for now
                log.error("a worker cannot be started again: %s", error)
                if isinstance(error, Replaced):
                    self._refuse_all()
                await asyncio.sleep(pause)
                pause = min(2 * pause, 10.0)
            else:
                self.alive += 1
                self.replaced = False
                return

    def _refuse_all(self) -> None:
        """Let nobody wait for a worker, where the last one found another network."""
        self.replaced = True
        while self._queue and not self.alive:
            item = self._queue.popleft()
            if not item.answer.done():
                item.answer.set_exception(_replaced())


def _replaced() -> Replaced:
    return Replaced("the bundle was replaced while it was being served: restart the server")
