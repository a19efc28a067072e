from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from examples import server


def test_server_that_does_not_come_up_is_reported_with_its_log(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with (
        pytest.raises(server.ServerError, match="no-such-option"),
        server.running(data, "--no-such-option"),
    ):
        pass


def test_start_wipes_an_earlier_run_but_keeps_the_bases(tmp_path: Path) -> None:
    base = tmp_path / "bases" / "some-base"
    base.mkdir(parents=True)
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "rows").touch()
    (tmp_path / "api_key").touch()
    with pytest.raises(server.ServerError), server.running(tmp_path, "--no-such-option"):
        pass
    assert base.is_dir()
    assert {entry.name for entry in tmp_path.iterdir()} == {"bases", "server.log"}


def test_log_tail_gives_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert server.log_tail(log) == "(no log was written)"
    log.write_text("one\ntwo\nthree\n")
    assert server.log_tail(log, num_lines=2) == "two\nthree"


def test_start_leaves_the_data_of_a_running_server_alone(tmp_path: Path) -> None:
    (tmp_path / "api_key").touch()
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (
            pytest.raises(server.ServerError, match="still runs"),
            server.running(tmp_path),
        ):
            pass
    assert (tmp_path / "api_key").exists()
