"""The engine that ``--engine`` names."""

from dataclasses import replace
from pathlib import Path
from typing import assert_never

from nextify.cli.roadmap import Machine
from nextify.fitting.scale import SCALES
from nextify.study.cluster_options import slurm_options
from nextify.study.engine import Engine, LocalEngine
from nextify.study.ray_engine import RayEngine
from nextify.study.slurm_engine import SlurmEngine
from nextify.study.study import SMALL_SIDE, default_side_by_side
from nextify.system.device import usable_device
from nextify.training.trial import Runtime

LARGE_THREADS = 8
"""CPUs of a trial of larger networks on a cluster, where ``--threads`` names none; small ones get 1."""
JOBS = 32
"""Slurm jobs at a time, where ``--side-by-side`` names none."""


def chosen_engine(machine: Machine, scale: str, root: Path) -> Engine:
    """Where the trials of a study at ``root`` run. Raises ``MissingEngine``, ``ClusterUnavailable`` or ``DeviceError``
    where they cannot."""
    side = SCALES[scale].largest_image
    small = side <= SMALL_SIDE
    runtime = Runtime(
        *(machine.device, machine.threads or (1 if small else LARGE_THREADS)),
        kernels=machine.kernels,
        compile=machine.compile,
        capture=machine.capture,
        checkpoint_seconds=machine.checkpoint_seconds,
    )
    match machine.engine:
        case "local":
            device = usable_device(machine.device)
            together, threads = default_side_by_side(side, device, machine.threads)
            return LocalEngine(replace(runtime, device=device, threads=threads), machine.side_by_side or together)
        case "ray":
            return RayEngine(runtime, machine.side_by_side, small, machine.ray_address)
        case "slurm":
            return SlurmEngine(runtime, machine.side_by_side or JOBS, root, slurm_options(machine.slurm))
        case unknown:
            assert_never(unknown)
