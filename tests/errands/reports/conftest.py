from __future__ import annotations

from collections.abc import Iterator

import pytest

from embedded.postgres import Postgres
from embedded.valkey import Valkey
from errands.reports import asking, run
from storage import queue
from tests import servers
from tests.errands.reports.report_scene import (
    ReportScene,
    ReportStage,
    compared_sections,
    report_stage,
)


@pytest.fixture(scope="session")
def stage(
    postgres: Postgres,
    database_template: str,
    valkey: Valkey,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ReportStage]:
    """One api and one inference server for all tests of reports: each works in projects of its own."""
    folder = tmp_path_factory.mktemp("reports")
    with (
        servers.fresh_settings(postgres, database_template, valkey, folder) as settings,
        report_stage(settings) as stage,
    ):
        yield stage


@pytest.fixture
def scene(
    stage: ReportStage, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ReportScene]:
    monkeypatch.setattr(queue.app.conf, "broker_url", broker_url)
    monkeypatch.setattr(asking, "POLL_S", 0.02)
    monkeypatch.setattr(run, "all_sections", compared_sections)
    with stage.scene() as scene:
        yield scene
