from __future__ import annotations

import pytest

from tests.client.fake_api import FakeApi

from .conftest import Run


def test_servers_message_is_the_one_line(luthier: Run) -> None:
    result = luthier("jobs", "show", "ftjob-none")
    assert result.exit_code == 1
    assert result.stderr == "Error: Could not find fine tune: ftjob-none\n"
    assert result.stdout == ""


def test_wrong_key_is_one_line(luthier: Run, api: FakeApi) -> None:
    result = luthier("jobs", "list", "--api-key", "sk-wrong")
    assert result.exit_code == 1
    assert result.stderr == "Error: Incorrect API key provided\n"


def test_absent_server_is_one_line(luthier: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.BaseClient._calculate_retry_timeout", lambda *_: 0)
    result = luthier("jobs", "list", "--base-url", "http://127.0.0.1:1/v1")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: cannot talk to http://127.0.0.1:1/v1/fine_tuning/jobs")
    assert result.stderr.count("\n") == 1


def test_missing_local_file_is_one_line(luthier: Run) -> None:
    result = luthier("files", "upload", "none.jsonl")
    assert result.exit_code == 1
    assert result.stderr == "Error: [Errno 2] No such file or directory: 'none.jsonl'\n"


def test_command_without_arguments_shows_help(run: Run) -> None:
    assert "fine-tuning jobs" in run().output
    assert "checkpoints" in run("jobs").output
