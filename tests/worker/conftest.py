from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded.postgres import Postgres
from embedded.valkey import Valkey
from errands.batches import lease as batch_lease
from errands.batches import lines as batch_lines
from errands.batches import output as batch_output
from foundation.settings import Settings
from storage import queue
from tests import servers
from tests.errands.batches.batch_scene import BatchScene, Stage, batch_stage
from tests.factories import colour_rows
from tests.worker.scene import Scene
from worker.bases import Bases
from worker.job.run import run


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """Shared, so that a base is imported once."""
    folder = tmp_path_factory.mktemp("bases")
    return Bases(folder, folder / "logs")


@pytest.fixture
def scene(
    database_url: str,
    broker_url: str,
    blob_url: str,
    bases: Bases,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Scene]:
    settings = Settings(
        database_url=database_url,
        broker_url=broker_url,
        blob_url=blob_url,
        data_dir=tmp_path / "data",
        bases_dir=bases.folder,
    )
    monkeypatch.setattr(queue.app.conf, "broker_url", broker_url)
    scene = Scene(settings, bases)
    yield scene
    scene.close()


@pytest.fixture(scope="session")
def finished(
    postgres: Postgres,
    database_template: str,
    valkey: Valkey,
    bases: Bases,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    """A scene in which nothing broke; its `job_id` has succeeded, with a validation file."""
    folder = tmp_path_factory.mktemp("finished")
    with servers.fresh_settings(
        postgres, database_template, valkey, folder, bases_dir=bases.folder
    ) as settings:
        scene = Scene(settings, bases)
        scene.job_id = scene.job(validation=colour_rows(10))
        run(scene.worker())
        yield scene
        scene.close()


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
