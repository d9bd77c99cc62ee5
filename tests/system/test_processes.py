"""Processes that work together, as the environment names them."""

from __future__ import annotations

import pytest

from nextify.system.processes import LaunchError, joined


@pytest.mark.parametrize("there", [(), ("MASTER_ADDR",), ("MASTER_PORT",)])
def test_a_left_over_environment_is_refused(there: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name in there:
        monkeypatch.setenv(name, "1")
    with pytest.raises(LaunchError, match=r"MASTER_\w+ not: start with torchrun, or unset WORLD_SIZE"), joined("cpu"):
        pass
