from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from embedded import process
from embedded.logs import Console
from embedded.process import CannotStart, Command
from embedded.supervisor import AskedToStop, StopPhase, Supervisor
from tests.embedded import processes

SLEEP = "import time; time.sleep(60)"
STUBBORN = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "open(sys.argv[1], 'w').close(); time.sleep(60)"
)
# Leaves a line in a file when it is told to stop.
POLITE = """
import signal, sys, time
def stop(*_):
    open(sys.argv[1], "a").write(sys.argv[2] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
open(sys.argv[3], "w").close()
time.sleep(60)
"""


def python(name: str, code: str, *arguments: object) -> Command:
    return Command(name, [sys.executable, "-c", code, *map(str, arguments)])


@contextmanager
def supervising(tmp_path: Path, **options: Any) -> Iterator[tuple[Supervisor, io.StringIO]]:
    said = io.StringIO()
    deadlines = {StopPhase.CLIENTS: 0.5, StopPhase.ENGINES: 0.6, StopPhase.SERVERS: 0.7}
    supervisor = Supervisor(
        tmp_path, Console(said), stop_deadlines_s=deadlines, **{"first_backoff_s": 0.2, **options}
    )
    try:
        yield supervisor, said
    finally:
        supervisor.stop()


def test_crashed_child_is_started_again_with_growing_delays(tmp_path: Path) -> None:
    times = tmp_path / "times"
    crash = (
        f"import time; open({str(times)!r}, 'a').write(f'{{time.time()}}\\n'); raise SystemExit(3)"
    )

    def num_starts() -> int:
        return len(times.read_text().splitlines()) if times.exists() else 0

    with supervising(tmp_path) as (supervisor, said):
        supervisor.start(python("crasher", crash), StopPhase.CLIENTS)
        with pytest.raises(CannotStart, match="crasher does not start"):
            supervisor.wait_until(lambda: num_starts() == 9, "nothing", timeout_s=20)
    first, second, third = map(float, times.read_text().split())
    assert second - first >= 0.2
    assert third - second >= 0.4
    assert "crasher ended (exit status 3); starting it again in 0.2 s" in said.getvalue()
    assert "starting it again in 0.4 s" in said.getvalue()


def test_delay_has_an_upper_bound_and_is_forgotten_after_good_health(tmp_path: Path) -> None:
    with supervising(tmp_path, first_backoff_s=0.1, max_backoff_s=0.15) as (supervisor, said):
        supervisor.start(python("crasher", "raise SystemExit(1)"), StopPhase.CLIENTS)
        with pytest.raises(CannotStart):
            supervisor.wait_until(lambda: False, "nothing", timeout_s=20)
    assert "in 0.15 s" in said.getvalue()
    with supervising(tmp_path, first_backoff_s=0.1, healthy_after_s=0) as (supervisor, said):
        supervisor.start(python("crasher", "raise SystemExit(1)"), StopPhase.CLIENTS)
        supervisor.wait_until(lambda: said.getvalue().count("in 0.1 s") > 3, "four crashes", 20)


def test_killed_child_comes_back(tmp_path: Path) -> None:
    with supervising(tmp_path) as (supervisor, said):
        supervisor.start(python("sleeper", SLEEP, tmp_path), StopPhase.CLIENTS)
        processes.wait_for(lambda: processes.inside(tmp_path))
        (first,) = processes.inside(tmp_path)
        os.kill(first, signal.SIGKILL)
        supervisor.wait_until(lambda: processes.inside(tmp_path) not in ([], [first]), "it", 10)
    assert "sleeper ended (SIGKILL)" in said.getvalue()
    assert processes.inside(tmp_path) == []


def test_stop_goes_phase_by_phase(tmp_path: Path) -> None:
    order = tmp_path / "order"
    with supervising(tmp_path) as (supervisor, _):
        for phase in reversed(StopPhase):
            flag = tmp_path / f"started-{phase.name}"
            supervisor.start(python(phase.name, POLITE, order, phase.name, flag), phase)
        supervisor.wait_until(lambda: len(list(tmp_path.glob("started-*"))) == 3, "all", 20)
        supervisor.stop()
    assert order.read_text().split() == ["CLIENTS", "ENGINES", "SERVERS"]


def test_stop_kills_who_does_not_listen(tmp_path: Path) -> None:
    with supervising(tmp_path) as (supervisor, _):
        supervisor.start(python("mule", STUBBORN, tmp_path / "up"), StopPhase.CLIENTS)
        supervisor.wait_until((tmp_path / "up").exists, "the mule", 10)
        began_at = time.monotonic()
        supervisor.stop()
        assert 0.4 < time.monotonic() - began_at < 2
    assert processes.inside(tmp_path) == []


def test_sigterm_ends_the_run(tmp_path: Path) -> None:
    with supervising(tmp_path) as (supervisor, _), supervisor.signals():
        supervisor.start(python("sleeper", SLEEP, tmp_path), StopPhase.CLIENTS)
        os.kill(os.getpid(), signal.SIGTERM)
        supervisor.run()
        with pytest.raises(AskedToStop):
            supervisor.wait_until(lambda: False, "nothing")


def test_second_interrupt_kills_at_once(tmp_path: Path) -> None:
    with supervising(tmp_path) as (supervisor, _), supervisor.signals():
        supervisor.stop_deadlines_s = dict.fromkeys(StopPhase, 60.0)
        supervisor.start(python("mule", STUBBORN, tmp_path / "up"), StopPhase.CLIENTS)
        supervisor.wait_until((tmp_path / "up").exists, "the mule", 10)
        os.kill(os.getpid(), signal.SIGINT)
        supervisor.run()
        os.kill(os.getpid(), signal.SIGINT)
        began_at = time.monotonic()
        supervisor.stop()
        assert time.monotonic() - began_at < 2


def test_program_that_fails_keeps_the_stack_from_starting(tmp_path: Path) -> None:
    with supervising(tmp_path) as (supervisor, _):
        supervisor.run_to_end(python("fine", "print('done')"))
        with pytest.raises(CannotStart, match=r"(?s)broken failed .*no such table"):
            supervisor.run_to_end(python("broken", "raise SystemExit('no such table')"))
    assert (tmp_path / "fine.log").read_text() == "done\n"


def test_children_live_in_groups_of_their_own(tmp_path: Path) -> None:
    # Ctrl-C in a terminal goes to the parent's group: the parent decides who stops when.
    child = process.spawn(python("sleeper", SLEEP))
    try:
        assert os.getpgid(child.pid) == child.pid
    finally:
        process.kill(child)
        process.stop(child)


def test_sigterm_stops_servers_and_children(
    tmp_path: Path, new_cluster: Callable[[Path], Path]
) -> None:
    new_cluster(tmp_path / "postgres")
    with processes.keeper(tmp_path) as (keeper, _, _):
        assert len(processes.inside(tmp_path)) > 5
        began_at = time.monotonic()
        keeper.terminate()
        assert keeper.wait(10) == 0
        assert time.monotonic() - began_at < 8
    assert processes.inside(tmp_path) == []
    log = (tmp_path / "logs/postgres.log").read_text()
    assert "database system is shut down" in log


def test_nothing_survives_kill_9_and_the_next_start_recovers(
    tmp_path: Path, new_cluster: Callable[[Path], Path]
) -> None:
    new_cluster(tmp_path / "postgres")
    with processes.keeper(tmp_path) as (keeper, database_url, broker_url):
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept (n int)")
            connection.execute("INSERT INTO kept VALUES (42)")
        with redis.Redis.from_url(broker_url) as client:
            client.set("kept", "42")
        keeper.kill()
        keeper.wait()
    # The next one starts at once, while the old children may still be dying.
    with processes.keeper(tmp_path) as (keeper, database_url, broker_url):
        with psycopg.connect(database_url) as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (42,)
        with redis.Redis.from_url(broker_url) as client:
            assert client.get("kept") == b"42"
        keeper.kill()
    processes.wait_for(lambda: processes.inside(tmp_path) == [], timeout_s=5)


@pytest.mark.parametrize("victim", ["postgres", "valkey-server"])
def test_killed_server_comes_back(
    tmp_path: Path, new_cluster: Callable[[Path], Path], victim: str
) -> None:
    new_cluster(tmp_path / "postgres")
    with processes.keeper(tmp_path) as (_, database_url, broker_url):
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept (n int)")
        os.kill(processes.named(tmp_path, victim), signal.SIGKILL)
        time.sleep(0.05)

        def is_back() -> bool:
            try:
                with psycopg.connect(database_url) as connection:
                    connection.execute("SELECT * FROM kept")
                with redis.Redis.from_url(broker_url) as client:
                    return bool(client.ping())
            except (psycopg.OperationalError, redis.ConnectionError):
                return False

        processes.wait_for(is_back, timeout_s=20)
    processes.wait_for(lambda: processes.inside(tmp_path) == [], timeout_s=5)
