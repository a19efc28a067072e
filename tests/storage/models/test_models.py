"""Models, and the artifacts and checkpoints behind them."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, sessionmaker

from foundation.errors import ModelNotFound
from storage.blobs import artifact_keys
from storage.blobs.blobs import BlobInfo
from storage.ids import new_id
from storage.jobs import checkpoints
from storage.models import artifacts, models
from tests.storage.rows import add_job

Database = sessionmaker[Session]


def add_model(session: Session, project_id: str, name: str, job_id: str = "ftjob-x") -> str:
    """Gives the id of its artifact."""
    artifact_id = new_id(artifact_keys.ID_PREFIX)
    blob = BlobInfo(artifact_keys.key(artifact_id), 10, "0" * 64)
    artifacts.create(
        session,
        artifact_id,
        project_id=project_id,
        base_model="tiny-random",
        kind="lora",
        spec={"rank": 8},
        tensors={"a": {"dtype": "F32", "shape": [8, 1], "sha256": "0" * 64}},
        blob=blob,
    )
    models.create(
        session,
        name,
        project_id=project_id,
        artifact_id=artifact_id,
        base_model="tiny-random",
        job_id=job_id,
        owned_by="luthier",
    )
    return artifact_id


@pytest.mark.parametrize(
    ("suffix", "pattern"),
    [("my-suffix", r"ft:base:acme:my-suffix:\w{8}"), (None, r"ft:base:acme::\w{8}")],
)
def test_names_are_openais(suffix: str | None, pattern: str) -> None:
    name = models.new_name("base", "acme", suffix)
    assert re.fullmatch(pattern, name)
    assert models.new_name("base", "acme", suffix) != name


@pytest.mark.parametrize(
    ("suffix", "pattern"),
    [("my-suffix", r"curie:ft-acme:my-suffix-(.+)"), (None, r"curie:ft-acme-(.+)")],
)
def test_names_of_the_old_api_end_with_date_and_time(
    database: Database, suffix: str | None, pattern: str
) -> None:
    with database() as session:
        # Always in UTC, wherever the database stands.
        session.execute(text("SET LOCAL TIME ZONE 'Asia/Tokyo'"))
        before = session.scalars(select(func.clock_timestamp())).one()
        name = models.new_legacy_name(session, "curie", "acme", suffix)
        after = session.scalars(select(func.clock_timestamp())).one()
    found = re.fullmatch(pattern, name)
    assert found is not None, name
    at = datetime.strptime(found[1] + "+0000", "%Y-%m-%d-%H-%M-%S%z")
    assert before.replace(microsecond=0) <= at <= after


def test_a_second_that_another_model_has_taken_is_passed_over(
    database: Database, project_id: str
) -> None:
    names = []
    with database.begin() as session:
        for _ in range(5):
            names.append(models.new_legacy_name(session, "curie", "acme", None))
            add_model(session, project_id, names[-1])
    assert len(set(names)) == 5
    assert names == sorted(names)


def test_model_is_found_with_its_artifact_in_its_project_only(
    database: Database, project_id: str
) -> None:
    with database.begin() as session:
        artifact_id = add_model(session, project_id, "ft:a")
        found = models.find(session, project_id, "ft:a")
        assert found is not None
        model, artifact = found
        assert (model.name, artifact.id, artifact.spec) == ("ft:a", artifact_id, {"rank": 8})
        assert models.find(session, "proj_other", "ft:a") is None
        assert artifacts.get(session, artifact_id) is artifact


def test_models_are_listed_newest_first(database: Database, project_id: str) -> None:
    for name in ("ft:a", "ft:b"):
        with database.begin() as session:
            add_model(session, project_id, name)
    with database() as session:
        assert [model.name for model in models.all(session, project_id)] == ["ft:b", "ft:a"]
        assert models.all(session, "proj_other") == []


def test_removed_model_leaves_an_artifact_that_nobody_uses(
    database: Database, project_id: str
) -> None:
    with database.begin() as session:
        artifact_id = add_model(session, project_id, "ft:a")
        assert artifacts.remove_unused(session, [artifact_id]) == []
        with pytest.raises(ModelNotFound, match="The model 'ft:a' does not exist"):
            models.remove(session, "proj_other", "ft:a")
        assert models.remove(session, project_id, "ft:a") == artifact_id
        key = artifact_keys.key(artifact_id)
        assert artifacts.known_keys(
            session, [key, "adapters/none.tar", "artifacts/adapter-none.tar"]
        ) == {key}
        assert artifacts.remove_unused(session, [artifact_id]) == [key]
        assert artifacts.known_keys(session, [key]) == set()


@pytest.mark.parametrize(("status", "stays"), [("running", True), ("succeeded", False)])
def test_artifact_stays_while_a_job_goes_on_from_it(
    database: Database, project_id: str, status: str, stays: bool
) -> None:
    with database.begin() as session:
        artifact_id = add_model(session, project_id, "ft:a")
        add_job(session, project_id, status=status, init_artifact_id=artifact_id)
        models.remove(session, project_id, "ft:a")
        assert (artifacts.remove_unused(session, [artifact_id]) == []) == stays


def test_newest_checkpoints_stay(database: Database, project_id: str) -> None:
    with database.begin() as session:
        job, other = add_job(session, project_id), add_job(session, project_id)
        for step in (30, 10, 20, 50, 40):
            name = f"ft:ckpt-{step}"
            checkpoints.create(session, job_id=job.id, step=step, model_name=name, metrics={})
        checkpoints.create(session, job_id=other.id, step=1, model_name="ft:o", metrics={})
        assert sorted(checkpoints.remove_old(session, job.id)) == ["ft:ckpt-10", "ft:ckpt-20"]
        page = checkpoints.page(session, job.id, after=None, limit=10)
        assert [checkpoint.step for checkpoint in page.rows] == [50, 40, 30]
        after = checkpoints.page(session, job.id, after=page.rows[0].id, limit=1)
        assert [checkpoint.step for checkpoint in after.rows] == [40]
        assert after.has_more
        assert checkpoints.at_step(session, job.id, 10) is None
        assert checkpoints.at_step(session, job.id, 30) is not None
        assert checkpoints.at_step(session, other.id, 1) is not None


def test_an_artifact_that_a_job_is_about_to_go_on_from_stays(
    database: Database, project_id: str
) -> None:
    with database.begin() as session:
        artifact_id = add_model(session, project_id, "ft:a")

    def delete_model() -> list[str]:
        with database.begin() as session:
            return artifacts.remove_unused(session, [models.remove(session, project_id, "ft:a")])

    with ThreadPoolExecutor(1) as deleter:
        with database.begin() as session:
            assert models.find_to_train(session, project_id, "ft:a") is not None
            deleting = deleter.submit(delete_model)
            _wait_for_a_lock(database)
            add_job(session, project_id, init_artifact_id=artifact_id)
        assert deleting.result() == []
    with database() as session:
        assert models.find(session, project_id, "ft:a") is None
        assert artifacts.get(session, artifact_id) is not None


def _wait_for_a_lock(database: Database) -> None:
    deadline = time.monotonic() + 10
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    while True:
        with database() as session:
            if session.scalar(waiting):
                return
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.01)
