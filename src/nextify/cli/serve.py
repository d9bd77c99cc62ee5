"""``nextify serve BUNDLE``: an HTTP server with batching, the Open Inference Protocol, and a page."""

import os
import socket
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from nextify.cli.options import UNSET, ClassNames, Machine, check_weights
from nextify.paper.settings import Range


class PortError(ValueError):
    """An address that cannot be listened on."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Serve a bundle or an export over HTTP: predictions, Open Inference Protocol, metrics, and a page at /.

    Needs pip install 'nextify[serve]'. On SIGTERM or Ctrl-C, it answers the requests it has accepted, then stops.
    """

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """A bundle left by nextify train, a folder of nextify export, or other weights."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines connect."""
    port: Annotated[int, Range(least=0, most=65_535)] = 8000
    """Port to listen on; 0 takes a free one."""
    max_batch: Annotated[int, Range(least=1, most=4096)] = 16
    """Largest number of images in a batch."""
    max_wait_ms: Annotated[float, Range(least=0, most=60_000)] = 5.0
    """Longest time in milliseconds that an image waits for others to fill its batch."""
    workers: Annotated[Annotated[int, Range(least=0, most=256)] | None, UNSET] = None
    """Processes that run the network; 0 runs it in the server's own, which does not survive a crash. Default: 1 with a
    GPU; on a CPU the cores divided by --threads, at most 4, which answer more images per second than one process on all
    cores, but take longer for a single image."""
    queue: Annotated[int, Range(least=1, most=10**6)] = 256
    """Largest number of images accepted but not yet answered; further requests get 503."""
    max_bytes: Annotated[int, Range(least=1, most=2**30)] = 2**25
    """Largest size of a request's body, in bytes."""
    max_pixels: Annotated[int, Range(least=1, most=10**9)] = 50_000_000
    """Largest number of pixels of an image, before it is resized."""
    timeout: Annotated[float, Range(least=0.1, most=86_400)] = 60.0
    """Seconds allowed for a request to arrive, and again for its answer."""
    token: Annotated[str, UNSET] = ""
    """Token that clients must send as Authorization: Bearer TOKEN. Default: $NEXTIFY_TOKEN, or none."""
    name: Annotated[str, UNSET] = ""
    """The model's name in paths and answers. Default: the bundle's."""
    class_order: ClassNames = None
    machine: OmitArgPrefixes[Machine] = Machine()

    def check(self) -> None:
        """Raises ``FileNotFoundError`` for no bundle."""
        check_weights(self.bundle)


def run(options: Options) -> int:
    with listening(options.host, options.port) as listener:  # first: what follows imports torch, which takes long
        from nextify.deploy.runners import needs

        for package in ("starlette", "uvicorn", "python-multipart", "prometheus-client"):
            needs(package, "serve")
        from nextify.cli.serving import serve

        serve(options, listener)
    return 0


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; connections wait in it until the server is ready. Raises ``PortError``."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise PortError(f"cannot listen on {host} port {port} ({reason}): choose another --host or --port") from None
