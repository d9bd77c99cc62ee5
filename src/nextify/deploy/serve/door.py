"""What surrounds every route: the token, the counts, and the headers and errors that answers share."""

import base64
import hashlib
import hmac
import re
import time

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nextify.deploy.serve.metrics import Metrics

OPEN = ("/", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
"""Paths that need no token; the page asks for one."""


class Door:
    """Checks the token, counts requests, and sets the headers that every answer has."""

    def __init__(self, app: ASGIApp, metrics: Metrics, token: str) -> None:
        """``token``: what ``Authorization: Bearer`` must bring; empty asks for nothing."""
        self.app, self.metrics = app, metrics
        self.wanted = f"Bearer {token}".encode() if token else None

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
        app = self.app
        if self.wanted and scope["path"] not in OPEN and not hmac.compare_digest(given, self.wanted):
            app = error_line(401, "send the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        try:
            await app(scope, receive, answer)
        finally:  # an error that no handler above knows is answered with 500 outside
            endpoint = scope.get("endpoint")
            route = endpoint.__name__ if endpoint else "none"
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - started)


def error_line(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


def content_policy(page: str) -> str:
    """Only the page's own script and style run, and nothing is loaded from elsewhere."""

    def hashes(element: str) -> str:
        found = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in found)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
