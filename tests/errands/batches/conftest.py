from __future__ import annotations

from collections.abc import Iterator

import pytest

from embedded.postgres import Postgres
from embedded.valkey import Valkey
from errands.batches import lease as batch_lease
from errands.batches import lines as batch_lines
from errands.batches import output as batch_output
from storage import queue
from tests import servers
from tests.errands.batches.batch_scene import BatchScene, Stage, batch_stage


@pytest.fixture(scope="session")
def stage(
    postgres: Postgres,
    database_template: str,
    valkey: Valkey,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    """One api and one model for all tests of batches: each works in projects of its own."""
    folder = tmp_path_factory.mktemp("batches")
    with (
        servers.fresh_settings(postgres, database_template, valkey, folder) as settings,
        batch_stage(settings) as stage,
    ):
        yield stage


@pytest.fixture
def batch_scene(
    stage: Stage, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BatchScene]:
    monkeypatch.setattr(queue.app.conf, "broker_url", broker_url)
    monkeypatch.setattr(batch_lease, "LOOK_S", 0.02)
    for name in ("POLL_S", "LOOK_S"):
        monkeypatch.setattr(batch_lines, name, 0.02)
    # Answers are kept as they come. Processes that a test starts wait a second with the first.
    monkeypatch.setattr(batch_output, "FIRST_CHUNK_S", 0.05)
    with stage.scene() as scene:
        yield scene
