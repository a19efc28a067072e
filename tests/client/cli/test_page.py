from __future__ import annotations

import webbrowser

import pytest

from luthier.cli.serve import address
from tests.client.fake_api import FakeApi

from .conftest import Run


@pytest.mark.parametrize("is_there", [True, False])
def test_the_page_is_opened_or_its_address_told(
    luthier: Run, api: FakeApi, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    opened: list[str] = []

    def open_in_browser(url: str) -> bool:
        opened.append(url)
        return is_there

    monkeypatch.setattr(webbrowser, "open", open_in_browser)
    result = luthier("open")
    assert result.exit_code == 0
    assert opened == [address(api.base_url)]
    assert opened[0] in result.stdout
    assert ("No browser" in result.stderr) is not is_there


def test_the_page_is_beside_the_api() -> None:
    assert address("https://x.example/luthier/v1/") == "https://x.example/luthier/dashboard"
