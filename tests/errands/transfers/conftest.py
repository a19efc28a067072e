from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded.postgres import Postgres
from embedded.valkey import Valkey
from storage import queue
from tests import servers
from tests.api.stack import Api, running_api
from tests.errands.transfers.scene import TransferScene, transfer_scene


@pytest.fixture(scope="session")
def transfer_api(
    postgres: Postgres,
    database_template: str,
    valkey: Valkey,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Api]:
    """One api for all tests of transfers: each works in a project of its own."""
    folder = tmp_path_factory.mktemp("transfers")
    own = {"train_unserved": True, "api_url": "http://127.0.0.1:1", "internal_key": "internal"}
    with (
        servers.fresh_settings(
            postgres, database_template, valkey, folder, bases_dir=folder / "bases", **own
        ) as settings,
        running_api(settings) as api,
    ):
        yield api


@pytest.fixture
def scene(
    transfer_api: Api,
    base_path: Path,
    tmp_path: Path,
    broker_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[TransferScene]:
    monkeypatch.setattr(queue.app.conf, "broker_url", broker_url)
    with transfer_scene(transfer_api, base_path, tmp_path) as scene:
        yield scene
