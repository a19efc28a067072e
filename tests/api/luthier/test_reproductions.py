"""Jobs that are trained again: what is asked for a second time, and how two results are told apart."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from luthier import Luthier
from luthier.cli import app
from storage.jobs import events
from storage.jobs.jobs import JobRow
from storage.models.artifacts import ArtifactRow
from tests.api.fine_tuning.test_jobs import create
from tests.api.stack import Api, Tenant

CONFIG = {"rank": 8, "base_path": "/somewhere"}


def client_of(api: Api, tenant: Tenant) -> Luthier:
    return Luthier(base_url=f"{api.url}/v1", api_key=tenant.key, max_retries=0)


def succeeded(api: Api, tenant: Tenant, tensors: dict[str, str], environment: Any) -> str:
    """A job as a worker leaves it."""
    with api.client(tenant) as client:
        job = create(client)
    model = api.tuned_model(tenant)
    hashes = {name: {"dtype": "float32", "shape": [1], "sha256": tensors[name]} for name in tensors}
    decided = {
        "config": CONFIG,
        "reasons": {"rank": "few tokens"},
        "num_examples": 10,
        "environment": environment,
    }
    with api.sessions.begin() as session:
        session.execute(
            update(ArtifactRow).where(ArtifactRow.id == model.artifact_id).values(tensors=hashes)
        )
        session.execute(
            update(JobRow)
            .where(JobRow.id == job.id)
            .values(status="succeeded", fine_tuned_model=model.name, train_config=decided)
        )
    return job.id


def test_what_was_decided_for_the_first_job_holds_for_the_second(api: Api, tenant: Tenant) -> None:
    job_id = succeeded(api, tenant, {"a": "1"}, {"cores": "2"})
    with client_of(api, tenant) as client:
        again = client.reproductions.create(job_id)
        first = client.fine_tuning.jobs.retrieve(job_id)
    assert again.status == "validating_files"
    assert again.metadata == {"reproduces": job_id}
    for name in ("seed", "training_file", "hyperparameters", "method", "model"):
        assert getattr(again, name) == getattr(first, name)
    with api.sessions() as session:
        rows = [session.get_one(JobRow, each) for each in (job_id, again.id)]
    # But that no step is computed together with another job's.
    config = {**CONFIG, "shared": "never"}
    assert rows[1].train_config == {"config": config, "reasons": {"rank": "few tokens"}}
    assert rows[0].data_sha256 == rows[1].data_sha256
    assert set(rows[0].data_sha256 or {}) == {"training_file"}


def test_a_job_that_has_made_nothing_is_not_reproduced(api: Api, tenant: Tenant) -> None:
    with client_of(api, tenant) as client:
        job = create(client)
        with pytest.raises(openai.BadRequestError, match="can be reproduced"):
            client.reproductions.create(job.id)
        with pytest.raises(openai.BadRequestError, match="its status is 'validating_files'"):
            client.reproductions.result(job.id)


def test_the_command_tells_what_differs_and_fails(api: Api, tenant: Tenant) -> None:
    first = succeeded(api, tenant, {"a": "1", "b": "2"}, {"cores": "2", "version of torch": "2.13"})
    other = succeeded(api, tenant, {"a": "1", "b": "3"}, {"cores": "4", "version of torch": "2.13"})
    with api.sessions.begin() as session:
        events.add(session, other, "alert:shared", "From step 1 on …")
    env = {"LUTHIER_BASE_URL": f"{api.url}/v1", "LUTHIER_API_KEY": tenant.key}
    done = CliRunner().invoke(app, ["reproduce", first, "--against", other], env=env)
    assert done.exit_code == 1
    assert "cores: 2 then, 4 now" in done.stdout
    assert "steps: None then, some of them computed with other jobs' now" in done.stdout
    assert "torch" not in done.stdout
    assert "differs: b" in done.stdout
    assert f"1 of 2 tensors differ from those of {first}; see above" in done.stderr
    same = CliRunner().invoke(app, ["reproduce", first, "--against", first], env=env)
    assert same.exit_code == 0
    assert "Equal: all 2 tensors" in same.stdout
