"""Studies on clusters: leases, what is started again, and the same results from Ray and Slurm, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
import threading
from pathlib import Path

import pytest

from nextify.cli import main
from nextify.study import slurm_engine
from nextify.study.cluster import LOSSES, ClusterEngine, Lost
from nextify.study.cluster_options import minutes, slurm_options
from nextify.study.engine import Advanced, EngineError, Failed, Job, LocalEngine, Probed, Started, Stopped
from nextify.study.store import Store
from nextify.system import lease
from nextify.system.files import UnusableFolder
from nextify.system.lease import LeaseLost, another_holder, leased, taken
from nextify.training.loop import Progress
from nextify.training.probe import Speed
from tests.study.clusters import RUNTIME, Steps, figures, small_study, wait_until

# -- leases ------------------------------------------------------------------------------------------------------------


def foreign(folder: Path, host: str = "elsewhere", pid: int = 1, silent: float = 0.0) -> Path:
    """A lease of another machine, ``silent`` for so many seconds."""
    path = folder / f"{lease.PREFIX}foreign"
    path.write_text(json.dumps({"host": host, "pid": pid}))
    at = path.stat().st_mtime - silent
    os.utime(path, (at, at))
    return path


def test_a_folder_is_one_machines_at_a_time(tmp_path):
    foreign(tmp_path)
    with pytest.raises(UnusableFolder, match="in use by process 1 on elsewhere; wait for it"), leased(tmp_path):
        pass
    with pytest.raises(UnusableFolder, match="elsewhere"), taken(tmp_path):
        pass
    with pytest.raises(UnusableFolder, match="elsewhere"), Store(tmp_path, shared=True):
        pass
    assert len(list(tmp_path.glob(f"{lease.PREFIX}*"))) == 1, "whoever is refused withdraws"


@pytest.mark.parametrize("gone", ["silent", "dead process"])
def test_a_dead_lease_is_taken_over(tmp_path, gone):
    if gone == "silent":
        path = foreign(tmp_path, silent=lease.STALE + 1)
    else:
        path = foreign(tmp_path, lease._host(), pid=2**22 + 1)  # beyond the largest process number
    with leased(tmp_path):
        assert not path.exists()
    assert another_holder(tmp_path) is None
    assert not list(tmp_path.glob(f"{lease.PREFIX}*"))


def test_a_living_process_of_this_machine_keeps_its_lease(tmp_path):
    foreign(tmp_path, lease._host(), os.getppid())
    assert socket.gethostname() in str(another_holder(tmp_path))


def test_who_waits_gets_the_folder_when_it_is_free(tmp_path):
    path = foreign(tmp_path)
    threading.Timer(0.2, path.unlink).start()
    with leased(tmp_path, wait=True) as held:
        held.check()
        held.path.unlink()
        with pytest.raises(LeaseLost, match="was taken over"):
            held.check()


def test_a_lease_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.02)
    with leased(tmp_path) as held:
        os.utime(held.path, (0, 0))
        wait_until(lambda: held.path.stat().st_mtime > 0, 10)


def test_a_disk_without_file_locks_gets_leases(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def no_locks(*arguments: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with taken(tmp_path):
        assert len(list(tmp_path.glob(f"{lease.PREFIX}*"))) == 1
    foreign(tmp_path)
    with pytest.raises(UnusableFolder, match="in use by process 1 on elsewhere"), taken(tmp_path):
        pass


def test_what_is_no_lease_is_named(tmp_path):
    foreign(tmp_path).write_text("[]")
    with pytest.raises(UnusableFolder, match=r"foreign is not a nextify lease .*: remove it"):
        another_holder(tmp_path)


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("90:30", 90), ("4:00:00", 240), ("1-0", 1440), ("1-12:30", 2190), ("0:0:30", 1), ("2-0:0:59", 2880)],
)
def test_slurms_times(text, expected):
    assert minutes(text) == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["partitoin=gpu"], "not known; give NAME=VALUE, each once, of partition, time"),
        (["partition"], "no value"),
        (["qos=a", "qos=b"], "given twice"),
        (["time=soon"], "give minutes, H:M:S or D-H:M:S"),
    ],
)
def test_bad_slurm_options_are_named(given, words):
    with pytest.raises(ValueError, match=words):
        slurm_options(given)


@pytest.mark.parametrize("command", ["roadmap", "attribute"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ray-address", "here:1"], "--ray-address is for --engine ray"),
        (["--slurm", "qos=a"], "--slurm is for --engine slurm"),
    ],
)
def test_options_of_another_engine_are_refused(command, arguments, words, capsys, tmp_path):
    assert main([command, "--out", str(tmp_path), *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("engine", "extra"), [("ray", "ray"), ("slurm", "slurm")])
def test_a_missing_extra_is_one_line(engine, extra, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("nextify.study.cluster_options.find_spec", lambda name: None)
    assert main(["roadmap", "--out", str(tmp_path), "--engine", engine]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--engine {engine} needs a package: pip install 'nextify[{extra}]'" in line


# -- what is started again ---------------------------------------------------------------------------------------------


class Scripted(ClusterEngine):
    """Gives for each job what a script says, one entry each time it is handed over: a step that it reaches before it is
    lost, or its outcome."""

    capacity = 2

    def __init__(self, **script):
        super().__init__(RUNTIME, 2)
        self.script, self.handed, self.stopped = script, [], []

    def close(self):
        self.stopped += [job.key for job in self._running.values()]
        self._running.clear()

    def _hand_over(self, jobs):
        assert len(self._running) + len(jobs) <= self.capacity
        self.handed += [job.key for job in jobs]
        return [(job.key, len(self.handed), i) for i, job in enumerate(jobs)]

    def _look(self, on_event):
        for handle, job in list(self._running.items()):
            entry = self.script[job.key].pop(0)
            if isinstance(entry, int):
                on_event(Started(job.key))
                if entry >= 0:
                    on_event(Advanced(job.key, Progress(entry, 10, 1.0)))
                yield handle, Lost()
            else:
                yield handle, entry


def ran(engine):
    jobs = [Job(key, None, None, Path(key)) for key in engine.script]
    events = []
    with engine:
        engine.run(jobs, events.append)
    return events


def test_a_lost_trial_is_started_again_and_its_start_told_once():
    engine = Scripted(a=[3, 5, Failed("a", "diverged")], b=[Probed("b", Speed(1.0, 1.0, 1))], c=[0, Failed("c", "x")])
    events = ran(engine)
    assert [e.key for e in events if isinstance(e, Started)] == ["a", "c"]
    assert {e.key for e in events if isinstance(e, Failed)} == {"a", "c"}
    assert sorted(engine.handed) == ["a", "a", "a", "b", "c", "c"]


def test_a_trial_that_gets_further_is_never_given_up_and_one_that_does_not_is():
    further = [*range(20), Failed("a", "the end")]
    events = ran(Scripted(a=further, b=[4] * LOSSES))
    assert Failed("a", "the end") in events
    assert Failed("b", "its worker was lost 5 times without getting further") in events


def test_when_workers_die_one_after_the_other_the_study_ends():
    engine = Scripted(
        **{key: [-1] * LOSSES for key in "abc"}, d=[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    )
    with pytest.raises(EngineError, match="workers are lost one after the other"):
        ran(engine)
    assert engine.stopped, "what still ran is stopped"


def test_a_full_disk_ends_the_study():
    engine = Scripted(a=[Stopped("a", "cannot write a: no space left")], b=[1] * 9)
    with pytest.raises(EngineError, match="cannot write a: no space left"):
        ran(engine)


# -- submitit and Ray --------------------------------------------------------------------------------------------------

EPOCHS, STEPS = 12, 108
"""Of each trial of the small study: 9 steps an epoch."""
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit's processes
unix = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    study = small_study(tmp_path_factory.mktemp("local"), EPOCHS, shared=False)
    with LocalEngine(RUNTIME, 2) as engine, study.store:
        study.run(engine, lambda event: None)
    assert not study.open_trials
    return figures(study)


def check(study, undisturbed, steps, kills):
    """The results are those of the local run, at no more than 5 % more steps."""
    assert figures(study) == undisturbed
    taken_steps = {fingerprint: len(pids) for fingerprint, pids in steps.by_trial().items()}
    print(f"{len(kills)} kills, steps {taken_steps}")
    assert sum(taken_steps.values()) <= 1.05 * STEPS * len(study.plan.trials)
    assert not list(study.store.root.rglob(f"{lease.PREFIX}*"))


@unix
@pytest.mark.slow
def test_submitits_local_executor_with_every_worker_killed_three_times(undisturbed, tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    steps = Steps(tmp_path, monkeypatch)
    study, events = small_study(tmp_path / "study", EPOCHS), []
    with (
        study.store,
        slurm_engine.SlurmEngine(RUNTIME, 2, study.store.root, cluster="local") as engine,
        steps.killed(3, STEPS) as kills,
    ):
        study.run(engine, events.append)
    assert len(kills) == 6
    assert sum(isinstance(event, Started) for event in events) == 2
    check(study, undisturbed, steps, kills)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A fake Slurm's folder."""
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    state, programs = tmp_path / "slurm", tmp_path / "bin"
    state.mkdir()
    programs.mkdir()
    for name in ("sbatch", "srun", "sacct", "scancel", "scontrol"):
        program = programs / name
        code = Path(__file__).with_name("fake_slurm.py")
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{code}" {name} "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("FAKE_SLURM", str(state))
    monkeypatch.setenv("PATH", os.pathsep.join([str(programs), os.environ["PATH"]]))
    monkeypatch.setattr(slurm_engine, "ASK_SECONDS", 1.0)
    return state


@unix
@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGKILL", "SIGUSR2"])
def test_a_fake_slurm_whose_jobs_are_killed_or_preempted(undisturbed, slurm, tmp_path, monkeypatch, how):
    steps = Steps(tmp_path, monkeypatch)
    study = small_study(tmp_path / "study", EPOCHS)
    options = {"partition": "long", "time": "4:00:00"}
    with (
        study.store,
        slurm_engine.SlurmEngine(RUNTIME, 2, study.store.root, options) as engine,
        steps.killed(3, STEPS, how=getattr(signal, how)) as kills,
    ):
        study.run(engine, lambda event: None)
    assert len(kills) == 6
    check(study, undisturbed, steps, kills)
    script = (slurm / "100.job").read_text()
    for line in ("--array=0-1%2", "--partition=long", "--time=240", "--requeue", "--cpus-per-task=1"):
        assert f"#SBATCH {line}\n" in script
    jobs = len(list(slurm.glob("*.job")))
    assert jobs == 1 if how == "SIGUSR2" else jobs > 1, "a preempted job is queued again, a killed one submitted again"


@unix
@pytest.mark.slow
def test_leaving_slurm_cancels_its_jobs(slurm, tmp_path, monkeypatch):
    steps = Steps(tmp_path, monkeypatch)
    study = small_study(tmp_path / "study", 1000)

    def interrupt(event):
        if isinstance(event, Advanced):
            raise KeyboardInterrupt

    engine = slurm_engine.SlurmEngine(RUNTIME, 2, study.store.root)
    with study.store, pytest.raises(KeyboardInterrupt), engine:
        study.run(engine, interrupt)
    wait_until(lambda: {path.read_text() for path in slurm.glob("*.state")} == {"CANCELLED"})
    assert steps.by_trial()


@unix
@pytest.mark.slow
def test_ray_with_every_worker_killed_three_times_and_a_node_removed(undisturbed, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from ray.cluster_utils import Cluster

    from nextify.study.ray_engine import RayEngine

    steps = Steps(tmp_path, monkeypatch)
    before = signal.getsignal(signal.SIGTERM)  # the Cluster takes it
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    removed = cluster.add_node(**small)
    cluster.add_node(**small)
    study, events = small_study(tmp_path / "study", EPOCHS), []

    def on_event(event):
        nonlocal removed
        events.append(event)
        if removed is not None and isinstance(event, Advanced) and event.progress.step > STEPS // 3:
            cluster.remove_node(removed)
            removed = None

    try:
        with (
            study.store,
            RayEngine(RUNTIME, 2, address=cluster.address) as engine,
            steps.killed(3, STEPS) as kills,
        ):
            study.run(engine, on_event)
    finally:
        cluster.shutdown()
        signal.signal(signal.SIGTERM, before)
    assert removed is None
    assert len(kills) == 6
    assert any(isinstance(event, Advanced) for event in events)
    check(study, undisturbed, steps, kills)


@unix
@pytest.mark.slow
def test_ray_where_nodes_do_not_see_the_folder(undisturbed, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from nextify.study.ray_engine import RayEngine

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    study = small_study(tmp_path / "study", EPOCHS)
    before = signal.getsignal(signal.SIGTERM)
    with study.store, RayEngine(RUNTIME, 2) as engine:
        assert signal.getsignal(signal.SIGTERM) is before, "it stops the study as Ctrl-C does"
        monkeypatch.setattr(engine, "_marked", {study.store.trials})  # no marker, so it cannot be found
        study.run(engine, lambda event: None)
    assert figures(study) == undisturbed
    assert all(study.store.result(planned) is not None for planned in study.plan.trials)
