"""What was there before artifacts of any kind were: files, jobs and models go on working."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from embedded.valkey import Valkey
from foundation.settings import Settings
from migrations.upgrade import upgrade
from storage.blobs import blobs
from tests.api.gateway.fake_backend import FakeBackend
from tests.api.stack import Api, Tenant, running, running_api

from .alembic_commands import with_connection

WEIGHTS = b"a tar of a PEFT folder"
ROWS = b'{"messages": []}\n'
KEY = "sk-proj-of-the-old-installation"
MODEL = "ft:tiny-random:org::abcdefgh"
OLDEST = "ft:tiny-random:org::ijklmnop"
TRAINED = {"rank": 16, "alpha": 32.0, "target_modules": ["q_proj", "v_proj"]}


def insert(connection: psycopg.Connection[Any], table: str, **values: Any) -> None:
    values = {k: Jsonb(v) if isinstance(v, dict | list) else v for k, v in values.items()}
    names, places = ", ".join(values), ", ".join(f"%({name})s" for name in values)
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({places})".encode(), values)


def add_adapter(connection: psycopg.Connection[Any], adapter_id: str, model: str, job: str) -> None:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    common = {"project_id": "proj_1", "base_model": "tiny-random"}
    size = {"size_bytes": len(WEIGHTS), "sha256": digest}
    insert(connection, "adapters", id=adapter_id, rank=16, **common, **size)
    named = {"name": model, "adapter_id": adapter_id, "job_id": job, "owned_by": "org"}
    insert(connection, "models", **common, **named)


def fill(url: str) -> None:
    """A project's data, as the version before wrote it."""
    with psycopg.connect(url) as connection:
        org = {"organization_id": "org", "organization_slug": "org"}
        insert(connection, "projects", id="proj_1", name="Test", **org)
        key = {"kind": "project", "name": "", "hint": "tion"}
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        insert(connection, "api_keys", id="key_1", project_id="proj_1", sha256=digest, **key)
        file = {"filename": "a.jsonl", "purpose": "fine-tune", "status": "processed"}
        content = {"size_bytes": len(ROWS), "sha256": hashlib.sha256(ROWS).hexdigest()}
        insert(connection, "files", id="file-1", project_id="proj_1", **file, **content)
        job: dict[str, Any] = {
            **{"project_id": "proj_1", **org, "base_model": "tiny-random", "seed": 1},
            **{"training_file": "file-1", "method": "supervised", "hyperparameters": {}},
            **{"result_files": [], "resume_points": [], "lease_token": 0, "attempt": 1},
            **{"crashes": 0, "train_config": {"config": TRAINED, "reasons": {}}},
        }
        first = {"status": "succeeded", "model": "tiny-random", "fine_tuned_model": MODEL}
        insert(connection, "jobs", id="ftjob-1", **job, **first)
        goes_on = {"status": "queued", "model": MODEL, "init_adapter_id": "adapter-1"}
        insert(connection, "jobs", id="ftjob-2", **job, **goes_on)
        add_adapter(connection, "adapter-1", MODEL, "ftjob-1")
        add_adapter(connection, "adapter-0", OLDEST, "ftjob-0")


@pytest.fixture
def migrated(empty_url: str, valkey: Valkey, blob_url: str, tmp_path: Path) -> Settings:
    with_connection(empty_url, "upgrade", "0009")
    fill(empty_url)
    store = blobs.open_store(blob_url)
    contents = {"files/proj_1/file-1": ROWS}
    contents |= {f"adapters/adapter-{number}.tar": WEIGHTS for number in (0, 1)}
    for key, content in contents.items():
        with store.writer(key) as writer:
            writer.write(content)
            writer.commit()
    upgrade(empty_url)
    return Settings(
        database_url=empty_url,
        broker_url=valkey.url(),
        blob_url=blob_url,
        data_dir=tmp_path / "data",
        internal_key="internal",
    )


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def api(migrated: Settings, backend: FakeBackend) -> Iterator[Api]:
    with running(backend.app()) as url:
        settings = migrated.replace(backends={"tiny-random": (url,)})
        with running_api(settings) as front:
            yield front


def test_an_earlier_version_s_files_jobs_and_models_work(api: Api, backend: FakeBackend) -> None:
    tenant = Tenant("proj_1", KEY)
    with api.client(tenant) as client, api.http(tenant) as http:
        assert {MODEL, OLDEST} <= {model.id for model in client.models.list()}
        assert http.get(f"/v1/luthier/models/{MODEL}/adapter").content == WEIGHTS
        assert client.files.content("file-1").read() == ROWS
        jobs = {job.id: job for job in client.fine_tuning.jobs.list()}
        assert (jobs["ftjob-1"].fine_tuned_model, jobs["ftjob-2"].model) == (MODEL, MODEL)
        messages: Any = [{"role": "user", "content": "hi"}]
        assert client.chat.completions.create(model=MODEL, messages=messages).model == MODEL
        started = client.fine_tuning.jobs.create(model=MODEL, training_file="file-1")
        assert started.model == MODEL
        # The job that goes on from it keeps the weights; the other model's go with it.
        for model in (MODEL, OLDEST):
            client.models.delete(model)
    body, headers = backend.requests[0]
    assert body["model"] == "adapter-1"
    assert headers["x-luthier-adapter-bytes"] == str(len(WEIGHTS))
    assert list(api.blobs.list("adapters/")) == ["adapters/adapter-1.tar"]


def test_rank_becomes_part_of_the_spec_and_a_rank_again(migrated: Settings) -> None:
    url = migrated.database_url
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT id, kind, spec, tensors FROM artifacts ORDER BY id")
        assert found.fetchall() == [
            ("adapter-0", "lora", {"rank": 16}, None),
            ("adapter-1", "lora", TRAINED, None),
        ]
    with_connection(url, "downgrade", "0009")
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT id, rank FROM adapters ORDER BY id")
        assert found.fetchall() == [("adapter-0", 16), ("adapter-1", 16)]
        named = connection.execute("SELECT adapter_id FROM models ORDER BY adapter_id")
        assert named.fetchall() == [("adapter-0",), ("adapter-1",)]


def test_the_version_before_does_not_get_what_it_could_not_use(migrated: Settings) -> None:
    url = migrated.database_url
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE artifacts SET kind = 'prefix' WHERE id = 'adapter-0'")
    with pytest.raises(RuntimeError, match="weights of 1 models"):
        with_connection(url, "downgrade", "0009")


def test_the_version_before_does_not_get_jobs_that_it_could_not_go_on_with(
    migrated: Settings,
) -> None:
    url = migrated.database_url
    config = {
        "config": {"method": {"kind": "supervised"}, "trainable": {"kind": "lora", **TRAINED}}
    }
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE jobs SET train_config = %s", [Jsonb(config)])
    with pytest.raises(RuntimeError, match="go on with 1 jobs"):
        with_connection(url, "downgrade", "0009")
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE jobs SET status = 'cancelled' WHERE status = 'queued'")
    with_connection(url, "downgrade", "0009")


def test_the_version_before_does_not_train_otherwise_than_was_asked(migrated: Settings) -> None:
    url = migrated.database_url
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT DISTINCT tuning FROM jobs")
        assert found.fetchall() == [(None,)]
        connection.execute("UPDATE jobs SET tuning = %s", [Jsonb({"type": "full"})])
    with pytest.raises(RuntimeError, match="would train 1 jobs in another way"):
        with_connection(url, "downgrade", "0010")
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE jobs SET status = 'cancelled' WHERE status = 'queued'")
    with_connection(url, "downgrade", "0010")
