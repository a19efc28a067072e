from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from embedded import process
from tests.embedded import processes

# Writes down which signal it got, and obeys.
SERVER = """
import signal, sys, time
def note(number, _):
    open(sys.argv[1] + "/signal", "w").write(signal.Signals(number).name)
    sys.exit(0)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
    signal.signal(number, note)
open(sys.argv[1] + "/up", "w").close()
time.sleep(60)
"""
MULE = SERVER.replace("sys.exit(0)", "pass")


def launch(tmp_path: Path, code: str = SERVER) -> process.Command:
    return process.supervised(
        "server",
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=tmp_path,
        stop_signal=signal.SIGINT,
        orphan_signal=signal.SIGQUIT,
    )


def wait_for_the_end(tmp_path: Path, timeout_s: float = 5) -> str:
    processes.wait_for(lambda: processes.inside(tmp_path) == [], timeout_s)
    return (tmp_path / "signal").read_text()


def test_sigterm_becomes_the_servers_own_stop_signal(tmp_path: Path) -> None:
    child = process.spawn(launch(tmp_path))
    processes.wait_for((tmp_path / "up").exists)
    assert process.stop(child) == 0
    assert wait_for_the_end(tmp_path) == "SIGINT"


def test_end_of_stdin_stops_the_server(tmp_path: Path) -> None:
    child = process.spawn(launch(tmp_path))
    processes.wait_for((tmp_path / "up").exists)
    assert child.stdin is not None
    child.stdin.close()
    assert wait_for_the_end(tmp_path) == "SIGQUIT"
    assert child.wait(5) == 0


@pytest.mark.slow
def test_server_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    child = process.spawn(launch(tmp_path, MULE))
    processes.wait_for((tmp_path / "up").exists)
    assert child.stdin is not None
    child.stdin.close()
    began_at = time.monotonic()
    assert child.wait(10) == 128 + signal.SIGKILL
    assert time.monotonic() - began_at > 2.5
    assert wait_for_the_end(tmp_path) == "SIGQUIT"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs PR_SET_PDEATHSIG")
def test_server_ends_when_the_launcher_itself_is_killed(tmp_path: Path) -> None:
    child = process.spawn(launch(tmp_path))
    processes.wait_for((tmp_path / "up").exists)
    os.kill(child.pid, signal.SIGKILL)
    assert wait_for_the_end(tmp_path) == "SIGQUIT"
    process.stop(child)


def test_exit_status_is_the_servers(tmp_path: Path) -> None:
    child = process.spawn(launch(tmp_path, "raise SystemExit(7)"))
    assert child.wait(10) == 7
    process.stop(child)


def test_server_sees_none_of_the_parents_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    code = "import os, sys; open(sys.argv[1] + '/env', 'w').write(repr(dict(os.environ)))"
    child = process.spawn(launch(tmp_path, code))
    child.wait(10)
    process.stop(child)
    assert "secret" not in (tmp_path / "env").read_text()
