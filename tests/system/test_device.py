"""A device that cannot be used is named in one line."""

from __future__ import annotations

import pytest
import torch

from nextify.system.device import DeviceError, leaving_torch, usable_device


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


def test_what_leaves_torch_alone_does_so_after_an_error() -> None:
    @leaving_torch
    def fails(number: int) -> int:
        torch.set_num_threads(number)
        torch.manual_seed(number)
        raise ValueError("a reason")

    before = torch.get_num_threads(), torch.get_rng_state().tolist()
    with pytest.raises(ValueError, match="a reason"):
        fails(before[0] + 1)
    assert (torch.get_num_threads(), torch.get_rng_state().tolist()) == before
