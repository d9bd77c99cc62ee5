"""Freed memory is kept within a training, and given back before the next one."""

import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator is glibc's")
def test_freed_memory_is_kept() -> None:
    code = (
        "import numpy, resource; from nextify.system.allocator import keep_freed_memory; kept = keep_freed_memory(); "
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt; "
        "work = lambda: numpy.ones(64 * 2**20, numpy.uint8).sum(); work(); before = faults(); work(); "
        "print(kept, faults() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    if kept == "False":
        pytest.skip("this C library is not glibc")
    assert int(faults) < 1_000, "64 MiB are 16,384 pages"


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux resets a process's peak")
def test_a_training_has_a_peak_of_its_own() -> None:
    code = (
        "import numpy; from nextify.system.allocator import give_back_freed_memory, keep_freed_memory; "
        "from nextify.system.device import peak_memory_mib; keep_freed_memory(); "
        "numpy.ones(300 << 20, numpy.uint8); first = peak_memory_mib(); give_back_freed_memory(); "
        "print(first - peak_memory_mib())"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(answer.stdout) > 250
