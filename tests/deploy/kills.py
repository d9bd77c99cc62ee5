"""A server under fire: random kills of its workers, clients that leave, garbage, and SIGTERM at the end.

Every request waits for ``100 Continue``, by which the server accepts it, before it sends its body; each one that then
stays has to be answered, with its own result. As a script: ``python -m tests.deploy.kills --requests 10000``.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from nextify.deploy.runners import predict
from nextify.evaluation.predict import Prediction
from tests.helpers import tiny_bundle

CLASSES = tuple(f"class {i}" for i in range(12))
IMAGES, CLIENTS = 40, 24


def photo(seed: int) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((60, 40), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def grandchildren(process: int) -> list[int]:
    """The workers: processes forked by the fork server, which the server started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    children = {child for child, parent in parents.items() if parent == process}
    return [child for child, parent in parents.items() if parent in children]


def memory(process: int) -> int:
    """Resident MiB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) // 1024  # type: ignore[index]


async def request(port: int, body: bytes, leaves: str = "") -> tuple[bool, int, bytes]:
    """Whether the server accepted a request, its status (0: no answer) and the answer's body.

    ``leaves``: the client goes after ``half`` of the body, or after ``all`` of it.
    """
    accepted, status, content = False, 0, b""
    writer = None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /predict?top=3 HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nConnection: close\r\n"
            b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        accepted = b" 100 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(body[: len(body) // 2] if leaves == "half" else body)
        await writer.drain()
        if not leaves:
            answer = await reader.read()
            head, _, content = answer.partition(b"\r\n\r\n")
            status = int(head.split()[1]) if head else 0
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        if writer is not None:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
    return accepted, status, content


def agrees(content: bytes, expected: Prediction) -> bool:
    classes = json.loads(content)["predictions"][0]["classes"]
    given = [(guess["index"], guess["probability"]) for guess in classes]
    return all(
        index == guess.index and abs(probability - guess.probability) < 1e-3
        for (index, probability), guess in zip(given, expected.guesses[:3], strict=True)
    )


async def fire(folder: Path, requests: int, workers: int, seed: int = 0) -> Counter[str]:
    """Counts of what happened; every key that starts with ``WRONG`` must be absent."""
    bundle = tiny_bundle(folder / "bundle", CLASSES, 24, 0.75, sharpness=200)
    photos = [photo(i) for i in range(IMAGES)]
    expected = list(predict(bundle, [Image.open(io.BytesIO(data)) for data in photos], top=3, threads=1))
    options = ("--port", "0", "--workers", str(workers), "--threads", "1", "--device", "cpu", "--queue", "1000")
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nextify", "serve", str(bundle), *options), stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    said = (await server.stdout.readline()).decode()
    port = int(re.search(r":(\d+);", said)[1])  # type: ignore[index]
    counts: Counter[str] = Counter()
    rng, left = random.Random(seed), iter(range(requests))
    stopping = asyncio.Event()

    async def client() -> None:
        for number in left:
            which, kind, leaves = rng.randrange(IMAGES), rng.random(), ""
            body = photos[which]
            if kind < 0.06:
                body = rng.choice((rng.randbytes(300), body[: len(body) // 2], b"\x89PNG\r\n\x1a\n" * 9))
            elif kind < 0.12:
                leaves = rng.choice(("half", "all"))
            if number == requests // 10:
                counts["MiB of the server after a tenth"] = memory(server.pid)
            if number == requests - 2 * CLIENTS:
                counts["MiB of the server before SIGTERM"] = memory(server.pid)
                server.terminate()
                stopping.set()
            accepted, status, content = await request(port, body, leaves)
            if leaves:
                counts["left"] += 1
            elif not accepted:
                counts["not accepted after SIGTERM" if stopping.is_set() else "WRONG: not accepted"] += 1
            elif kind < 0.06:
                counts["garbage refused" if status == 400 else f"WRONG: garbage got {status}"] += 1
            elif status != 200:
                counts[f"WRONG: accepted and got {status}"] += 1
            else:
                counts["answered" if agrees(content, expected[which]) else "WRONG: another's result"] += 1

    async def killer() -> None:
        while not stopping.is_set():
            await asyncio.sleep(rng.uniform(0.1, 1.2))
            if found := grandchildren(server.pid):
                with suppress(ProcessLookupError):
                    os.kill(rng.choice(found), signal.SIGKILL)
                    counts["workers killed"] += 1

    kills = asyncio.create_task(killer())
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    code = await asyncio.wait_for(server.wait(), 60)
    kills.cancel()
    if code != 0:
        counts[f"WRONG: exit code {code}"] += 1
    if grandchildren(server.pid):
        counts["WRONG: workers outlive the server"] += 1
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts = asyncio.run(fire(Path(folder), given.requests, given.workers, given.seed))
    for name, count in sorted(counts.items()):
        print(f"{count:7,}  {name}")
    print(f"{given.requests:,} requests in {time.monotonic() - started:.0f} s")
    return any(name.startswith("WRONG") for name in counts)


if __name__ == "__main__":
    sys.exit(main())
