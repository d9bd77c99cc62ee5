"""The routes: predictions, the Open Inference Protocol, health, metrics, and a page for people.

A request is refused with one line of JSON, ``{"error": …}``, before it meets another's images: each image is decoded
and prepared by itself, and only arrays of one shape enter a batch.
"""

import asyncio
import base64
import gc
import hashlib
import hmac
import io
import json
import math
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from python_multipart.multipart import parse_options_header
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nextify import __version__
from nextify.data.decode import UnreadableImage, opened
from nextify.deploy.explain import coloured
from nextify.deploy.serve import protocol
from nextify.deploy.serve.batching import Batcher, Full
from nextify.deploy.serve.metrics import Metrics
from nextify.deploy.serve.tasks import ENCODED, EXPLAIN, INFER, PREDICT, Array, Parameter, task_of
from nextify.deploy.serve.workers import Facts, Failed, Worker
from nextify.system.files import parse_json
from nextify.system.text import printable, shortened
from nextify.tasks.metric_specs import TITLES, is_telling

OPEN = ("/", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
"""Paths that need no token; the page asks for one."""
UNTYPED = ("", "application/octet-stream", "application/x-www-form-urlencoded")
"""Content types of clients that were told none; the last is what ``curl --data-binary`` sends."""
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
    """An ASGI application around workers, which it starts.

    Args:
        name: of the model, in paths and answers; the bundle's own by default.

    Raises:
        ServeError: a worker cannot start.
    """
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
        self.policy = _content_policy(self.page)
        described = files("nextify.deploy.serve").joinpath("openapi.json").read_text("utf-8")
        self.openapi = json.loads(described.replace("MODEL", self.name).replace("VERSION", __version__))
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
                Full: lambda request, error: _error(503, "too many images at once", {"Retry-After": "1"}),
                Failed: lambda request, error: _error(500, f"the network failed: {error}"),
                TimeoutError: lambda request, error: _error(504, f"no answer within {settings.timeout:g} s"),
                UnreadableImage: lambda request, error: _error(400, printable(str(error))),
                protocol.ProtocolError: lambda request, error: _error(400, printable(str(error))),
                MemoryError: lambda request, error: _error(400, "too large for this machine's memory"),
                ClientDisconnect: lambda request, error: Response(status_code=GONE),
                Exception: lambda request, error: _error(500, "an error in the server; its log says more"),
            },
        )
        self.app.add_middleware(_Door, server=self)

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
        asked = _asked(request, self.task.parameter)
        drawn = self.task.picture and _asks_for_png(request)
        with self.batcher.place():
            encoded = await self._encoded(request, one=drawn)
            with self._places(len(encoded)):
                in_workers = self.prepares and all(map(_is_small, encoded))
                rows = await (self._encoded_rows if in_workers else self._rows)(request, encoded, asked)
        found = [self.task.answer(*row, asked) for row in rows]
        if drawn:
            return Response(base64.b64decode(found[0]["mask"]), media_type="image/png")
        milliseconds = round(1000 * (time.perf_counter() - started), 2)
        return JSONResponse({"model": self.name, "predictions": found, "milliseconds": milliseconds})

    async def _rows(self, request: Request, encoded: Sequence[bytes], asked: Any) -> list[tuple[Array, int, int]]:
        """The worker's answer to ``PREDICT`` for each image, with its height and width."""
        prepared = [await self._prepared(*numbered) for numbered in enumerate(encoded, 1)]
        sizes = [(height, width) for _, height, width in prepared]
        rows = await self._run(request, PREDICT, [image for image, *_ in prepared], [(*size, asked) for size in sizes])
        return [(row, *size) for row, size in zip(rows, sizes, strict=True)]

    async def _encoded_rows(
        self, request: Request, encoded: Sequence[bytes], asked: Any
    ) -> list[tuple[Array, int, int]]:
        """The same, of workers that decode the images themselves."""
        images = [np.frombuffer(data, np.uint8) for data in encoded]
        return await self._run(request, ENCODED, images, [(number, asked) for number in range(1, len(images) + 1)])

    async def explain(self, request: Request) -> Response:
        if not self.facts.explains:
            raise HTTPException(404, "/explain is for classifiers, and for bundles only")
        most = self.facts.about.num_classes - 1
        index = _asked(request, Parameter("class", "Index of the class", 0, most))
        with self.batcher.place():
            (encoded,) = await self._encoded(request, one=True)
            image, *_ = await self._prepared(1, encoded)
            (heat,) = await self._run(request, EXPLAIN, [image], [index])
        file = io.BytesIO()
        Image.fromarray(coloured(heat)).save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")

    async def infer(self, request: Request) -> Response:
        _asked(request, None)
        with self.batcher.place():
            body = await self._body(request)
            length = request.headers.get(protocol.LENGTH)
            asked = await asyncio.get_running_loop().run_in_executor(
                self.decoders, protocol.read, body, length, self.task.input_shape, [*self.task.outputs]
            )
            images = list(asked.images)
            with self._places(len(images)):
                rows = await self._run(request, INFER, images, [None] * len(images))
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
        return _error(error.status_code, message, error.headers)

    def _places(self, images: int) -> AbstractContextManager[None]:
        """Of a request that has one already."""
        if images > self.settings.queue:
            raise HTTPException(413, f"a request has at most {self.settings.queue:,} images")
        return self.batcher.place(images - 1)

    async def _run(self, request: Request, call: str, images: Sequence[Array], arguments: Sequence[Any]) -> list[Any]:
        """Of a request whose body has been read. Raises ``ClientDisconnect``; what has not begun then never does."""
        answer = asyncio.ensure_future(self.batcher(call, images, arguments))
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
        most, data = self.settings.max_bytes, bytearray()
        try:
            async with asyncio.timeout(self.settings.timeout):
                async for chunk in request.stream():
                    data += chunk
                    if len(data) > most:
                        raise HTTPException(413, f"a request has at most {most:,} bytes")
        except TimeoutError:
            raise HTTPException(408, f"the request took more than {self.settings.timeout:g} s to arrive") from None
        return bytes(data)

    async def _encoded(self, request: Request, *, one: bool = False) -> list[bytes]:
        """The encoded images of a request, at least one, or exactly ``one``."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        body = await self._body(request)
        if kind == "multipart/form-data":
            images = await _files(request, body)
        elif kind == "application/json":
            images = _from_json(body)
        elif kind in UNTYPED or kind.startswith("image/"):
            images = [body]
        else:
            remedy = "an image (curl -H 'Content-Type: image/jpeg'), multipart/form-data, or JSON"
            raise HTTPException(415, f"Content-Type {shortened(kind)} is not supported: send {remedy}")
        if not images:
            raise HTTPException(400, "no image")
        if one and len(images) > 1:
            raise HTTPException(400, "give one image")
        return images

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


class _Door:
    """Checks the token, counts requests, and sets the headers that every answer has."""

    def __init__(self, app: ASGIApp, server: _Server) -> None:
        self.app, self.metrics = app, server.metrics
        self.wanted = f"Bearer {server.settings.token}".encode() if server.settings.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        given = dict(scope["headers"]).get(b"authorization", b"")
        if self.wanted and scope["path"] not in OPEN and not hmac.compare_digest(given, self.wanted):
            refused = _error(401, "send the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
            await refused(scope, receive, answer)
        else:
            try:
                await self.app(scope, receive, answer)
            finally:  # an error that no handler above knows is answered with 500 outside
                endpoint = scope.get("endpoint")
                route = endpoint.__name__ if endpoint else "none"
                self.metrics.requests.labels(route, str(status)).inc()
                self.metrics.seconds.labels(route).observe(time.perf_counter() - started)


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


async def _files(request: Request, body: bytes) -> list[bytes]:
    async def stream() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(
        request.headers,
        stream(),  # type: ignore[arg-type]
        max_files=math.inf,  # max_bytes is the limit
        max_fields=math.inf,
        max_part_size=len(body),
    )
    parser.spool_max_size = len(body)  # which is in memory already
    try:
        _, said = parse_options_header(request.headers["content-type"])
        if b"--" + said.get(b"boundary", b"") + b"--" not in body:
            raise MultiPartException("cut off")  # the parser would leave out the last file
        form = await parser.parse()
    except MultiPartException:
        hint = "as curl -F a=@photo.jpg does, and let the client set Content-Type with its boundary"
        raise HTTPException(400, f"the body is not valid multipart/form-data: send files {hint}") from None
    for name, part in form.multi_items():
        if isinstance(part, str):
            raise HTTPException(400, f"field {shortened(name)} is text: send files, as curl -F a=@photo.jpg does")
    images = [await part.read() for _, part in form.multi_items() if isinstance(part, UploadFile)]
    await form.close()
    return images


def _from_json(body: bytes) -> list[bytes]:
    try:
        given = parse_json(body)
    except ValueError:
        given = None
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise HTTPException(400, "JSON must be a list of images in base64")
    images = []
    for number, text in enumerate(given, 1):
        try:
            images.append(base64.b64decode(text, validate=True))
        except ValueError:
            raise HTTPException(400, f"image {number} is not valid base64") from None
    return images


def _asked(request: Request, parameter: Parameter | None) -> float | None:
    """The query's only parameter, a number; None for no parameter. Raises ``HTTPException``, also for other ones."""
    known = "none" if parameter is None else parameter.name
    if others := [name for name in request.query_params if parameter is None or name != known]:
        raise HTTPException(400, f"unknown query parameter {shortened(others[0])}: {request.url.path} takes {known}")
    if parameter is None:
        return None
    name, _, least, most, default = parameter
    text, *others = request.query_params.getlist(name) or ["" if default is None else str(default)]
    if others:
        raise HTTPException(400, f"{name} must be given once")
    whole = isinstance(most, int)
    pattern = r"[0-9]{1,9}" if whole else r"[0-9]{1,9}(\.[0-9]{1,400})?(e[+-]?[0-9]{1,3})?"
    value = (int if whole else float)(text) if re.fullmatch(pattern, text) else math.nan
    if not least <= value <= most:
        kind, form = ("whole number", "d") if whole else ("number", "g")
        raise HTTPException(400, f"{name} must be a {kind} from {least:{form}} to {most:{form}}")
    return value


def _asks_for_png(request: Request) -> bool:
    weights: dict[str, float] = {}
    for one in ",".join(request.headers.getlist("accept")).lower().split(","):
        kind, *parameters = map(str.strip, one.split(";"))
        given = [float(found[1]) for text in parameters if (found := re.fullmatch(r"q=([01](?:\.[0-9]{0,3})?)", text))]
        weights[kind] = min(given, default=1.0)
    return weights.get("image/png", 0.0) > weights.get("application/json", 0.0)


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


def _content_policy(page: str) -> str:
    """Only the page's own script and style run, and nothing is loaded from elsewhere."""

    def hashes(element: str) -> str:
        found = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in found)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
