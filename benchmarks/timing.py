"""Shared by the benchmarks: the time of a call, and the speed a matrix product reaches here."""

import time
from collections.abc import Callable

import torch


def timed(run: Callable[[], object], device: str = "cpu", repeats: int = 1) -> float:
    """Seconds per call, the mean of ``repeats``."""
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def matrix_peak(dtype: torch.dtype, device: str = "cpu") -> float:
    """Multiply-adds per second of torch's 2048³ product, the best of 9."""
    a, b = (torch.randn(2048, 2048, device=device).to(dtype) for _ in range(2))
    return float(2048**3 / min(timed(lambda: a @ b, device) for _ in range(9)))
