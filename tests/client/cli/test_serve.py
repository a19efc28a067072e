from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .conftest import Run


def test_absence_of_the_server_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embedded", None)
    monkeypatch.delitem(sys.modules, "embedded.stack", raising=False)
    result = run("serve")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: the server is not installed here")


def test_malformed_alias_is_refused(run: Run) -> None:
    result = run("serve", "--alias", "gpt-4o-mini")
    assert result.exit_code == 2
    assert "must read NAME=BASE" in result.output


def test_options_reach_the_stack(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # The stack itself takes minutes of a machine; tests/e2e starts the real one.
    received: dict[str, Any] = {}
    stack = ModuleType("embedded.stack")
    stack.serve = lambda **options: received.update(options)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "embedded.stack", stack)
    result = run(
        "serve", "--data", "d", "--port", "0", "--alias", "a=b", "--alias", "c=d", "--base", "b"
    )
    assert result.exit_code == 0, result.output
    assert received == {
        "data_dir": Path("d"),
        "host": "127.0.0.1",
        "port": 0,
        "aliases": {"a": "b", "c": "d"},
        "bases": ["b"],
    }
