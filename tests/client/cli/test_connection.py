from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.cli.connection import Connection, find
from luthier.cli.errors import CommandError
from luthier.client import DEFAULT_BASE_URL
from tests.client.fake_api import KEY, FakeApi

from .conftest import Run


def data_dir(path: Path, base_url: str = "http://local:1/v1", key: str = "sk-local") -> Path:
    path.mkdir(exist_ok=True)
    (path / "server.json").write_text(json.dumps({"base_url": base_url}))
    (path / "api_key").write_text(f"{key}\n")
    return path


LUTHIER = {"LUTHIER_BASE_URL": "http://luthier/v1", "LUTHIER_API_KEY": "sk-luthier"}
OPENAI = {"OPENAI_BASE_URL": "http://openai/v1", "OPENAI_API_KEY": "sk-openai"}


def test_options_win_over_data_directory_and_that_over_the_environment(tmp_path: Path) -> None:
    data = data_dir(tmp_path)
    assert find("http://x/v1", "sk-x", data, LUTHIER) == Connection("http://x/v1", "sk-x")
    assert find(None, None, data, LUTHIER) == Connection("http://local:1/v1", "sk-local")
    assert find(None, None, None, LUTHIER | OPENAI) == Connection("http://luthier/v1", "sk-luthier")
    assert find(None, None, None, OPENAI) == Connection("http://openai/v1", "sk-openai")


def test_data_directory_here_is_used_when_nothing_names_a_server() -> None:
    data_dir(Path(".luthier"))
    local = Connection("http://local:1/v1", "sk-local")
    assert find(None, None, None, {}) == local
    assert find(None, None, None, {"OPENAI_API_KEY": "sk-openai"}) == local


def test_key_of_the_data_directory_here_goes_to_no_other_server() -> None:
    data_dir(Path(".luthier"))
    with pytest.raises(CommandError, match="no API key"):
        find("http://elsewhere/v1", None, None, {})
    with pytest.raises(CommandError, match="no API key"):
        find(None, None, None, {"OPENAI_BASE_URL": "http://elsewhere/v1"})


def test_key_alone_goes_to_this_machine() -> None:
    assert find(None, "sk-x", None, {}) == Connection(DEFAULT_BASE_URL, "sk-x")


def test_data_directory_without_a_server_says_so(tmp_path: Path, run: Run) -> None:
    result = run("jobs", "list", "--data", str(tmp_path))
    assert result.exit_code == 1
    assert "server.json is missing: is `luthier serve --data" in result.stderr
    (tmp_path / "server.json").write_text("[]")
    result = run("jobs", "list", "--data", str(tmp_path))
    assert "does not say where the server is" in result.stderr


def test_command_takes_the_connection_from_its_options(
    api: FakeApi, run: Run, tmp_path: Path
) -> None:
    assert run("models", "list", "--base-url", api.base_url, "--api-key", KEY).exit_code == 0
    data = data_dir(tmp_path, api.base_url, KEY)
    assert run("models", "list", "--data", str(data)).exit_code == 0
