from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import pytest

from storage.files import files
from storage.jobs import fine_tunes
from storage.jobs.jobs import JobRow
from storage.models import models
from tests.factories import colour_rows
from tests.worker.scene import FAKE_TRAINER, Scene
from training.messages import Classification, Label
from worker import trainer
from worker.job import result_file
from worker.job.run import run

OLD_COLUMNS = [
    "step",
    "elapsed_tokens",
    "elapsed_examples",
    "training_loss",
    "training_sequence_accuracy",
    "training_token_accuracy",
    "validation_loss",
    "validation_sequence_accuracy",
    "validation_token_accuracy",
]
CLASSIFICATION_COLUMNS = [
    f"classification/{name}"
    for name in ("accuracy", "precision", "recall", "auroc", "auprc", "f1.0")
]


def step(number: int, total: int, **values: Any) -> dict[str, Any]:
    """A metrics event's data, of 7 tokens a step."""
    return {
        "step": number,
        "total_steps": total,
        "num_tokens": number * 7,
        "train_loss": 2 / number,
        "train_mean_token_accuracy": 0.5,
        **values,
    }


def config(*, n_epochs: int, batch_size: int, num_examples: int) -> dict[str, Any]:
    return {
        "config": {"n_epochs": n_epochs, "batch_size": batch_size},
        "num_examples": num_examples,
    }


def table(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


def test_each_api_has_its_own_file() -> None:
    steps = [step(1, 1)]
    train_config = config(n_epochs=1, batch_size=1, num_examples=1)
    new = JobRow(legacy=None, train_config=train_config)
    old = JobRow(legacy={"model": "curie", "name": "curie"}, train_config=train_config)
    assert result_file.of_job(new, steps) == ("step_metrics.csv", result_file.render(steps))
    assert result_file.of_job(old, steps) == (
        "compiled_results.csv",
        result_file.render_legacy(steps, train_config),
    )


def test_the_old_file_has_the_old_columns_in_their_order() -> None:
    content = result_file.render_legacy([], config(n_epochs=1, batch_size=1, num_examples=1))
    assert content.decode() == ",".join(OLD_COLUMNS + CLASSIFICATION_COLUMNS) + "\n"


@pytest.mark.parametrize("is_legacy", [False, True])
def test_every_validation_in_an_event_is_in_the_file(is_legacy: bool) -> None:
    """A job of fewer steps than a validation batch is due after has the ends of its epochs alone."""
    steps = [step(1, 2), step(2, 2, full_valid_loss=0.75, full_valid_mean_token_accuracy=0.5)]
    if is_legacy:
        content = result_file.render_legacy(steps, config(n_epochs=1, batch_size=1, num_examples=2))
        loss, accuracy = "validation_loss", "validation_token_accuracy"
    else:
        content = result_file.render(steps)
        loss, accuracy = "valid_loss", "valid_mean_token_accuracy"
    rows = table(content)
    assert [(row[loss], row[accuracy]) for row in rows] == [("", ""), ("0.75000", "0.50000")]


def test_cells_are_empty_where_nobody_measured() -> None:
    steps = [
        step(1, 3),
        step(2, 3, valid_loss=1 / 3, valid_mean_token_accuracy=0.25, full_valid_loss=9.0),
        step(3, 3, train_loss=None, valid_loss=0.0, valid_mean_token_accuracy=1.0),
    ]
    content = result_file.render_legacy(
        steps, config(n_epochs=1, batch_size=2, num_examples=6)
    ).decode()
    nothing_classified = "," * len(CLASSIFICATION_COLUMNS)
    assert content.splitlines()[1:] == [
        "1,7,2,2.00000,,0.50000,,," + nothing_classified,
        "2,14,4,1.00000,,0.50000,0.33333,,0.25000" + nothing_classified,
        "3,21,6,,,0.50000,0.00000,,1.00000" + nothing_classified,
    ]


@pytest.mark.parametrize("is_legacy", [False, True])
def test_what_is_measured_of_classes_is_in_either_file(is_legacy: bool) -> None:
    """Tables are a cell of JSON, and what is undefined is empty."""
    train_config = config(n_epochs=1, batch_size=1, num_examples=2)
    method = Classification(
        labels=(Label(text="a", token_ids=(1,)), Label(text='b,"', token_ids=(2,))),
        positive_class="a",
        betas=(1, 0.5),
    )
    train_config["config"]["method"] = method.model_dump(mode="json")
    confusion = {"a": {"a": 1.0}, 'b,"': {"a": 1.0}}
    steps = [
        step(1, 2),
        step(
            2,
            2,
            full_valid_loss=0.5,
            full_valid_accuracy=0.5,
            full_valid_precision=0.5,
            full_valid_recall=1.0,
            full_valid_f1=2 / 3,
            **{"full_valid_f0.5": 5 / 9},
            full_valid_weighted_f1=1 / 3,
            full_valid_auroc=None,
            full_valid_confusion=confusion,
        ),
    ]
    render = result_file.render_legacy if is_legacy else result_file.render
    first, last = table(render(steps, train_config))
    expected = {
        "accuracy": "0.50000",
        "precision": "0.50000",
        "recall": "1.00000",
        "auroc": "",
        "auprc": "",
        "f1.0": "0.66667",
        "f0.5": "0.55556",
        "weighted_f1_score": "0.33333",
    }
    assert {name: last[f"classification/{name}"] for name in expected} == expected
    assert json.loads(last["classification/confusion_matrix"]) == confusion
    assert not any(value for name, value in first.items() if name.startswith("classification/"))


@pytest.mark.parametrize(
    ("n_epochs", "batch_size", "num_examples", "elapsed"),
    [
        (1, 1, 3, [1, 2, 3]),
        (2, 4, 8, [4, 8, 12, 16]),
        # The last batch of an epoch holds what is left.
        (2, 4, 10, [4, 8, 10, 14, 18, 20]),
        # A batch of more than there is.
        (3, 64, 10, [10, 20, 30]),
    ],
)
def test_elapsed_examples_count_every_repeat(
    n_epochs: int, batch_size: int, num_examples: int, elapsed: list[int]
) -> None:
    steps = [step(number, len(elapsed)) for number in range(1, len(elapsed) + 1)]
    rows = table(
        result_file.render_legacy(
            steps, config(n_epochs=n_epochs, batch_size=batch_size, num_examples=num_examples)
        )
    )
    assert [int(row["elapsed_examples"]) for row in rows] == elapsed
    assert [int(row["elapsed_tokens"]) for row in rows] == [7 * n for n in range(1, len(rows) + 1)]


@pytest.mark.parametrize(
    "trainer_command",
    [
        pytest.param(FAKE_TRAINER, id="fake"),
        pytest.param(trainer.COMMAND, id="real", marks=pytest.mark.slow),
    ],
)
def test_a_finished_job_of_the_old_api_has_its_file_and_its_name(
    scene: Scene, trainer_command: tuple[str, ...]
) -> None:
    job_id = scene.job(
        colour_rows(11),
        validation=colour_rows(4),
        hyperparameters={"n_epochs": 2, "batch_size": 2},
        legacy={"model": "curie", "name": "curie"},
    )
    run(scene.worker(trainer_command))
    with scene.sessions() as session:
        job = fine_tunes.get(session, scene.project_id, job_id)
    assert job.status == "succeeded", job.error
    assert job.fine_tuned_model is not None
    assert re.fullmatch(r"curie:ft-luthier:colours-\d{4}(-\d\d){5}", job.fine_tuned_model), (
        job.fine_tuned_model
    )
    model, adapter = scene.model(job.fine_tuned_model)
    assert (model.base_model, adapter.base_model) == ("tiny-random", "tiny-random")
    # The snapshots of the epochs are models, too, each by a name of its own.
    names = [checkpoint.model_name for checkpoint in scene.checkpoints(job_id)]
    assert len(set(names)) == 2
    assert names[0] == job.fine_tuned_model

    (file_id,) = job.result_files
    with scene.sessions() as session:
        file = files.get(session, scene.project_id, file_id)
        assert models.find(session, "proj_other", job.fine_tuned_model) is None
    assert (file.filename, file.purpose) == ("compiled_results.csv", "fine-tune-results")
    content = scene.blobs.read(file.blob_key, size_bytes=file.size_bytes, sha256=file.sha256)
    rows = table(b"".join(content))
    assert list(rows[0]) == OLD_COLUMNS + CLASSIFICATION_COLUMNS
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    assert [int(row["elapsed_examples"]) for row in rows] == [
        2,
        4,
        6,
        8,
        10,
        11,
        13,
        15,
        17,
        19,
        21,
        22,
    ]
    tokens = [int(row["elapsed_tokens"]) for row in rows]
    assert tokens == sorted(set(tokens))
    assert tokens[-1] == job.trained_tokens
    assert all(float(row["training_loss"]) > 0 for row in rows)
    assert all(0 <= float(row["training_token_accuracy"]) <= 1 for row in rows)
    for row, metrics in zip(rows, scene.metrics(job_id), strict=True):
        is_validated = not metrics.keys().isdisjoint({"valid_loss", "full_valid_loss"})
        assert bool(row["validation_loss"]) == is_validated
        assert bool(row["validation_token_accuracy"]) == is_validated
    assert any(row["validation_loss"] for row in rows)
    assert not all(row["validation_loss"] for row in rows)
