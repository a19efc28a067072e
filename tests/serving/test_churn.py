"""Everything at once on one server, and nothing of it is left behind (`bench/churn`)."""

from __future__ import annotations

import pytest

from bench.churn.__main__ import churn


@pytest.mark.parametrize("seconds", [3.0, pytest.param(180.0, marks=pytest.mark.slow)])
async def test_nothing_is_left_of_whatever_comes_and_goes(seconds: float) -> None:
    found = await churn(seconds, seed=1)
    assert found["problems"] == []
    assert found["outcomes"]["200"] > seconds
