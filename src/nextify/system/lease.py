"""Who works in a folder: file locks, and leases on a shared disk, where locks may not reach the next machine.

Whoever wants the folder writes a file of its own into it and then looks for others: it has the folder if no other lease
is alive, and withdraws otherwise. Of two that come at once, at least one sees the other. The holder touches its file
every ``BEAT`` seconds. A lease is dead once its process is, as far as this machine can tell, and at the latest when it
has not been touched for ``STALE`` seconds by the disk's own clock; the clocks of the machines need not agree.
"""

import contextlib
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nextify.system.files import UnusableFolder, check_regular, parse_json, write_json_atomic

BEAT = 10.0
"""Seconds between two signs of life."""
STALE = 60.0
"""Seconds without one after which a lease may be taken over."""
PREFIX = ".lease-"


class LeaseLost(RuntimeError):
    """The folder was taken over, since this process gave no sign of life for ``STALE`` seconds."""


class Lease:
    """A lease that this process holds; :func:`leased` makes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()

    def check(self) -> None:
        """Raises ``LeaseLost`` where another process has taken the folder over."""
        if not self.path.exists():
            raise LeaseLost(f"{self.path.parent} was taken over: there was no sign of life for {STALE:g} seconds")

    def end(self) -> None:
        """Free the folder."""
        self._ended.set()
        self._beating.join(BEAT)
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):  # a disk that is away for a moment; a lease that is gone, check finds
                os.utime(self.path)


@contextlib.contextmanager
def leased(folder: Path, wait: bool = False) -> Iterator[Lease]:
    """Hold the folder on behalf of this process among all machines that see it; ``wait`` until it is free, or its
    holder is dead. Raises ``UnusableFolder`` where another process holds it and this one does not wait, and ``OSError``
    where the lease cannot be written."""
    path = folder / f"{PREFIX}{secrets.token_hex(8)}"
    while True:
        write_json_atomic(path, {"host": _host(), "pid": os.getpid()})
        holder = another_holder(folder, path)
        if holder is None:
            break
        path.unlink(missing_ok=True)
        if not wait:
            raise UnusableFolder(holder)
        time.sleep(random.uniform(0.2, 1.0))
    lease = Lease(path)
    try:
        yield lease
    finally:
        lease.end()


@contextlib.contextmanager
def taken(folder: Path) -> Iterator[None]:
    """Hold the folder for this process alone; the system frees it when the process dies.

    A disk without file locks gets a lease, and leases of other machines are respected. Raises ``UnusableFolder`` where
    another process has it, or it holds a pipe or device.
    """
    check_regular(folder.iterdir())
    try:
        import fcntl
    except ImportError:  # Windows: no lock, the user's care
        yield
        return
    file: IO[str]
    with open(folder / ".lock", "w") as file:
        for last in (False, True):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if last:
                    message = f"{folder} is in use by another run; wait for it, or choose another --out"
                    raise UnusableFolder(message) from error
            except OSError:  # a shared disk without locks
                with leased(folder):
                    yield
                return
            time.sleep(0.05)  # a listing of runs holds it for a moment
        try:
            if (holder := another_holder(folder)) is not None:
                raise UnusableFolder(holder)
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # for workers too, which have the file open until they end


def another_holder(folder: Path, ours: Path | None = None) -> str | None:
    """Who else holds a folder, as a message to its user; None for nobody. Removes dead leases. ``ours``: a lease of
    this process that was just written, which tells the disk's time."""
    others = [path for path in folder.glob(f"{PREFIX}*") if path != ours]
    if not others:
        return None
    clock = ours or folder / ".lock"
    if ours is None:
        clock.touch()
    now = clock.stat().st_mtime
    for path in others:
        try:
            with open(path, encoding="utf-8") as file:  # opened, since NFS then asks its server for the time anew
                silent, content = now - os.fstat(file.fileno()).st_mtime, parse_json(file.read())
            host, pid = str(content["host"]), int(content["pid"])
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise UnusableFolder(f"{path} is not a nextify lease ({error}): remove it") from error
        here = host == _host()
        if here and pid == os.getpid():  # of this run, around this one
            continue
        if silent > STALE or (here and not _alive(pid)):
            path.unlink(missing_ok=True)
            continue
        name = host.partition(" ")[0]
        return (
            f"{folder} is in use by process {pid} on {name}; wait for it, or, if it is dead, {STALE:g} seconds from "
            f"its end, or choose another --out"
        )
    return None


def _host() -> str:
    """This machine and, where there are such, its space of process numbers."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
