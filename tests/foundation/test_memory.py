from __future__ import annotations

import pytest

from foundation import memory
from foundation.settings import Settings
from serving.settings import ServingSettings


def test_shares_of_the_memory_keep_to_a_container_s_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_limits", lambda: iter([(64_000, 0), (8_000, 1_000)]))
    assert memory.machine_bytes() == 8_000
    assert Settings().resident_bytes == 4_000
    assert ServingSettings().whole_model_bytes_or_default() == 2_000
    assert ServingSettings().kv_bytes_or_default() == 1_000


def test_where_nobody_says_how_much_there_is_the_system_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "_limits", lambda: iter(()))
    assert memory.total_bytes() is None
    assert memory.machine_bytes() > 1 << 20
