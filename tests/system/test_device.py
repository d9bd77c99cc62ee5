"""A device that cannot be used is named in one line."""

from __future__ import annotations

import pytest

from nextify.system.device import DeviceError, usable_device


@pytest.mark.parametrize("device", ["meta", "meta:0", "nonsense", "cuda:99", "cpu:x", ""])
def test_what_cannot_compute_is_refused(device: str) -> None:
    with pytest.raises(DeviceError, match=f"--device {device} cannot be used .*; try --device cpu") as error:
        usable_device(device)
    assert "\n" not in str(error.value)


def test_cpu_and_auto_can_be_used() -> None:
    assert usable_device("cpu") == "cpu"
    assert usable_device("auto") in ("cpu", "cuda")
