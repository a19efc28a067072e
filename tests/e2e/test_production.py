"""The same processes on servers that somebody else runs: PostgreSQL, Valkey and an S3 server by their URLs."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from tests.e2e import jobs
from tests.e2e.stack import serving
from tests.factories import colour_rows


@pytest.mark.slow
def test_a_job_on_postgres_valkey_and_s3(
    tmp_path: Path, database_url: str, broker_url: str, s3_url: str
) -> None:
    env = {
        "LUTHIER_DATABASE_URL": database_url,
        "LUTHIER_BROKER_URL": broker_url,
        "LUTHIER_BLOB_URL": s3_url,
        "LUTHIER_API_KEY": "a key of the operator's own",
    }
    with serving(tmp_path / "data", "--base", "tiny-random", env=env) as stack:
        assert not (tmp_path / "data" / "blobs").exists()
        assert stack.api_key == env["LUTHIER_API_KEY"]
        with stack.client() as client:
            job = jobs.create(
                client,
                colour_rows(12),
                method=jobs.hyperparameters(n_epochs=10, batch_size=4, learning_rate_multiplier=4),
            )
            done = jobs.wait(client, job.id)
            assert done.fine_tuned_model is not None, done.error
            assert jobs.ask(client, done.fine_tuned_model, "Question number 1?") == "It is blue."
            reply = httpx.get(
                f"{stack.base_url}/luthier/models/{done.fine_tuned_model}/adapter",
                headers={"authorization": f"Bearer {stack.api_key}"},
            )
            assert reply.status_code == 200
        assert os.environ.get("LUTHIER_BLOB_URL") is None
