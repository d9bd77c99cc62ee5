"""Running ``nextify serve``."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import uvicorn
from PIL import Image

from nextify.cli.options import refuse_for_dense
from nextify.data.decode import quiet
from nextify.deploy.runners import device_for
from nextify.deploy.serve.app import Settings, create_app
from nextify.deploy.serve.workers import InProcess, Process, open_network
from nextify.system.environment import cores
from nextify.system.files import followed
from nextify.training.trial import runtime
from nextify.weights.bundle import DenseAbout, stated

if TYPE_CHECKING:
    from nextify.cli.serve import Options


def serve(options: Options, listener: socket.socket) -> None:
    """Answer until a signal asks to stop."""
    machine, workers = options.machine, options.workers
    if isinstance(about := stated(options.bundle), DenseAbout):
        refuse_for_dense(about.task, {"--class-order": options.class_order})
    device = runtime(device_for(options.bundle, machine.device)).device
    if workers is None:
        workers = max(1, min(4, cores() // (machine.threads or 1))) if device == "cpu" else 1
    threads = machine.threads or max(1, cores() // max(1, workers))
    opening = partial(
        open_network,
        str(followed(options.bundle)),  # so that a worker that is started again finds the same where latest moves on
        device=device,
        threads=threads,
        kernels=machine.kernels,
        class_order=options.class_order,
    )
    Image.MAX_IMAGE_PIXELS = options.max_pixels // 2  # Pillow refuses twice as many
    settings = Settings(
        max_batch=options.max_batch,
        max_wait_ms=options.max_wait_ms,
        queue=options.queue,
        max_bytes=options.max_bytes,
        timeout=options.timeout,
        token=options.token or os.environ.get("NEXTIFY_TOKEN", ""),
    )
    processes = [Process(opening, prepares=device == "cpu" and threads == 1) for _ in range(workers)]
    app = create_app(processes or [InProcess(opening)], settings, options.name)
    host, port = listener.getsockname()[:2]
    place = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    grace = int(2 * options.timeout) + 1
    # 75 s is longer than proxies keep idle connections, so none is closed here just as a request arrives on it.
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=grace, timeout_keep_alive=75
    )
    # Quiet, as threads decode images; uvicorn has stopped in good order when it raises the signal again.
    with quiet(), suppress(KeyboardInterrupt):
        _Server(config, f"serving {options.bundle} at {place}; Ctrl-C stops").run([listener])


class _Server(uvicorn.Server):
    """Prints a line once it accepts requests and signals: one that came sooner would not end it in good order."""

    def __init__(self, config: uvicorn.Config, line: str) -> None:
        super().__init__(config)
        self.line = line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self.line, flush=True)
