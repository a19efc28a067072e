from __future__ import annotations

import io
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from embedded import ports
from embedded.liveness import HealthPage, Liveness, SilenceLimits
from embedded.logs import Console
from embedded.process import CannotStart, Command
from embedded.supervisor import StopPhase, Supervisor
from tests.embedded import processes

PATIENCE = SilenceLimits(
    silent_after_s=30, started_within_s=300, answer_timeout_s=0.1, interval_s=0.05, min_unanswered=3
)
# Answers every request in the directory that it is given.
SERVER = "import http.server; http.server.test(HandlerClass=http.server.SimpleHTTPRequestHandler, "


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def server(directory: Path, port: int, name: str = "server") -> Command:
    code = SERVER + f"port={port}, bind='127.0.0.1')"
    return Command(name, [sys.executable, "-c", code, str(directory)], cwd=directory)


@contextmanager
def supervising(
    tmp_path: Path, patience: SilenceLimits = PATIENCE
) -> Iterator[tuple[Supervisor, io.StringIO, Clock]]:
    said, clock = io.StringIO(), Clock()
    deadlines = {StopPhase.CLIENTS: 0.5, StopPhase.ENGINES: 0.6, StopPhase.SERVERS: 0.7}
    supervisor = Supervisor(
        tmp_path, Console(said), 0.1, stop_deadlines_s=deadlines, patience=patience, clock=clock
    )
    try:
        yield supervisor, said, clock
    finally:
        supervisor.stop()


def tick(supervisor: Supervisor, num_ticks: int = 1) -> None:
    for _ in range(num_ticks):
        supervisor._tick()


def liveness(supervisor: Supervisor) -> Liveness:
    (child,) = supervisor._children
    assert child.liveness is not None
    return child.liveness


def start_and_freeze(supervisor: Supervisor, directory: Path) -> int:
    """The pid of a server that was ready and then frozen; all that it can leave unanswered it has."""
    port = ports.free()
    page = HealthPage("127.0.0.1", port, "/")
    supervisor.start(server(directory, port), StopPhase.ENGINES, page=page)
    supervisor.wait_until(lambda: liveness(supervisor).has_been_ready, "an answer", 20)
    (pid,) = processes.inside(directory)
    os.kill(pid, signal.SIGSTOP)
    processes.wait_for(
        lambda: liveness(supervisor)._num_unanswered >= PATIENCE.min_unanswered, timeout_s=20
    )
    return pid


def test_a_frozen_process_is_killed_and_started_again(tmp_path: Path) -> None:
    with supervising(tmp_path) as (supervisor, said, clock):
        frozen = start_and_freeze(supervisor, tmp_path)
        for _ in range(10):
            clock.now += 2.9
            tick(supervisor)
        assert processes.inside(tmp_path) == [frozen]
        clock.now += 2.9

        def is_back() -> bool:
            clock.now += 0.1
            return liveness(supervisor) is not killed and liveness(supervisor).has_been_ready

        killed = liveness(supervisor)
        supervisor.wait_until(is_back, "another", 20)
        assert frozen not in processes.inside(tmp_path)
    (line,) = (line for line in said.getvalue().splitlines() if "ended" in line)
    assert "server ended (killed: it did not answer GET / for 32 s); starting it again in" in line


def test_silence_is_counted_anew_when_the_supervisor_itself_was_away(tmp_path: Path) -> None:
    with supervising(tmp_path) as (supervisor, said, clock):
        frozen = start_and_freeze(supervisor, tmp_path)
        clock.now += 3600
        tick(supervisor, 3)
        clock.now += 4
        tick(supervisor)
        assert processes.inside(tmp_path) == [frozen]
        os.kill(frozen, signal.SIGCONT)
        processes.wait_for(lambda: liveness(supervisor)._num_unanswered == 0, timeout_s=20)
        tick(supervisor)
        assert processes.inside(tmp_path) == [frozen]
    assert "ended" not in said.getvalue()


def test_a_process_without_a_page_may_be_silent(tmp_path: Path) -> None:
    with supervising(tmp_path) as (supervisor, said, clock):
        supervisor.start(server(tmp_path, ports.free()), StopPhase.CLIENTS)
        for _ in range(4):
            clock.now += 3600
            tick(supervisor)
        assert said.getvalue() == ""


def test_a_process_that_never_answers_keeps_the_stack_from_starting(tmp_path: Path) -> None:
    patience = replace(PATIENCE, started_within_s=12)
    with supervising(tmp_path, patience) as (supervisor, said, clock):
        page = HealthPage("127.0.0.1", ports.free(), "/")
        mute = Command("mute", [sys.executable, "-c", "import time; time.sleep(60)"])
        supervisor.start(mute, StopPhase.CLIENTS, page=page)

        def never() -> bool:
            clock.now += 4.9
            return False

        with pytest.raises(CannotStart, match="mute does not start"):
            supervisor.wait_until(never, "nothing", 60)
    assert said.getvalue().count("did not answer GET / for 1") == 3


@contextmanager
def answering(status: int) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield running.server_port
        finally:
            running.shutdown()
            thread.join()


def asked(port: int, clock: Clock) -> Liveness:
    it = Liveness(HealthPage("127.0.0.1", port, "/healthz"), PATIENCE, clock)
    clock.now += 299
    it.ask()
    return it


def fall_silent(it: Liveness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        it._page = HealthPage("127.0.0.1", deaf.getsockname()[1], "/healthz")
        for _ in range(PATIENCE.min_unanswered):
            it.ask()


def test_a_process_that_loads_has_longer() -> None:
    clock = Clock()
    with answering(503) as port:
        it = asked(port, clock)
    fall_silent(it)
    clock.now += 299
    assert it.complaint() is None
    clock.now += 2
    assert it.complaint() == "it did not answer GET /healthz for 301 s"


def test_a_process_that_has_been_ready_has_less() -> None:
    clock = Clock()
    with answering(200) as port:
        it = asked(port, clock)
    fall_silent(it)
    clock.now += 29
    assert it.complaint() is None
    clock.now += 2
    assert it.complaint() == "it did not answer GET /healthz for 31 s"


def test_one_late_answer_is_no_silence() -> None:
    """After a sleep of the whole machine a single request may have waited for hours."""
    clock = Clock()
    with answering(200) as port:
        it = asked(port, clock)
        clock.now += 3600
        assert it.complaint() is None
        it.ask()
        assert it.complaint() is None


def test_any_sign_of_life_will_do() -> None:
    """Whoever has no room for one more connection closes it, and who does so is alive."""
    clock = Clock()
    it = Liveness(HealthPage("127.0.0.1", 1, "/healthz"), PATIENCE, clock)
    fall_silent(it)
    clock.now += 299
    with socket.create_server(("127.0.0.1", 0)) as closing:
        it._page = HealthPage("127.0.0.1", closing.getsockname()[1], "/healthz")

        def close_one() -> None:
            with suppress(OSError):
                closing.accept()[0].close()

        thread = threading.Thread(target=close_one)
        thread.start()
        it.ask()
        thread.join()
    clock.now += 299
    assert it.complaint() is None
