"""A device that cannot be used is named in one line."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from nextify.system.device import DeviceError, seeding, torch_defaults, usable_device


@pytest.mark.parametrize("device", ["meta", "meta:0", "nonsense", "cuda:99", "cpu:x", ""])
def test_what_cannot_compute_is_refused(device: str) -> None:
    with pytest.raises(DeviceError, match=f"--device {device} cannot be used .*; try --device cpu") as error:
        usable_device(device)
    assert "\n" not in str(error.value)


def test_cpu_and_auto_can_be_used() -> None:
    assert usable_device("cpu") == "cpu"
    assert usable_device("auto") in ("cpu", "cuda")


def test_a_gpu_that_was_found_for_a_process_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert usable_device("cuda:1") == "cuda:1"


def test_a_function_that_seeds_leaves_torch_as_it_was() -> None:
    @seeding()
    def fails(number: int) -> None:
        torch.set_num_threads(number)
        torch.manual_seed(number)
        raise ValueError("a reason")

    before = torch.get_num_threads(), torch.get_rng_state().tolist()
    with pytest.raises(ValueError, match="a reason"):
        fails(before[0] + 1)
    assert (torch.get_num_threads(), torch.get_rng_state().tolist()) == before


def test_torchs_defaults_hold_whatever_was_set() -> None:
    @torch_defaults()
    def made() -> torch.Tensor:
        layer = torch.nn.Linear(3, 2)
        return layer(torch.ones(1, 3))

    def check(dtype: torch.dtype = torch.float32) -> None:
        found = made()
        assert (found.dtype, found.device.type, found.requires_grad) == (torch.float32, "cpu", True)
        assert torch.get_default_dtype() == dtype

    check()
    for setting in (
        torch.inference_mode(),
        torch.no_grad(),
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.device("meta"),
    ):
        with setting:
            check()
    torch.set_default_dtype(torch.float64)
    try:
        check(torch.float64)
    finally:
        torch.set_default_dtype(torch.float32)


def test_threads_that_seed_take_turns() -> None:
    @seeding()
    def drawn(seed: int) -> list[float]:
        torch.manual_seed(seed)
        time.sleep(0.05)
        return [float(number) for number in torch.rand(2)]

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(drawn, (0, 1, 2))) == [drawn(0), drawn(1), drawn(2)]
