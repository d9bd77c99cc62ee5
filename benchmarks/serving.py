"""``nextify serve`` against the bare batch loop, LitServe and BentoML, with the same network and preprocessing.

Closed loop: each of ``--clients`` connections sends a JPEG as soon as it has an answer. Open loop: requests arrive at
random (Poisson) at ``--load`` of the bare loop's images/s, whether or not others are answered, and time counts from the
moment a request was due. ``--soak MINUTES`` keeps up the open loop against ours alone, with photos of many sizes and
some that are cut, and prints what the server's processes hold each minute. The bare loop decodes, prepares and
classifies the same JPEGs in batches, with all threads.
Servers run one after the other, ours first and last; peers that are not installed are left out.

Command:  python benchmarks/serving.py BUNDLE --seconds 20
Results:  docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import io
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from nextify.data.decode import decode
from nextify.data.preprocessing import normalized
from nextify.deploy.runners import open_runner
from nextify.system.environment import cores, describe

COMMON = """
import os, numpy as np, torch
from nextify.data.decode import decode
from nextify.data.preprocessing import normalized
from nextify.deploy.runners import open_runner
BATCH, WAIT, PORT = int(os.environ["BATCH"]), float(os.environ["WAIT"]), int(os.environ["PORT"])

def opened():
    return open_runner(os.environ["BUNDLE"], threads=int(os.environ["THREADS"]))

def run(runner, pixels):
    settings = runner.preprocessing
    x = normalized(torch.from_numpy(np.stack(pixels)), torch.device("cpu"), settings.mean, settings.std)
    return torch.from_numpy(runner(x.numpy())).softmax(-1).numpy()
"""
LITSERVE = """
import base64
import litserve

class API(litserve.LitAPI):
    def setup(self, device):
        self.runner = opened()
    def decode_request(self, request):
        return self.runner.preprocessing.pixels(decode(base64.b64decode(request["image"]))).numpy()
    def batch(self, inputs):
        return inputs
    def predict(self, pixels):
        return run(self.runner, pixels)
    def unbatch(self, rows):
        return list(rows)
    def encode_response(self, row):
        return {"index": int(row.argmax()), "probability": float(row.max())}

if __name__ == "__main__":
    api = API(max_batch_size=BATCH, batch_timeout=WAIT / 1000)
    litserve.LitServer(api, accelerator="cpu", timeout=120).run(
        port=PORT, host="127.0.0.1", generate_client_file=False, log_level="error")
"""
BENTOML = """
import io
from pathlib import Path
import bentoml

@bentoml.service(workers=1, traffic={"timeout": 120, "max_concurrency": 4096})
class Network:
    def __init__(self):
        self.runner = opened()
    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=60_000)
    def rows(self, pixels: np.ndarray) -> np.ndarray:
        return run(self.runner, pixels)

@bentoml.service(workers=1, traffic={"timeout": 120, "max_concurrency": 4096})
class Front:
    network = bentoml.depends(Network)
    def __init__(self):
        self.settings = opened().preprocessing
    @bentoml.api(route="/predict")
    async def predict(self, image: Path, /) -> dict:
        row = (await self.network.to_async.rows(self.settings.pixels(decode(image.read_bytes())).numpy()[None]))[0]
        return {"index": int(row.argmax()), "probability": float(row.max())}
"""


def photos(count: int) -> list[bytes]:
    """JPEGs of smooth random pictures, 500×375."""
    found = []
    for seed in range(count):
        small = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        found.append(buffer.getvalue())
    return found


def bare(bundle: str, images: list[bytes], batch: int, seconds: float) -> tuple[float, float]:
    """Images/s of the loop, and the median seconds of a batch in the network."""
    runner, times, done = open_runner(bundle, threads=cores()), list[float](), 0
    settings, began = runner.preprocessing, 0.0
    while not began or time.perf_counter() - began < seconds:
        pixels = [settings.pixels(decode(images[(done + i) % len(images)])) for i in range(batch)]
        x = normalized(torch.stack(pixels), torch.device("cpu"), settings.mean, settings.std).numpy()
        started = time.perf_counter()
        runner(x)
        if began:
            times.append(time.perf_counter() - started)
            done += batch
        else:
            began = time.perf_counter()  # the first batch only warms up
    return done / (time.perf_counter() - began), statistics.median(times)


@contextmanager
def server(name: str, options: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """A server's port, once it answers, and its process group."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {
        "BUNDLE": options.bundle,
        "BATCH": str(options.batch),
        "WAIT": str(options.wait_ms),
        "PORT": str(port),
        "THREADS": str(cores()),
    }
    with TemporaryDirectory() as folder:
        ours = ("-m", "nextify", "serve", options.bundle, "--port", str(port), *options.serve)
        limits = ("--max-batch", str(options.batch), "--max-wait-ms", str(options.wait_ms), "--queue", "4096")
        commands = {
            "nextify": [*ours, *limits],
            "litserve": ["service.py"],
            "bentoml": ["-m", "bentoml", "serve", "service:Front", "--port", str(port), "--host", "127.0.0.1"],
        }
        Path(folder, "service.py").write_text(COMMON + {"litserve": LITSERVE, "bentoml": BENTOML}.get(name, ""))
        with open(Path(folder, "log"), "w+") as log:
            process = subprocess.Popen(
                [sys.executable, *commands[name]],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                started = time.monotonic()
                while not (answers := asyncio.run(_answers(port, name))) and process.poll() is None:
                    if time.monotonic() - started > 90:
                        break
                    time.sleep(0.2)
                if not answers:
                    log.seek(0)
                    raise RuntimeError(f"{name} does not answer:\n{log.read()[-2000:]}")
                yield port, process.pid
            finally:
                for number in (signal.SIGTERM, signal.SIGKILL):
                    try:
                        os.killpg(process.pid, number)
                        process.wait(15)
                    except (ProcessLookupError, subprocess.TimeoutExpired):
                        pass


async def _answers(port: int, name: str) -> bool:
    try:
        connection = Connection(port, name)
        status = await asyncio.wait_for(connection.post(photos(1)[0]), 30)
        connection.close()
        return status == 200
    except (OSError, EOFError, ValueError, TimeoutError):
        return False


class Connection:
    """One keep-alive connection to a server. LitServe takes JSON only, the others an image's bytes."""

    def __init__(self, port: int, name: str) -> None:
        self.port, self.name = port, name
        self.writer: asyncio.StreamWriter | None = None

    async def post(self, body: bytes) -> int:
        """The status of the answer."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        kind = "image/jpeg"
        if self.name == "litserve":
            kind, body = "application/json", json.dumps({"image": base64.b64encode(body).decode()}).encode()
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        await self.reader.readexactly(int(fields["content-length"]))
        if fields.get("connection") == "close":
            self.close()
        return int(lines[0].split()[1])

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


New = Callable[[], Connection]


async def closed_loop(new: New, images: list[bytes], clients: int, seconds: float) -> tuple[float, list[float]]:
    """Images/s, and the seconds of each answer."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        connection = new()
        while (started := time.perf_counter()) < end:
            if await connection.post(images[number % len(images)]) == 200 and time.perf_counter() < end:
                times.append(time.perf_counter() - started)
            number += 1
        connection.close()

    await asyncio.gather(*(client(i) for i in range(clients)))
    return len(times) / seconds, times


async def open_loop(new: New, images: list[bytes], rate: float, seconds: float) -> list[float]:
    """The seconds of each answer since its request was due; infinite for a refusal."""
    rng, idle, times = random.Random(0), list[Connection](), list[float]()

    async def one(due: float, body: bytes) -> None:
        connection = idle.pop() if idle else new()
        try:
            good = await connection.post(body) == 200
        except (OSError, EOFError):
            good = False
            connection.close()
        times.append(time.perf_counter() - due if good else float("inf"))
        idle.append(connection)

    due, end, tasks = time.perf_counter(), time.perf_counter() + seconds, []
    while due < end:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(due, images[len(tasks) % len(images)])))
        due += rng.expovariate(rate)
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return times


def held(group: int) -> float:
    """MiB that the processes of a group hold; a page they share counts once."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == group:
                rollup = (process / "smaps_rollup").read_text()
                total += int(rollup.split("\nPss:", 1)[1].split()[0])
        except (OSError, IndexError):
            pass  # it has just ended
    return total / 1024


def soak(options: argparse.Namespace, rate: float) -> None:
    """Serve for ``--soak`` minutes, and print each minute what the server holds."""
    pictures = photos(8)
    for number, side in enumerate((32, 100, 333, 800, 1500)):
        buffer = io.BytesIO()
        Image.open(io.BytesIO(pictures[number])).resize((side, side * 3 // 4)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    pictures.append(pictures[0][: len(pictures[0]) // 2])
    with server("nextify", options) as (port, group):
        for minute in range(1, options.soak + 1):
            due = asyncio.run(open_loop(partial(Connection, port, "nextify"), pictures, rate, 60.0))
            answered = int(np.isfinite(due).sum())
            print(f"minute {minute}: {answered} of {len(due)} answered, {held(group):.0f} MiB held", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", help="a bundle, an export, or any weights that nextify serve takes")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--wait-ms", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--load", type=float, default=0.8, help="open loop, as a share of the bare loop's images/s")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--servers", nargs="*", choices=("nextify", "litserve", "bentoml"), help="in this order")
    parser.add_argument("--serve", nargs="*", default=(), help="options of nextify serve, without their dashes")
    parser.add_argument("--soak", type=int, default=0, metavar="MINUTES", help="ours alone, for so long")
    options = parser.parse_args()
    options.serve = [f"--{word}" if i % 2 == 0 else word for i, word in enumerate(options.serve)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which ends the server that runs
    if Path(options.bundle).exists():
        options.bundle = str(Path(options.bundle).resolve())

    images = photos(32)
    print(describe())
    gc.freeze()  # the load generator's own pauses would count as the server's
    rate, batch_seconds = bare(options.bundle, images, options.batch, options.seconds)
    allowed = 1.3 * (options.wait_ms / 1000 + batch_seconds)
    print(f"bare loop: {rate:.1f} images/s, {1000 * batch_seconds:.1f} ms per batch of {options.batch} in the network")
    print(f"p99 wanted at {options.load:.0%} load: {1000 * allowed:.0f} ms")
    if options.soak:
        soak(options, options.load * rate)
        return
    peers = [name for name in ("litserve", "bentoml") if find_spec(name)]
    for name in options.servers or ("nextify", *peers, "nextify"):
        with server(name, options) as (port, _):
            new = partial(Connection, port, name)
            asyncio.run(closed_loop(new, images, options.clients, min(3.0, options.seconds)))  # warm-up
            found, times = asyncio.run(closed_loop(new, images, options.clients, options.seconds))
            due = 1000 * np.array(asyncio.run(open_loop(new, images, options.load * rate, options.seconds)))
            print(
                f"{name}: closed {found:.1f} images/s ({found / rate:.1%} of bare), p50 "
                f"{1000 * np.median(times or [np.inf]):.0f} ms; open at {options.load * rate:.1f}/s: "
                f"p50 {np.percentile(due, 50, method='higher'):.0f} ms, "
                f"p99 {np.percentile(due, 99, method='higher'):.0f} ms, "
                f"{int(np.isinf(due).sum())} of {len(due)} refused",
                flush=True,
            )


if __name__ == "__main__":
    main()
