from __future__ import annotations

import csv
import io
import re

from tests.factories import colour_rows
from tests.worker.scene import Scene
from worker.run import run


def test_job_runs_from_claim_to_model(scene: Scene) -> None:
    job_id = scene.job(validation=colour_rows(10))
    worker = scene.worker()
    run(worker, job_id)
    job = scene.row(job_id)
    assert job.status == "succeeded", job.error
    assert job.error is None
    assert job.finished_at is not None
    assert job.estimated_finish is None
    assert job.lease_owner is None
    assert job.trained_tokens == 10 * 3 * 7
    assert job.hyperparameters == {
        "n_epochs": 3,
        "batch_size": 2,
        "learning_rate_multiplier": 1.0,
    }
    assert job.fine_tuned_model is not None
    assert re.fullmatch(r"ft:tiny-random:luthier:colours:\w{8}", job.fine_tuned_model)
