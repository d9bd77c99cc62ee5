"""Processes that work together, as the environment names them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed

from nextify.cli import _explain
from nextify.system import processes
from nextify.system.processes import LaunchError, LostOthers, joined


@pytest.mark.parametrize("there", [(), ("MASTER_ADDR",), ("MASTER_PORT",)])
def test_a_left_over_environment_is_refused(there: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name in there:
        monkeypatch.setenv(name, "1")
    with (
        pytest.raises(LaunchError, match=r"are set but not MASTER_\w+.*: start with torchrun, or unset WORLD_SIZE"),
        joined("cpu"),
    ):
        pass


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("[pair.cc:545] gloo: Connection reset by peer", "process 1 lost contact with the others; one of them failed"),
        ("a bug", None),
    ],
)
def test_a_process_that_loses_the_others_says_so_in_a_line(
    message: str, line: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)

    def fail() -> None:
        monkeypatch.setattr(processes, "count", lambda: 2)
        monkeypatch.setattr(processes, "rank", lambda: 1)
        raise RuntimeError(message)

    with pytest.raises((RuntimeError, LostOthers)) as error, joined("cpu"):
        fail()
    assert _explain(error.value) == line


def test_a_process_whose_others_die_before_they_meet_says_so_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)

    def meet(*_: object, **__: object) -> None:
        raise torch.distributed.DistNetworkError("Broken pipe")

    monkeypatch.setattr(torch.distributed, "init_process_group", meet)
    with pytest.raises(LostOthers) as error, joined("cpu"):
        pass
    assert _explain(error.value) == "process 1 lost contact with the others; one of them failed"


def test_workers_do_not_run_the_script_that_starts_them_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "print('script', flush=True)\n"
        "import sys\n"
        "from nextify.system.processes import worker_context\n"
        "worker = worker_context().Process(target=print, args=('worker',))\n"
        "worker.start()\n"
        "worker.join()\n"
        "assert sys.modules['__main__'].__file__ == __file__ == sys.argv[0]\n"
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (ran.stdout.split(), ran.stderr, ran.returncode) == (["script", "worker"], "", 0)
