"""Kill trainings, studies, evaluations and reports at random moments: is anything lost, is anything different?

One process imports nextify once and forks each command from there, so that a life costs a fraction of a second. A
random time later it sends SIGKILL, SIGTERM or SIGINT, waits until every process of the command is gone, checks that
each file is whole and that no training fell behind its last checkpoint, and gives the same command again. When a
command has come to its end, what it leaves is compared with what an undisturbed run left: weights bit for bit, the
figures, every file of a report. Then the next folder begins.

Unlike the real commands, those here are forked from a process that has imported torch, and so are the workers of a
study, which otherwise come from a server process of their command.

Command:  OMP_NUM_THREADS=1 python benchmarks/kills.py
Runtime:  about 20 minutes on one core. Results: docs/reliability.md.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open

import nextify.cli
from nextify.evaluation.pictures import curves_picture
from nextify.system.environment import describe
from nextify.training.checkpoint import before, load_checkpoint

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
PATIENCE = 60
"""Seconds after which a command that was told to stop counts as hanging."""
DIFFERS = (
    "seconds",
    "images_per_second",
    "peak_memory_mib",
    "environment",
    "command",
    "provenance",
    "started",
    "finished",
    "runtime",
)
"""Keys of JSON files that differ between two undisturbed runs."""
NETWORK = ("--set", "depths=1,1", "--set", "widths=8,16", "--set", "stage_strides=1,2", "--set", "stem=patchify4")
COMMON = ("--scale", "tiny", "--device", "cpu", "--threads", "1", "--checkpoint-seconds", "0")
TRAINING = (
    *("train", "convnext_atto", *COMMON, *NETWORK, "--epochs", "4", "--evaluations", "1", "--set", "batch_size=8"),
    *("--set", "ema=0.9", "--set", "mixing.mixup=0.8", "--set", "calibration=0.2"),
)
STUDY = (
    *("roadmap", *COMMON, "--seeds", "1", "--epochs", "1", "--steps", "baseline", "separate_downsampling"),
    *("--side-by-side", "1"),
)
EVALUATION = ("--device", "cpu", "--threads", "1")
PER_CLASS = 40
"""Images of each of two classes."""


@dataclass
class Case:
    """What is killed."""

    name: str
    share: float
    """Of all kills."""
    run: Callable[[Path], int]
    processes: int = 1
    resumes: bool = True
    """Whether a life goes on where the last one stopped; otherwise it begins again."""
    timed: tuple[str, ...] = ()
    """Names of files that hold times, and so differ between any two runs."""


def make_images(folder: Path) -> Path:
    """An image folder of two classes, told apart by their brightness."""
    random = np.random.default_rng(0)
    for number, name in enumerate(("bright", "dark")):
        (folder / name).mkdir(parents=True)
        for i in range(PER_CLASS):
            pixels = random.integers(0, 160, (16, 16, 3)) + 90 * (1 - number)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def command(data: Path, *arguments: str) -> Callable[[Path], int]:
    return lambda out: nextify.cli.main([*arguments, "--data", str(data), "--out", str(out)])


def report_of(results: Path) -> Callable[[Path], int]:
    def run(out: Path) -> int:
        from nextify.report import StudyResults, write

        write(StudyResults.read(results), out)
        return 0

    return run


# -- one life ------------------------------------------------------------------------------------------------------


def fork(case: Case, out: Path, log: Path) -> list[int]:
    """Start the processes of a command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(case.processes):
        pid = os.fork()
        if pid:
            pids.append(pid)
            continue
        code = 1
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            if case.processes > 1:
                world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
                os.environ |= {name: str(value) for name, value in world.items()} | {"MASTER_ADDR": "127.0.0.1"}
            code = case.run(out)
        except KeyboardInterrupt:  # before or after the command's own handling
            code = 130
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return pids


def ended(pids: list[int]) -> dict[int, int]:
    """Exit codes, once every process is gone, orphans included.

    As torchrun does, though less patiently, those whose companion has failed are sent SIGTERM and then SIGKILL.

    Raises:
        TimeoutError: they do not end; they are killed.
    """
    codes: dict[int, int] = {}
    deadline = time.monotonic() + PATIENCE
    failed: float | None = None
    sent: set[int] = set()
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return {pid: codes[pid] for pid in pids}
        now = time.monotonic()
        if pid:
            codes[pid] = os.waitstatus_to_exitcode(status)
            if pid in pids and codes[pid] and failed is None:
                failed = now
            continue
        open_ones = [pid for pid in pids if pid not in codes]
        if now > deadline:
            for pid in open_ones:
                os.kill(pid, signal.SIGKILL)
            raise TimeoutError(f"still running after {PATIENCE} s")
        for after, how in ((1, signal.SIGTERM), (4, signal.SIGKILL)):
            if failed is not None and now - failed > after and how not in sent:
                sent.add(how)
                for pid in open_ones:
                    os.kill(pid, how)
        time.sleep(0.002)


# -- what is left --------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """JSON without what differs between any two runs."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if key not in DIFFERS}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def content(path: Path) -> object:
    """What a file holds; raises for one that is not whole."""
    if path.suffix == ".json":
        return plain(json.loads(path.read_text("utf-8")))
    if path.suffix == ".jsonl":
        return [plain(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    if path.suffix == ".safetensors":
        with safe_open(path, framework="np") as file:
            return {key: hashlib.sha256(file.get_tensor(key).tobytes()).hexdigest() for key in sorted(file.keys())}
    data = path.read_bytes()
    if path.suffix == ".png" and not data.endswith(b"IEND\xaeB`\x82"):
        raise ValueError(f"{path} is cut")
    return hashlib.sha256(data).hexdigest()


def files(out: Path) -> Iterator[Path]:
    return (path for path in sorted(out.rglob("*")) if path.is_file() and not path.name.startswith("."))


def left(out: Path, case: Case) -> dict[str, object]:
    """What a finished command leaves, file by file."""
    return {str(path.relative_to(out)): path.name in case.timed or content(path) for path in files(out)}


def check_whole(out: Path) -> int:
    """Steps taken by all checkpoints and finished trainings together; raises for a file that is not whole."""
    steps = 0
    for path in files(out):
        if path.name == "log.jsonl":
            continue  # a line of it may be cut: it is written again from the checkpoint
        if path.name in ("checkpoint.pt", "checkpoint.pt.before"):
            state = load_checkpoint(path if path.suffix == ".pt" else before(path.with_suffix("")))
            if state is None:
                raise ValueError(f"{path} is not whole")
        elif ".pt" not in path.suffixes:
            content(path)
    for folder in {path.parent for path in out.rglob("result.json")} | {path.parent for path in out.rglob("*.pt*")}:
        state = None if (folder / "result.json").exists() else load_checkpoint(folder / "checkpoint.pt")
        steps += 10**6 if (folder / "result.json").exists() else 0 if state is None else state["step"]
    return steps


# -- many lives ----------------------------------------------------------------------------------------------------


def measure(case: Case, kills: int, root: Path, chance: random.Random, until: float) -> dict[str, Any]:
    """Kill a command ``kills`` times, and compare what it leaves whenever it comes to its end."""
    whole, log = root / f"{case.name}-whole", root / f"{case.name}.log"
    began = time.monotonic()
    codes = ended(fork(case, whole, log))
    if set(codes.values()) != {0}:
        raise SystemExit(f"{case.name} does not run: {log.read_text()[-2000:]}")
    span = time.monotonic() - began
    expected = left(whole, case)
    counts: Counter[str] = Counter()
    problems: list[str] = []
    number, reached = 0, 0
    while counts["kills"] < kills and time.monotonic() < until:
        out = root / f"{case.name}-{number}"
        log.write_text("")
        pids = fork(case, out, log)
        start, delay = time.monotonic(), chance.uniform(0, span)
        while (lived := time.monotonic() - start) < delay:
            if all(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) for pid in pids):
                span = 0.7 * span + 0.3 * lived  # it had ended: kill earlier
                break
            time.sleep(0.002)
        how = SIGNALS[counts["kills"] % 3]
        hit = pids if case.processes > 1 and chance.random() < 0.5 else [chance.choice(pids)]
        for pid in hit:
            os.kill(pid, how)  # a process that has ended is a zombie until it is waited for
        try:
            codes = ended(pids)
        except TimeoutError as error:
            problems.append(f"{error} after {how.name}: {log.read_text(errors='replace')[-1500:]}")
            codes = dict.fromkeys(pids, -signal.SIGKILL)
        if set(codes.values()) != {0}:
            counts["kills"] += 1
            counts[how.name] += 1
        text = log.read_text(errors="replace")
        fine = {0, 130, -how} | ({1, -signal.SIGTERM, -signal.SIGKILL} if case.processes > 1 else set())
        if "Traceback" in text or not set(codes.values()) <= fine:
            problems.append(f"life ended with {sorted(codes.values())} after {how.name}: {text[-1500:]}")
        try:
            steps = check_whole(out)
        except Exception as error:
            problems.append(f"after {how.name}: {type(error).__name__}: {error}")
            steps = 0
        if case.resumes and steps < reached:
            problems.append(f"fell from step {reached} to {steps} after {how.name}")
        reached = steps
        if set(codes.values()) == {0} or (not case.resumes and counts["lives"] % 3 == 2):
            if set(codes.values()) != {0}:
                codes = ended(fork(case, out, log))
            found = left(out, case)
            if found != expected:
                names = [name for name in {*found, *expected} if found.get(name) != expected.get(name)]
                problems.append(f"differs from the undisturbed run: {sorted(names)[:8]}")
            hidden = [path for path in out.rglob(".*") if path.is_file() and path.name != ".lock"]
            counts["leftovers"] += len(hidden)
            counts["compared"] += 1
            shutil.rmtree(out)
            number, reached = number + 1, 0
        counts["lives"] += 1
        if counts["lives"] % 20 == 0:
            print(
                f"{case.name}: {counts['kills']} kills, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True
            )
    signals = {how.name: counts[how.name] for how in SIGNALS}
    return {
        "case": case.name, "processes": case.processes, "kills": counts["kills"], **signals,
        "compared": counts["compared"], "leftovers": counts["leftovers"], "seconds of a life": round(span, 2),
        "seconds": round(time.monotonic() - began), "problems": problems,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60, help="leave out the kills for which this is too short")
    parser.add_argument("--cases", nargs="*", help="names of cases; all by default")
    options = parser.parse_args()
    for name in ("train", "training", "roadmap", "study", "evaluate", "progress"):
        __import__(f"nextify.cli.{name}")
    for name in ("evaluation.evaluate", "report.files", "networks.network", "training.muon", "weights.hub"):
        __import__(f"nextify.{name}")
    for name in ("matplotlib.figure", "scipy.stats", "scipy.optimize", "sklearn.datasets", "torch.distributed"):
        __import__(name)
    # What a first picture and a first command make and keep: fonts, and what tyro knows of the options.
    curves_picture([{"epoch": 1, "train_loss": 1.0, "test_top1": 50.0}], "a title")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        for name in ("train", "roadmap", "evaluate"):
            nextify.cli.main([name, "--help"])
    Image.init()
    ctypes.CDLL(None).prctl(36, 1)  # orphans become children of this process, which waits for them
    forked = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: forked  # type: ignore[assignment]
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = make_images(root / "images")
        training, study = command(data, *TRAINING), command(data, *STUDY)
        for name, run in (("bundle", training), ("study", study)):
            codes = ended(fork(Case(name, 0, run), root / name, root / f"{name}.log"))
            if set(codes.values()) != {0}:
                raise SystemExit(f"{name} does not run: {codes} {(root / f'{name}.log').read_text()[-3000:]}")
        (bundle,) = (root / "bundle").glob("*/bundle")
        evaluation = command(data, "evaluate", str(bundle), *EVALUATION)
        cases = [
            Case("training", 0.5, training),
            Case("training, 2 processes", 0.15, training, processes=2),
            Case("study", 0.1, study, timed=("results.csv", "report.html", "roadmap.svg", "roadmap.png")),
            Case("evaluation", 0.12, evaluation, resumes=False),
            Case("evaluation, 2 processes", 0.03, evaluation, processes=2, resumes=False),
            Case("report", 0.1, report_of(root / "study" / "results.json"), resumes=False),
        ]
        rows = []
        for case in cases:
            if not options.cases or case.name in options.cases:
                until = time.monotonic() + 60 * options.minutes * case.share
                rows.append(measure(case, round(options.kills * case.share), root, chance, until))
                print(json.dumps(rows[-1]), flush=True)
    total = sum(row["kills"] for row in rows)
    problems = sum(len(row["problems"]) for row in rows)
    print(f"{total} kills, {sum(row['compared'] for row in rows)} results compared, {problems} problems")
    print(json.dumps(describe()))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
