from __future__ import annotations

import hashlib
import re
import tarfile
from pathlib import Path

import pytest

from foundation.errors import FileNotFound
from storage.blobs import archive, artifact_keys
from storage.files import files
from storage.jobs import jobs
from tests.factories import colour_rows
from tests.worker.scene import FAKE, Scene, script
from worker.job.run import run


def test_job_runs_from_claim_to_model(finished: Scene) -> None:
    job = finished.row(finished.job_id)
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


def test_events_are_openais_in_text_and_order(finished: Scene) -> None:
    job_id = finished.job_id
    job = finished.row(job_id)
    snapshots = {c.step: c.model_name for c in finished.checkpoints(job_id)}
    told = finished.events(job_id)
    # The forecast is in words of its own: tests/worker/job/test_forecast.py.
    # So is what the linter says of rows that all have one answer: tests/worker/job/test_linting.py.
    events = [e for e in told if e.key != "forecast" and not e.key.startswith("lint")]
    assert [e.key for e in told if e.key == "forecast"] == ["forecast"]
    assert [e.message for e in events] == [
        f"Created fine-tuning job: {job_id}",
        f"Validating training file: {job.training_file} and validation file: {job.validation_file}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        "Step 1/15: training loss=2.00",
        "Step 2/15: training loss=1.00",
        "Step 3/15: training loss=0.67",
        "Step 4/15: training loss=0.50",
        "Step 5/15: training loss=0.40, full validation loss=0.60",
        f"Checkpoint created at step 5 with Snapshot ID: {snapshots[5]}",
        "Step 6/15: training loss=0.33",
        "Step 7/15: training loss=0.29",
        "Step 8/15: training loss=0.25",
        "Step 9/15: training loss=0.22",
        "Step 10/15: training loss=0.20, validation loss=0.30, full validation loss=0.40",
        f"Checkpoint created at step 10 with Snapshot ID: {snapshots[10]}",
        "Step 11/15: training loss=0.18",
        "Step 12/15: training loss=0.17",
        "Step 13/15: training loss=0.15",
        "Step 14/15: training loss=0.14",
        "Step 15/15: training loss=0.13, full validation loss=0.33",
        f"Checkpoint created at step 15 with Snapshot ID: {snapshots[15]}",
        "New fine-tuned model created",
        "The job has successfully completed",
    ]
    assert {e.level for e in events} == {"info"}
    assert [e.created_at for e in events] == sorted(e.created_at for e in events)
    data = {e.key: e.data for e in events}
    assert data["started"] is None
    assert data["succeeded"] == {}
    assert data["step:1"] == {
        "step": 1,
        "train_loss": 2.0,
        "train_mean_token_accuracy": 0.5,
        "total_steps": 15,
        "num_tokens": 14,
    }
    assert data["step:10"] is not None
    assert data["step:10"].keys() == {
        *("step", "train_loss", "train_mean_token_accuracy", "total_steps", "num_tokens"),
        *("valid_loss", "valid_mean_token_accuracy"),
        *("full_valid_loss", "full_valid_mean_token_accuracy"),
    }


def test_checkpoints_are_models_and_the_last_is_the_final_one(finished: Scene) -> None:
    job_id = finished.job_id
    job = finished.row(job_id)
    newest, *older = finished.checkpoints(job_id)
    assert newest.step == 15
    assert newest.model_name == job.fine_tuned_model
    for checkpoint in older:
        name = rf"ft:tiny-random:luthier:colours:\w{{8}}:ckpt-step-{checkpoint.step}"
        assert re.fullmatch(name, checkpoint.model_name)
    assert len({c.model_name for c in (newest, *older)}) == 3
    assert newest.metrics == {
        "step": 15,
        "train_loss": 2 / 15,
        "train_mean_token_accuracy": 1 - 2 / 15 / 4,
        "full_valid_loss": 2 / 15 + 0.2,
        "full_valid_mean_token_accuracy": 0.6,
        "type": "supervised",
    }
    model, artifact = finished.model(newest.model_name)
    assert (model.job_id, model.base_model, model.owned_by) == (job_id, "tiny-random", "luthier")
    assert (artifact.base_model, artifact.kind, artifact.spec) == (
        "tiny-random",
        "lora",
        {"rank": 8},
    )
    files = finished.artifact_files(newest.model_name)
    assert files.keys() == {"adapter_config.json", "adapter_model.safetensors"}
    digest = hashlib.sha256(files["adapter_model.safetensors"]).hexdigest()
    assert finished.artifact_tensors(newest.model_name) == {
        "a": {"dtype": "float32", "shape": [2, 3], "sha256": digest}
    }


def test_only_the_last_three_checkpoints_stay(scene: Scene) -> None:
    job_id = scene.job(hyperparameters={"n_epochs": 5, "batch_size": 5})
    run(scene.worker())
    assert [c.step for c in scene.checkpoints(job_id)] == [10, 8, 6]
    assert scene.blob_keys("artifacts/") == scene.artifact_keys()
    assert len(scene.artifact_keys()) == 3
    # All five were told of.
    assert sum(m.startswith("Checkpoint created") for m in scene.messages(job_id)) == 5


def test_result_file_has_a_line_for_each_step(finished: Scene) -> None:
    (file_id,) = finished.row(finished.job_id).result_files
    with finished.sessions() as session:
        row = files.get(session, finished.project_id, file_id)
    assert (row.filename, row.purpose) == ("step_metrics.csv", "fine-tune-results")
    chunks = finished.blobs.read(row.blob_key, size_bytes=row.size_bytes, sha256=row.sha256)
    lines = b"".join(chunks).decode().splitlines()
    assert lines[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert lines[1] == "1,2.00000,0.50000,,"
    assert lines[10] == "10,0.20000,0.95000,0.30000,0.50000"
    assert len(lines) == 16


def test_nothing_is_left_behind_but_what_rows_point_at(finished: Scene) -> None:
    assert finished.blob_keys("jobs/") == []
    assert finished.blob_keys("artifacts/") == finished.artifact_keys()
    (worker,) = finished.workers
    assert [p.name for p in worker.folder.path.iterdir()] == ["lock"]


def test_finished_job_is_left_alone(finished: Scene) -> None:
    before = finished.events(finished.job_id)
    (worker,) = finished.workers
    assert not run(worker)
    assert [e.id for e in finished.events(finished.job_id)] == [e.id for e in before]


def test_trainer_stays_for_the_next_job(scene: Scene) -> None:
    worker = scene.worker()
    first, second = scene.job(), scene.job(seed=8)
    run(worker)
    pid = worker.trainer().pid
    run(worker)
    assert worker.trainer().pid == pid
    assert scene.weights(first) != scene.weights(second)


def test_training_goes_on_from_a_tuned_model(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = scene.worker()
    first = scene.job()
    run(worker)
    model, artifact = scene.model(scene.row(first).fine_tuned_model or "")
    second = scene.job(model=model.name, init_artifact_id=artifact.id)
    run(worker)
    fresh = scene.job()
    run(worker)
    assert scene.row(second).status == "succeeded"
    assert scene.weights(second) != scene.weights(fresh)
    assert scene.weights(fresh) == scene.weights(first)


def test_auto_becomes_numbers_with_reasons(scene: Scene) -> None:
    job_id = scene.job(
        hyperparameters={
            "n_epochs": "auto",
            "batch_size": "auto",
            "learning_rate_multiplier": "auto",
        }
    )
    run(scene.worker())
    job = scene.row(job_id)
    assert job.hyperparameters == {
        "n_epochs": 10,
        "batch_size": 1,
        "learning_rate_multiplier": 1.0,
    }
    assert job.train_config is not None
    assert job.train_config["reasons"]["n_epochs"] == "10 examples"
    assert job.train_config["config"]["n_epochs"] == 10


@pytest.mark.parametrize("role", ["training", "validation"])
def test_deleted_file_fails_the_job(scene: Scene, role: str) -> None:
    job_id = scene.job(validation=colour_rows(3))
    file_id = getattr(scene.row(job_id), f"{role}_file")
    scene.change(lambda session: files.remove(session, scene.project_id, file_id))
    run(scene.worker())
    assert scene.row(job_id).error == {
        "code": f"deleted_{role}_file",
        "message": f"The job failed because the {role} file was deleted",
        "param": f"{role}_file",
    }
    with pytest.raises(FileNotFound), scene.sessions() as session:
        files.get(session, scene.project_id, file_id)


def test_bad_file_fails_the_job_and_tells_every_problem(scene: Scene) -> None:
    rows = colour_rows(12)
    rows[4]["messages"][0]["role"] = "robot"
    rows[7]["extra"] = 1
    job_id = scene.job(rows)
    run(scene.worker())
    job = scene.row(job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error["code"] == "invalid_training_file"
    assert job.error["param"] == "training_file"
    assert job.error["message"].startswith(
        "The job failed due to an invalid training file. Invalid file format. Example 5, message 1 "
        "Input tag 'robot' found using 'role' does not match any of the expected tags"
    )
    assert job.error["message"].endswith(" (1 more problem)")
    problems, failed = scene.events(job_id)[-2:]
    assert problems.data is not None
    assert [text[:30] for text in problems.data["problems"]] == [
        "Invalid file format. Example 5",
        "Invalid file format. Example 8",
    ]
    assert (failed.message, failed.level) == (job.error["message"], "error")
    with scene.sessions() as session:
        file = files.get(session, scene.project_id, job.training_file)
    assert (file.status, file.status_details) == ("error", problems.data["problems"][0])


def test_damaged_training_file_fails_the_job(scene: Scene) -> None:
    job_id = scene.job()
    key = files.blob_key(scene.project_id, scene.row(job_id).training_file)
    scene.blobs.delete(key)
    run(scene.worker())
    error = scene.row(job_id).error
    assert error is not None
    assert error["code"] == "server_error"
    assert error["param"] == "training_file"


def test_deleted_model_to_go_on_from_fails_the_job(scene: Scene) -> None:
    job_id = scene.job(model="ft:gone", init_artifact_id="adapter-gone")
    run(scene.worker())
    error = scene.row(job_id).error
    assert error is not None
    assert (error["code"], error["param"]) == ("model_not_found", "model")


def test_users_error_in_the_trainer_fails_the_job_at_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = {
        "code": "invalid_training_file",
        "message": "No example has a token to learn from.",
        "param": "training_file",
        "is_user_error": True,
    }
    monkeypatch.setenv(FAKE, script(failed=failed))
    job_id = scene.job()
    run(scene.worker())
    job = scene.row(job_id)
    assert job.error == {key: failed[key] for key in ("code", "message", "param")}
    assert job.attempt == 1


def test_trainers_warnings_become_events_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(
        FAKE,
        script(warnings=["2 examples were cut"], die_at=[7], die_once=str(tmp_path)),
    )
    job_id = scene.job()
    worker = scene.worker()
    run(worker)
    run(worker)
    assert scene.row(job_id).status == "succeeded"
    assert scene.messages(job_id).count("2 examples were cut") == 1


def test_base_that_cannot_be_imported_is_a_setback_with_its_reason(scene: Scene) -> None:
    (scene.settings.data_dir).mkdir()
    (scene.settings.data_dir / "base_models.toml").write_text(
        '[broken]\nsource = "directory:/nowhere"\n'
    )
    job_id = scene.job(base_model="broken", crashes=jobs.MAX_CRASHES - 1)
    run(scene.worker())
    error = scene.row(job_id).error
    assert error is not None
    assert error["code"] == "server_error"
    assert "The base model broken cannot be made ready" in error["message"]
    assert "/nowhere" in error["message"]


def test_tars_of_the_same_files_are_the_same_bytes(scene: Scene, tmp_path: Path) -> None:
    digests = set()
    for name in ("first", "second"):
        folder = tmp_path / name
        (folder / "state").mkdir(parents=True)
        for file in ("b", "a", "state/c") if name == "first" else ("state/c", "a", "b"):
            (folder / file).write_text(f"content of {file}")
        digests.add(archive.pack(folder, scene.blobs, artifact_keys.key(name)).sha256)
    assert len(digests) == 1
    path = tmp_path / "it.tar"
    path.write_bytes(b"".join(_stored(scene, artifact_keys.key("first"))))
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["a", "b", "state/c"]


def _stored(scene: Scene, key: str) -> list[bytes]:
    root = Path(scene.settings.blob_url.removeprefix("file://"))
    return [(root / key).read_bytes()]


def test_trainer_that_asks_is_answered(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAKE, script(ask_at=3))
    job_id = scene.job()
    run(scene.worker())
    assert scene.row(job_id).status == "succeeded"
