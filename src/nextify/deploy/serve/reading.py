"""What a request brings: encoded images in a body of one of three kinds, a parameter, and what it wants back.

Whatever is wrong raises ``HTTPException`` with one line for the client.
"""

import asyncio
import base64
import math
import re
from collections.abc import AsyncIterator

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from nextify.deploy.serve.tasks import Parameter
from nextify.system.files import parse_json
from nextify.system.text import shortened

UNTYPED = ("", "application/octet-stream", "application/x-www-form-urlencoded")
"""Content types of clients that were told none; the last is what ``curl --data-binary`` sends."""


async def read_body(request: Request, most: int, timeout: float) -> bytes:
    """At most so many bytes, in at most so many seconds."""
    data = bytearray()
    try:
        async with asyncio.timeout(timeout):
            async for chunk in request.stream():
                data += chunk
                if len(data) > most:
                    raise HTTPException(413, f"a request has at most {most:,} bytes")
    except TimeoutError:
        raise HTTPException(408, f"the request took more than {timeout:g} s to arrive") from None
    return bytes(data)


async def read_images(request: Request, body: bytes, *, one: bool = False) -> list[bytes]:
    """The encoded images of a request, at least one, or exactly ``one``."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
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


def read_parameter(request: Request, parameter: Parameter | None) -> float | None:
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


def asks_for_png(request: Request) -> bool:
    weights: dict[str, float] = {}
    for one in ",".join(request.headers.getlist("accept")).lower().split(","):
        kind, *parameters = map(str.strip, one.split(";"))
        given = [float(found[1]) for text in parameters if (found := re.fullmatch(r"q=([01](?:\.[0-9]{0,3})?)", text))]
        weights[kind] = min(given, default=1.0)
    return weights.get("image/png", 0.0) > weights.get("application/json", 0.0)
