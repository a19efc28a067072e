"""The report of a real run: the demo's job on the default base, measured on mails that it has not seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples import tickets
from luthier import Luthier
from tests.e2e import jobs
from tests.e2e.stack import serving

ASKING = ("prompts", "contenders", "changed", "cost")


@pytest.mark.slow
def test_support_mails_are_helped_by_tuning_and_not_by_copying(tmp_path: Path) -> None:
    with (
        serving(
            tmp_path / "data", env={"LUTHIER_REPORTS": "auto", "OMP_NUM_THREADS": "2"}
        ) as stack,
        Luthier(base_url=stack.base_url, api_key=stack.api_key) as client,
    ):
        files = {
            name: client.files.create(file=tickets.DATA_DIR / f"{name}.jsonl", purpose="fine-tune")
            for name in ("train", "holdout")
        }
        job = client.fine_tuning.jobs.create(
            model="smollm2-135m-instruct",
            training_file=files["train"].id,
            validation_file=files["holdout"].id,
            seed=1,
            method=jobs.hyperparameters(n_epochs=2, batch_size=8, learning_rate_multiplier=2),
        )
        assert jobs.wait(client, job.id, timeout_s=3600).status == "succeeded"
        report = client.reports.wait(job.id, timeout_s=3600)
        page = client.reports.html(job.id)

    assert report["verdict"]["code"] == "helped", report["verdict"]
    shares = {each["name"]: each["primary"]["value"] for each in report["contenders"]["contenders"]}
    assert shares["tuned"] > 0.5
    # A quarter of the task needs no model, as was found by hand.
    assert 0.15 < shares["copy"] < 0.4
    assert shares["zero_shot"] < 0.1
    assert report["changed"]["against"] == "copy"
    assert report["data"]["task"]["type"] == "json"
    # What the budget is for: asking the contenders.
    trained_s = report["cost"]["training_seconds"]
    assert sum(report["costs"][name]["seconds"] for name in ASKING) < 1.5 * trained_s + 60
    assert "Fine-tuning helped" in page
