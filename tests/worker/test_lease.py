from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from storage import events, jobs
from storage.jobs import Claim, LostLease
from tests.worker.scene import Scene, wait_for
from worker import lease as lease_module
from worker.lease import Lease


def claim(scene: Scene) -> Claim:
    with scene.sessions.begin() as session:
        claimed = jobs.claim(session, scene.job(), "me")
    assert claimed is not None
    return claimed


def test_heartbeat_extends_the_lease(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.05)
    claimed = claim(scene)
    first = claimed.job.lease_expires_at
    assert first is not None
    with Lease(scene.sessions, claimed):
        wait_for(lambda: (scene.row(claimed.job.id).lease_expires_at or first) > first)
    after = scene.row(claimed.job.id).lease_expires_at
    time.sleep(0.1)
    assert scene.row(claimed.job.id).lease_expires_at == after


def test_cancelled_job_calls_the_holder(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.05)
    claimed = claim(scene)
    lost = threading.Event()
    with Lease(scene.sessions, claimed) as lease:
        lease.on_lost = lost.set
        scene.change(lambda s: jobs.cancel(s, scene.project_id, claimed.job.id))
        assert lost.wait(timeout=5)
        with pytest.raises(LostLease):
            lease.check()
        with pytest.raises(LostLease):
            lease.write(lambda session: jobs.renew(session, claimed))


def test_write_of_a_lost_lease_leaves_nothing(scene: Scene) -> None:
    claimed = claim(scene)
    lease = Lease(scene.sessions, claimed)
    scene.change(lambda s: jobs.cancel(s, scene.project_id, claimed.job.id))
    before = scene.messages(claimed.job.id)

    def write(session: Session) -> None:
        events.add(session, claimed.job.id, "late", "Too late")
        jobs.renew(session, claimed)

    with pytest.raises(LostLease):
        lease.write(write)
    assert scene.messages(claimed.job.id) == before


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
        jobs.renew(session, claimed)

    lease.write(write)
    assert tries == 2


def test_database_out_of_reach_for_long_loses_the_lease(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "MARGIN_S", jobs.LEASE_S - 0.5)
    claimed = claim(scene)
    lease = Lease(scene.sessions, claimed)

    def write(session: Session) -> None:
        session.execute(text("SET lock_timeout = 1"))
        jobs.renew(session, claimed)

    with scene.sessions.begin() as other:
        other.execute(text("SELECT 1 FROM jobs FOR UPDATE"))
        with pytest.raises(LostLease):
            lease.write(write)
