"""Everything at once on one server, and nothing of it is left behind (`bench/churn`)."""

from __future__ import annotations

import pytest

from bench.churn.__main__ import churn


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [3.0, 180.0])
async def test_nothing_is_left_of_whatever_comes_and_goes(seconds: float) -> None:
    found = await churn(seconds, seed=1)
    assert found["problems"] == []
    assert found["outcomes"]["200"] > seconds
