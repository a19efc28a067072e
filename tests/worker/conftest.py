from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded.postgres import Postgres
from embedded.valkey import Valkey
from foundation.settings import Settings
from storage import queue
from tests import servers
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
