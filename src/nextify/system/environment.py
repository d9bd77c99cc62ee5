"""The environment of a measurement: versions and hardware, recorded with every result. Does not import torch."""

import os
import platform
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

Environment = dict[str, str | int | float | None]


def cores() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> Environment:
    """Describe versions, processor, memory, operating system and date."""
    return {
        "nextify": version("nextify"),
        "python": platform.python_version(),
        "torch": version("torch"),
        "torchvision": version("torchvision"),
        "timm": version("timm"),
        "cpu": processor(),
        "cores": cores(),
        "memory_gib": memory_gib(),
        "gpu": None,
        "os": f"{platform.system()} {platform.release().split('-')[0]}",
        "date": datetime.now(UTC).date().isoformat(),
        "git_commit": git_commit(),
    }


def version(package: str) -> str | None:
    """Installed version of a package, or None."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def processor() -> str:
    """Name of the processor as the system reports it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def memory_gib() -> float | None:
    """Memory of the machine in GiB, or None if the system does not report it."""
    with suppress(OSError, ValueError, AttributeError):
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return None


def resident_bytes() -> tuple[int, int]:
    """Current and peak resident memory of this process.

    On Linux the peak is read from /proc, because ``getrusage`` inherits the peak of the parent process.
    """
    import resource  # not on Windows

    most = _kibibytes("/proc/self/status", "VmHWM")
    if most is None:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    now = _kibibytes("/proc/self/status", "VmRSS") or most
    return now, max(now, most)


def available_bytes() -> int | None:
    """Memory available to a new process without swapping, or None if the system does not report it."""
    return _kibibytes("/proc/meminfo", "MemAvailable")


def _kibibytes(path: str, key: str) -> int | None:
    """A line ``key: 123 kB`` of a file of Linux's, in bytes; None without one."""
    with suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return None


def git_commit() -> str | None:
    """Commit of the source tree that contains this package, or None for an installed package."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
        return done.stdout.strip() or None
    return None
