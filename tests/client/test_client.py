from __future__ import annotations

import openai
import pytest

from luthier import Luthier
from luthier.client import DEFAULT_BASE_URL


def test_address_and_key_come_from_luthiers_variables_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://openai/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    client = Luthier()
    assert (str(client.base_url), client.api_key) == ("http://openai/v1/", "sk-openai")

    monkeypatch.setenv("LUTHIER_BASE_URL", "http://luthier/v1")
    monkeypatch.setenv("LUTHIER_API_KEY", "sk-luthier")
    client = Luthier()
    assert (str(client.base_url), client.api_key) == ("http://luthier/v1/", "sk-luthier")

    client = Luthier(base_url="http://given/v1", api_key="sk-given")
    assert (str(client.base_url), client.api_key) == ("http://given/v1/", "sk-given")


def test_default_address_is_this_machine_when_nothing_is_set() -> None:
    assert str(Luthier(api_key="sk-x").base_url) == DEFAULT_BASE_URL + "/"


def test_missing_key_is_openais_error() -> None:
    with pytest.raises(openai.OpenAIError):
        Luthier()


def test_copy_keeps_address_key_and_class(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Luthier(base_url="http://given/v1", api_key="sk-given")
    monkeypatch.setenv("LUTHIER_BASE_URL", "http://other/v1")
    monkeypatch.setenv("LUTHIER_API_KEY", "sk-other")
    copy = client.with_options(timeout=3)
    assert isinstance(copy, Luthier)
    assert (str(copy.base_url), copy.api_key) == ("http://given/v1/", "sk-given")
