"""Everything at once on one server, and nothing of it is left behind (`bench/soak`)."""

from __future__ import annotations

import pytest

from bench.soak.__main__ import soak


@pytest.mark.parametrize("seconds", [3.0, pytest.param(180.0, marks=pytest.mark.slow)])
async def test_nothing_is_left_of_whatever_comes_and_goes(seconds: float) -> None:
    found = await soak(seconds, seed=1)
    assert found["problems"] == []
    assert found["outcomes"]["200"] > seconds
