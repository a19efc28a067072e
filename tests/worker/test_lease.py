from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from storage import held_lease, leases, transactions
from storage.jobs import jobs
from storage.jobs.jobs import JobRow
from storage.leases import Claim, LostLease
from tests.factories import colour_rows
from tests.worker.scene import (
    FAKE,
    Scene,
    assert_as_if_nothing_broke,
    run_on_thread,
    script,
    wait_for,
)
from worker.lease import Lease


def claim(scene: Scene) -> Claim[JobRow]:
    with scene.sessions.begin() as session:
        claimed = leases.claim(session, JobRow, scene.job(), "me")
    assert claimed is not None
    return claimed


def test_heartbeat_extends_the_lease(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_lease, "HEARTBEAT_S", 0.05)
    claimed = claim(scene)
    first = claimed.row.lease_expires_at
    assert first is not None
    with Lease(scene.sessions, claimed):
        wait_for(lambda: (scene.row(claimed.row.id).lease_expires_at or first) > first)
    after = scene.row(claimed.row.id).lease_expires_at
    time.sleep(0.1)
    assert scene.row(claimed.row.id).lease_expires_at == after


def test_cancelled_job_calls_the_holder(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_lease, "HEARTBEAT_S", 0.05)
    claimed = claim(scene)
    lost = threading.Event()
    with Lease(scene.sessions, claimed) as lease:
        lease.on_lost = lost.set
        scene.change(lambda s: jobs.cancel(s, scene.project_id, claimed.row.id))
        assert lost.wait(timeout=5)
        with pytest.raises(LostLease):
            lease.check()
        with pytest.raises(LostLease):
            lease.renew()


def test_database_out_of_reach_for_a_moment_is_waited_for(scene: Scene) -> None:
    claimed = claim(scene)
    lease = Lease(scene.sessions, claimed)
    tries = 0

    def write(session: Session) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            # The server ends our connection, as when it restarts.
            pid = session.scalar(text("SELECT pg_backend_pid()"))
            scene.change(lambda s: s.execute(text(f"SELECT pg_terminate_backend({pid})")))
        session.execute(text("SELECT 1"))

    lease.write(write)
    assert tries == 2


def test_database_out_of_reach_for_long_loses_the_lease(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_lease, "MARGIN_S", JobRow.LEASE_S - 0.5)
    claimed = claim(scene)
    lease = Lease(scene.sessions, claimed)

    with scene.sessions.begin() as other:
        other.execute(text("SELECT 1 FROM jobs FOR UPDATE"))
        with pytest.raises(LostLease):
            lease.renew()


@contextmanager
def frozen(pids: Callable[[], Iterable[int]]) -> Iterator[Callable[[], None]]:
    """What is called inside stops processes of the database; they go on afterwards."""
    stopped: list[int] = []

    def stop() -> None:
        for pid in pids():
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)

    try:
        yield stop
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def test_backend_that_freezes_in_the_middle_of_a_write_loses_the_lease_in_time(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_lease, "MARGIN_S", JobRow.LEASE_S - 1.0)
    monkeypatch.setattr(held_lease, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(transactions, "ATTEMPT_S", 0.3)
    claimed = claim(scene)
    backends: list[int] = []
    lost = threading.Event()
    with frozen(lambda: backends) as stop, Lease(scene.sessions, claimed) as lease:
        lease.on_lost = lost.set

        def write(session: Session) -> None:
            if not backends:
                # It holds the job's row, and will not answer any more.
                backends.append(session.scalars(text("SELECT pg_backend_pid()")).one())
                stop()
            session.execute(text("SELECT 1"))

        with pytest.raises(LostLease):
            lease.write(write)
        assert lost.wait(10)


def test_backends_that_freeze_cost_seconds_and_not_the_job(
    scene: Scene, finished: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "ATTEMPT_S", 2.0)
    monkeypatch.setenv(FAKE, script(step_s=0.1))
    job_id = scene.job(validation=colour_rows(10))
    worker = scene.worker()
    pids: set[int] = set()

    @event.listens_for(worker.engine, "connect")
    def note(connection: Any, _: Any) -> None:
        pids.add(connection.info.backend_pid)

    def idle() -> list[int]:
        """The worker's backends, without one that holds the job's row."""
        asked = text("SELECT pid FROM pg_stat_activity WHERE pid = ANY(:pids) AND state = 'idle'")
        with scene.sessions() as session:
            return list(session.scalars(asked, {"pids": list(pids)}))

    with frozen(idle) as stop:
        thread = run_on_thread(worker)
        wait_for(lambda: len(scene.steps(job_id)) >= 2, what="a step")
        stop()
        thread.join(timeout=60)
        assert not thread.is_alive()
        assert_as_if_nothing_broke(scene, job_id, finished)
