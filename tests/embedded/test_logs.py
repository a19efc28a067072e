from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from embedded import logs, process
from embedded.logs import ChildLog, Console


def run(tmp_path: Path, code: str) -> tuple[str, ChildLog]:
    """Let a child say something; gives what the console showed of it."""
    console = io.StringIO()
    log = ChildLog("child", tmp_path / "child.log", Console(console))
    child = process.spawn(process.Command("child", [sys.executable, "-c", code]), subprocess.PIPE)
    reader = log.follow(child)
    child.wait()
    process.stop(child)
    reader.join()
    return console.getvalue(), log


def test_everything_goes_to_the_file_and_alarms_to_the_console(tmp_path: Path) -> None:
    shown, _ = run(tmp_path, "print('calm'); print('ERROR worker: it broke'); print('calm')")
    assert (tmp_path / "child.log").read_text() == "calm\nERROR worker: it broke\ncalm\n"
    assert shown == "child: ERROR worker: it broke\n"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            '{"event": "lease.lost", "level": "warning", "job_id": "ftjob-1", "timestamp": "now"}',
            "warning: lease.lost job_id=ftjob-1",
        ),
        ('{"event": "request", "level": "info"}', None),
        ('{"half a line', None),
        ("Traceback (most recent call last):", "Traceback (most recent call last):"),
        ("2026-01-01 [1] PANIC:  could not write", "2026-01-01 [1] PANIC:  could not write"),
        ("2026-01-01 [1] FATAL:  the database system is starting up", None),
        ("2026-01-01 [1] LOG:  checkpoint starting", None),
        ("WARNINGS: 0", None),
        ("", None),
    ],
)
def test_alarm_reads_as_a_person_wants_it(line: str, shown: str | None) -> None:
    assert logs._alarm(line) == shown


def test_large_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_LOG_BYTES", 1000)
    run(tmp_path, "for n in range(150): print(f'line {n:04}')")
    assert (tmp_path / "child.log").stat().st_size <= 1000
    assert (tmp_path / "child.log.1").stat().st_size <= 1000
    assert (tmp_path / "child.log").read_text().endswith("line 0149\n")


def test_last_words_are_kept_for_the_error(tmp_path: Path) -> None:
    _, log = run(tmp_path, "[print(n) for n in range(100)]; print('no such table')")
    assert log.last_words().endswith("no such table")
    assert len(log.last_words().splitlines()) == 5


def test_lost_terminal_is_no_error() -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    Console(Gone()).say("anything")
