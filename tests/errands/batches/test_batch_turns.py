"""Batches of several projects in one process, and commits of which nobody knows whether they came to be."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from sqlalchemy import func, select

from errands.batches import lease as batch_lease
from errands.batches import lines as batch_lines
from errands.batches import output as batch_output
from errands.batches import run as batch_run
from errands.errands import Errands
from foundation.vault import Vault
from storage import transactions
from storage.files.files import FileRow
from storage.webhooks import webhooks
from storage.webhooks.deliveries import WebhookDeliveryRow
from tests.worker.scene import wait_for

from .batch_scene import BatchScene, request, requests


@pytest.fixture
def scene(batch_scene: BatchScene) -> BatchScene:
    return batch_scene


@pytest.fixture
def one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (batch_run, batch_lines):
        monkeypatch.setattr(module, "BATCH_SLOTS", 1)
    monkeypatch.setattr(batch_lines, "TURN_S", 0.05)


def other_project(scene: BatchScene) -> BatchScene:
    return replace(scene, tenant=scene.api.tenant())


def ring(errands: Errands, batch_id: str) -> threading.Thread:
    thread = threading.Thread(target=batch_run.run, args=(errands, batch_id), daemon=True)
    thread.start()
    return thread


def test_eight_batches_that_hang_keep_no_batch_of_another_project_waiting(
    scene: BatchScene,
) -> None:
    errands = scene.errands()
    many = [scene.batch([request(f"wait-{n}", f"wait {n}") for n in range(20)]) for _ in range(8)]
    threads = [ring(errands, batch_id) for batch_id in many]
    # As many lines as the process asks at a time, and the other batches have rung in vain.
    wait_for(lambda: sum(scene.model.asked.values()) == 4, what="the lines that hang")
    wait_for(lambda: sum(thread.is_alive() for thread in threads) == 2, what="the others")
    other = other_project(scene)
    assert other.run(other.batch(requests(1)), errands).status == "completed"
    assert all(scene.row(batch_id).num_completed == 0 for batch_id in many)
    assert sum(scene.model.asked.values()) == 5
    errands.stop()
    for thread in threads:
        thread.join(timeout=5)


@pytest.mark.usefixtures("one_place")
def test_batch_makes_room_first_for_another_project_then_for_its_own(
    scene: BatchScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_lines, "LEAVE_S", 0.05)
    errands = scene.errands()
    first = scene.batch([*requests(2), request("wait-1", "wait")])
    thread = ring(errands, first)
    wait_for(lambda: scene.row(first).num_completed == 2, what="the counts")
    second, other = scene.batch(requests(1)), other_project(scene)
    third = other.batch(requests(1))
    thread.join(timeout=5)
    row = scene.row(first)
    assert (row.status, row.lease_owner, row.num_completed) == ("in_progress", None, 2)
    # Whoever is rung for: whose turn it is says the database.
    batch_run.run(errands, first)
    assert other.row(third).status == "completed"
    batch_run.run(errands, first)
    assert scene.row(second).status == "completed"
    assert not errands.leaving


@pytest.mark.usefixtures("one_place")
def test_batch_that_makes_room_loses_no_line_that_it_has_asked(scene: BatchScene) -> None:
    errands = scene.errands()
    waiting = [request(f"wait-{n}", f"wait {n}") for n in range(4)]
    first = scene.batch([*requests(1), *waiting, *(request(f"later-{n}") for n in range(5))])
    thread = ring(errands, first)
    wait_for(lambda: sum(scene.model.asked.values()) == 5, what="the lines that hang")
    other = other_project(scene)
    second = other.batch(requests(1))
    wait_for(lambda: errands.leaving == {first}, what="the turn's end")
    scene.model.is_open = True
    thread.join(timeout=5)
    row = scene.row(first)
    assert (row.status, row.lease_owner, row.num_completed) == ("in_progress", None, 5)
    batch_run.run(errands, second)
    assert other.row(second).status == "completed"
    for _ in range(3):
        batch_run.run(errands, first)
    assert scene.row(first).status == "completed"
    assert len(scene.answers(first)[0]) == 10
    assert all(scene.model.asked[f"wait {n}"] == 1 for n in range(4))


class Commits:
    """Of one process. The connection is lost while the one is answered that is `broken`: it has come to be."""

    def __init__(self, errands: Errands) -> None:
        self.count = 0
        self.broken = 0
        self._commit = errands.engine.dialect.do_commit
        errands.engine.dialect.do_commit = self._do_commit  # type: ignore[method-assign, assignment]

    def _do_commit(self, connection: Any) -> None:
        self._commit(connection)
        self.count += 1
        if self.count == self.broken:
            raise psycopg.OperationalError("the connection was lost")


def test_commit_that_came_to_be_unheard_has_its_effect_once(
    scene: BatchScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "RETRY_S", 0.01)
    # Nothing is written but what the batch itself brings about.
    monkeypatch.setattr(batch_lease, "LOOK_S", 60.0)
    monkeypatch.setattr(batch_output, "FIRST_CHUNK_S", 60.0)
    with scene.api.sessions.begin() as session:
        webhooks.create(
            session,
            scene.tenant.project_id,
            Vault(),
            name="x",
            url="http://127.0.0.1:9/",
            event_types=["batch.completed"],
        )
    errands = scene.errands()
    commits = Commits(errands)
    while commits.count >= commits.broken:
        commits.broken, commits.count = commits.broken + 1, 0
        batch_id = scene.batch([*requests(3), request("bad-1", "bad one")])
        row = scene.run(batch_id, errands)
        assert (row.status, row.num_completed, row.num_failed) == ("completed", 3, 1)
        assert (row.input_tokens, row.output_tokens) == (9, 6)
        assert set(scene.model.asked.values()) == {commits.broken}
        output, errors = scene.answers(batch_id)
        assert sorted(line["custom_id"] for line in output) == ["line-0", "line-1", "line-2"]
        assert [line["custom_id"] for line in errors] == ["bad-1"]
        with scene.api.sessions() as session:
            told = select(func.count()).where(WebhookDeliveryRow.object_id == batch_id)
            made = select(func.count()).where(FileRow.filename.startswith(batch_id))
            assert session.scalars(told).one() == 1
            assert session.scalars(made).one() == 2
    assert commits.broken > 5
