from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import queue
from storage.settings import Settings
from tests.worker.scene import Scene


@pytest.fixture(scope="session")
def bases_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, so that a base is imported once."""
    return tmp_path_factory.mktemp("bases")


@pytest.fixture
def scene(
    database_url: str,
    broker_url: str,
    blob_url: str,
    bases_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Scene]:
    settings = Settings(
        database_url=database_url,
        broker_url=broker_url,
        blob_url=blob_url,
        data_dir=tmp_path / "data",
        bases_dir=bases_dir,
    )
    monkeypatch.setattr(queue.app.conf, "broker_url", broker_url)
    scene = Scene(settings)
    yield scene
    scene.close()
