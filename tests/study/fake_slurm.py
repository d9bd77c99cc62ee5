"""A stand-in for Slurm on one machine: sbatch, srun, sacct, scancel and scontrol, as far as submitit uses them.

Its jobs' states, process numbers and wishes to be queued again are files in ``$FAKE_SLURM``.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(os.environ["FAKE_SLURM"])


def sbatch(script: str) -> None:
    text = Path(script).read_text()
    number = 100 + len(list(HERE.glob("*.job")))
    (HERE / f"{number}.job").write_text(text)
    found = re.search(r"#SBATCH --array=0-(\d+)%(\d+)", text)
    for name in names(number, found):
        (HERE / f"{name}.state").write_text("PENDING")
    subprocess.Popen(
        [sys.executable, __file__, "queue", str(number)],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    print(f"Submitted batch job {number}")


def names(number: int, found: re.Match[str] | None) -> list[str]:
    return [f"{number}_{i}" for i in range(int(found[1]) + 1)] if found else [str(number)]


def queue(number: str) -> None:
    script = HERE / f"{number}.job"
    found = re.search(r"#SBATCH --array=0-(\d+)%(\d+)", script.read_text())
    waiting, together = names(int(number), found), int(found[2]) if found else 1
    running: dict[str, subprocess.Popen[bytes]] = {}
    while waiting or running:
        while waiting and len(running) < together:
            name = waiting.pop(0)
            if (HERE / f"{name}.state").read_text() == "CANCELLED":
                continue
            job, _, task = name.partition("_")
            where = {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": task} if task else {}
            environment = {**os.environ, **where, "SLURM_JOB_ID": name, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}
            environment |= {"SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "FAKE_NAME": name}
            (HERE / f"{name}.state").write_text("RUNNING")
            running[name] = subprocess.Popen(["bash", str(script)], env=environment, start_new_session=True)
            (HERE / f"{name}.pid").write_text(str(running[name].pid))
        for name, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[name]
            again = HERE / f"{name}.again"
            if again.exists() and (HERE / f"{name}.state").read_text() != "CANCELLED":
                again.unlink()
                (HERE / f"{name}.state").write_text("PENDING")
                waiting.append(name)
            elif (HERE / f"{name}.state").read_text() != "CANCELLED":
                (HERE / f"{name}.state").write_text("FAILED" if process.returncode else "COMPLETED")
        time.sleep(0.1)


def srun(*arguments: str) -> None:
    command = list(arguments)
    while command[0].startswith("--"):
        command = command[2:] if command[0] in ("--output", "--error") else command[1:]
    with open(HERE / f"{os.environ['FAKE_NAME']}.log", "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.execvp(command[0], command)


def sacct(*arguments: str) -> None:
    print("JobID|State|NodeList")
    for path in HERE.glob("*.state"):
        print(f"{path.stem}|{path.read_text()}|here")


def scancel(*arguments: str) -> None:
    for path in HERE.glob("*.state"):
        if path.stem in arguments or path.stem.partition("_")[0] in arguments:
            if path.read_text() == "RUNNING":
                os.killpg(int((HERE / f"{path.stem}.pid").read_text()), signal.SIGKILL)
            if path.read_text() in ("RUNNING", "PENDING"):
                path.write_text("CANCELLED")


def scontrol(what: str, name: str) -> None:
    assert what == "requeue"
    (HERE / f"{name}.again").touch()


if __name__ == "__main__":
    called, *arguments = sys.argv[1:]
    assert called in ("sbatch", "queue", "srun", "sacct", "scancel", "scontrol")
    globals()[called](*arguments)
