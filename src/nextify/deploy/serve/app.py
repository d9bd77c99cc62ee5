"""The routes: predictions, the Open Inference Protocol, health, metrics, and a page for people.

A request is refused with one line of JSON, ``{"error": …}``, before it meets another's images: each image is decoded
and prepared by itself, and only arrays of one shape enter a batch.
"""

import asyncio
import base64
import gc
import io
import json
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from nextify import __version__
from nextify.data.decode import UnreadableImage, opened
from nextify.deploy.explain import coloured
from nextify.deploy.serve import protocol
from nextify.deploy.serve.batching import Batcher, Full
from nextify.deploy.serve.door import Door, content_policy, error_line
from nextify.deploy.serve.metrics import Metrics
from nextify.deploy.serve.reading import asks_for_png, read_body, read_images, read_parameter
from nextify.deploy.serve.tasks import ENCODED, EXPLAIN, INFER, PREDICT, Array, Classes, Parameter, task_of
from nextify.deploy.serve.workers import Facts, Failed, Replaced, Worker
from nextify.system.text import printable
from nextify.tasks.metric_specs import TITLES, is_telling

Result = TypeVar("Result")
SMALL = 4_000_000
"""Pixels up to which a worker decodes an image itself."""
GONE = 499
"""Status, in metrics only, of a client that left before its request was read."""


@dataclass(frozen=True)
class Settings:
    """Limits of a server."""

    max_batch: int = 16
    max_wait_ms: float = 5.0
    queue: int = 256
    """Images that are accepted and not answered yet."""
    max_bytes: int = 2**25
    """Of a request's body."""
    timeout: float = 60.0
    """Seconds to read a body, to answer, and for a worker to run a batch."""
    token: str = ""
    """What ``Authorization: Bearer`` must bring; empty asks for nothing."""


def create_app(workers: Sequence[Worker], settings: Settings, name: str = "") -> Starlette:
    """An ASGI application around workers, which it starts. ``name``: of the model, in paths and answers; by default the
    bundle's own. Raises ``ServeError`` where a worker cannot start."""
    return _Server(workers, settings, name).app


class _Server:
    def __init__(self, workers: Sequence[Worker], settings: Settings, name: str) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.batcher = Batcher(
            workers, self.metrics, settings.max_batch, settings.max_wait_ms / 1000, settings.queue, settings.timeout
        )
        self.facts: Facts = self.batcher.open()
        self.prepares = all(worker.prepares for worker in workers)
        self.task = task_of(self.facts.about)
        self.name = re.sub(r"[^A-Za-z0-9._-]+", "-", name or self.facts.about.name) or "model"
        self.metrics.accepted.set_function(lambda: self.batcher.accepted)
        self.metrics.workers.set_function(lambda: self.batcher.alive)
        self.page = files("nextify.deploy.serve").joinpath("page.html").read_text("utf-8")
        self.policy = content_policy(self.page)
        described = files("nextify.deploy.serve").joinpath("openapi.json").read_text("utf-8")
        self.openapi = json.loads(described.replace("VERSION", __version__).replace("MODEL", self.name))
        model = f"/v2/models/{self.name}"
        paths = self.openapi["paths"]
        paths.update({path.replace(model, f"{model}/versions/1"): paths[path] for path in [*paths] if model in path})
        self._describe_task()
        routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("GET", "/", self.show),
            ("GET", "/model", self.model),
            ("POST", "/predict", self.predict),
            ("GET", "/health/live", self.live),
            ("GET", "/health/ready", self.ready),
            ("GET", "/metrics", self.measure),
            ("GET", "/openapi.json", self.describe),
            ("GET", "/v2", self.server),
            ("GET", "/v2/health/live", self.live),
            ("GET", "/v2/health/ready", self.ready),
            ("POST", "/explain", self.explain),
        ]
        for path in (model, f"{model}/versions/1"):
            routes += [("GET", path, self.metadata), ("GET", f"{path}/ready", self.ready)]
            routes += [("POST", f"{path}/infer", self.infer)]
        self.app = Starlette(
            routes=[Route(path, handler, methods=[method]) for method, path, handler in routes],
            lifespan=self.running,
            exception_handlers={
                HTTPException: self.refuse,
                Full: lambda request, error: error_line(503, "too many images at once", {"Retry-After": "1"}),
                Failed: lambda request, error: error_line(500, f"the network failed: {error}"),
                Replaced: lambda request, error: error_line(503, str(error)),
                TimeoutError: lambda request, error: error_line(504, f"no answer within {settings.timeout:g} s"),
                UnreadableImage: lambda request, error: error_line(400, printable(str(error))),
                protocol.ProtocolError: lambda request, error: error_line(400, printable(str(error))),
                MemoryError: lambda request, error: error_line(400, "too large for this machine's memory"),
                ClientDisconnect: lambda request, error: Response(status_code=GONE),
                Exception: lambda request, error: error_line(500, "an error in the server; its log says more"),
            },
        )
        self.app.add_middleware(Door, metrics=self.metrics, token=settings.token)

    @asynccontextmanager
    async def running(self, app: Starlette) -> AsyncIterator[None]:
        with ThreadPoolExecutor(os.cpu_count(), "decode") as self.decoders:
            await self.batcher.start()
            file = io.BytesIO()
            Image.new("RGB", (9, 9)).save(file, "PNG")
            with suppress(UnreadableImage):  # where bands are chosen; it loads what the first image would
                await self._prepared(1, file.getvalue())
            gc.freeze()  # else, a collection now and then stops everything for 0.1 s, to look at all that torch holds
            try:
                yield
            finally:
                await self.batcher.stop()

    async def show(self, request: Request) -> Response:
        return HTMLResponse(self.page, headers={"Content-Security-Policy": self.policy})

    async def model(self, request: Request) -> Response:
        about = self.facts.about
        return JSONResponse(
            {
                "name": self.name,
                "runtime": self.facts.runtime,
                "licence": about.licence,
                "source": about.source,
                "classes": about.num_classes,
                "class_names": about.classes,
                "colors": self.task.colors,
                "task": self.task.name,
                "input": list(self.task.input_shape),
                "metrics": [
                    {"name": m.name, "title": TITLES.get(m.name, m.name)}
                    | {"value": m.value, "dataset": m.dataset, "images": m.images}
                    for m in about.metrics
                    if is_telling(m.name, about.num_classes)
                ],
                "explains": self.facts.explains,
                "max_bytes": self.settings.max_bytes,
            }
        )

    async def predict(self, request: Request) -> Response:
        started = time.perf_counter()
        asked = read_parameter(request, self.task.parameter)
        drawn = self.task.picture and asks_for_png(request)
        with self.batcher.place():
            encoded = await read_images(request, await self._body(request), one=drawn)
            with self._places(len(encoded)):
                in_workers = self.prepares and all(map(_is_small, encoded))
                rows = await self._in_time(request, (self._encoded_rows if in_workers else self._rows)(encoded, asked))
        found = [self.task.answer(*row, asked) for row in rows]
        if drawn:
            return Response(base64.b64decode(found[0]["mask"]), media_type="image/png")
        milliseconds = round(1000 * (time.perf_counter() - started), 2)
        return JSONResponse({"model": self.name, "predictions": found, "milliseconds": milliseconds})

    async def _rows(self, encoded: Sequence[bytes], asked: Any) -> list[tuple[Array, int, int]]:
        """The worker's answer to ``PREDICT`` for each image, with its height and width."""
        prepared = [await self._prepared(*numbered) for numbered in enumerate(encoded, 1)]
        sizes = [(height, width) for _, height, width in prepared]
        rows = await self.batcher(PREDICT, [image for image, *_ in prepared], [(*size, asked) for size in sizes])
        return [(row, *size) for row, size in zip(rows, sizes, strict=True)]

    async def _encoded_rows(self, encoded: Sequence[bytes], asked: Any) -> list[tuple[Array, int, int]]:
        """The same, of workers that decode the images themselves."""
        images = [np.frombuffer(data, np.uint8) for data in encoded]
        return await self.batcher(ENCODED, images, [(number, asked) for number in range(1, len(images) + 1)])

    async def explain(self, request: Request) -> Response:
        if not self.facts.explains:
            raise HTTPException(404, "/explain is for classifiers, and for bundles of one network only")
        most = self.facts.about.num_classes - 1
        index = read_parameter(request, Parameter("class", "Index of the class", 0, most))
        with self.batcher.place():
            (encoded,) = await read_images(request, await self._body(request), one=True)
            heat = await self._in_time(request, self._heat(encoded, index))
        file = io.BytesIO()
        Image.fromarray(coloured(heat)).save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")

    async def _heat(self, encoded: bytes, index: Any) -> Array:
        """``(H, W)`` over what the network sees of the image."""
        image, height, width = await self._prepared(1, encoded)
        heat: Array = (await self.batcher(EXPLAIN, [image], [index]))[0]
        assert isinstance(self.task, Classes)
        return heat[self.task.settings.filled(width, height)]

    async def infer(self, request: Request) -> Response:
        read_parameter(request, None)
        with self.batcher.place():
            body = await self._body(request)
            length = request.headers.get(protocol.LENGTH)
            asked = await asyncio.get_running_loop().run_in_executor(
                self.decoders, protocol.read, body, length, self.task.input_shape, [*self.task.outputs]
            )
            images = list(asked.images)
            with self._places(len(images)):
                rows = await self._in_time(request, self.batcher(INFER, images, [None] * len(images)))
        content, ends = protocol.answer(self.name, asked, self.task.tensors(np.stack(rows)))
        if ends is None:
            return Response(content, media_type="application/json")
        return Response(content, media_type="application/octet-stream", headers={protocol.LENGTH: str(ends)})

    async def metadata(self, request: Request) -> Response:
        return JSONResponse(protocol.describe(self.name, self.task.input_shape, self.task.outputs))

    async def server(self, request: Request) -> Response:
        return JSONResponse({"name": "nextify", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        ready = self.batcher.alive > 0
        return JSONResponse({"name": self.name, "ready": ready}, 200 if ready else 503)

    async def measure(self, request: Request) -> Response:
        return Response(generate_latest(self.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def describe(self, request: Request) -> Response:
        return JSONResponse(self.openapi)

    async def refuse(self, request: Request, error: Any) -> Response:
        message = error.detail
        if error.status_code == 404 and request.url.path.startswith("/v2/models/"):
            message = f"Not Found: the model is /v2/models/{self.name}, and its only version 1"
        return error_line(error.status_code, message, error.headers)

    def _places(self, images: int) -> AbstractContextManager[None]:
        """Of a request that has one already."""
        if images > self.settings.queue:
            raise HTTPException(413, f"a request has at most {self.settings.queue:,} images")
        return self.batcher.place(images - 1)

    async def _in_time(self, request: Request, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of ``work`` on a request whose body has been read. Raises ``TimeoutError``, and
        ``ClientDisconnect`` where nobody waits for it any more; what has not begun then never does."""
        answer = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_gone(request))
        try:
            async with asyncio.timeout(self.settings.timeout):
                await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientDisconnect
            return answer.result()
        finally:
            answer.cancel()
            gone.cancel()

    async def _body(self, request: Request) -> bytes:
        return await read_body(request, self.settings.max_bytes, self.settings.timeout)

    async def _prepared(self, number: int, data: bytes) -> tuple[Array, int, int]:
        """The network's input, and the image's height and width."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.decoders, self.task.prepare, data)
        except UnreadableImage as error:
            raise UnreadableImage(f"image {number}: {error}") from None

    def _describe_task(self) -> None:
        """Complete the OpenAPI document by what depends on the task."""
        schemas, task = self.openapi["components"]["schemas"], self.task
        schemas["Prediction"] = self.openapi.pop("predictions")[task.schema]
        schemas["Inference"]["properties"]["outputs"]["items"]["properties"]["name"]["enum"] = [*task.outputs]
        predict = self.openapi["paths"]["/predict"]["post"]
        predict["summary"] = task.summary
        if (one := task.parameter) is not None:
            kind = "integer" if isinstance(one.most, int) else "number"
            schema = {"type": kind, "minimum": one.least, "maximum": one.most, "default": one.default}
            predict["parameters"] = [
                {"name": one.name, "in": "query", "description": one.description, "schema": schema}
            ]
        if task.picture:
            content = {"schema": {"type": "string", "format": "binary"}}
            predict["responses"]["200"]["content"]["image/png"] = content


def _is_small(data: bytes) -> bool:
    """Whether a worker decodes the image: a larger one would keep the others of its batch waiting."""
    try:
        with opened(data) as image:
            return image.width * image.height <= SMALL
    except UnreadableImage:
        return False


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
