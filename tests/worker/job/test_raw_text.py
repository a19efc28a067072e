"""Jobs on raw text, from the rows to the model."""

from __future__ import annotations

import math

import pytest

from storage.models.base_models import BaseModel
from tests.factories import Json, colour_rows
from tests.worker.scene import Scene
from training.messages import Unsupervised
from worker import bases, trainer
from worker.endings import Setback
from worker.job import resolve
from worker.job.run import run

TEXTS: list[Json] = [{"text": f"Document {number}. " * 5} for number in range(20)]
ASKED = {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 1.0, "overlap": "auto"}


@pytest.mark.slow
def test_a_job_on_raw_text_becomes_a_model(scene: Scene) -> None:
    job_id = scene.job(
        [*TEXTS, {"text": "long " * 1000}],
        validation=TEXTS[:3],
        method="unsupervised",
        hyperparameters=ASKED,
    )
    run(scene.worker(trainer.COMMAND))
    job = scene.row(job_id)
    assert job.status == "succeeded", (job.error, scene.messages(job_id))
    assert job.train_config is not None
    assert job.train_config["config"]["method"] == {"kind": "unsupervised", "overlap": 0}
    assert job.hyperparameters == {**ASKED, "overlap": 0}
    # 5,001 tokens in windows of 2,048 predictions and fewer.
    assert job.train_config["num_examples"] == 23
    metrics = scene.metrics(job_id)
    assert [step["step"] for step in metrics] == list(range(1, 7))
    for step in metrics:
        assert step["train_perplexity"] == pytest.approx(math.exp(step["train_loss"]))
    assert metrics[-1]["train_loss"] < metrics[0]["train_loss"]
    texts = [event.message for event in scene.events(job_id) if event.type == "metrics"]
    assert "training perplexity=" in texts[0]
    assert "full validation perplexity=" in texts[-1]
    newest, _ = scene.checkpoints(job_id)
    assert newest.metrics["type"] == "unsupervised"
    assert newest.metrics["full_valid_perplexity"] > 1
    assert newest.metrics["full_valid_bits_per_byte"] > 0
    assert newest.model_name == job.fine_tuned_model


def test_conversations_are_refused_with_a_mend(scene: Scene) -> None:
    job_id = scene.job(colour_rows(10), method="unsupervised", hyperparameters=ASKED)
    run(scene.worker())
    job = scene.row(job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error["code"], job.error["param"]) == ("invalid_training_file", "training_file")
    assert (
        "chat messages and prompt/completion pairs are for the method 'supervised'"
        in (job.error["message"])
    )


def test_a_text_file_is_read_by_its_name(scene: Scene) -> None:
    text = b"A long document, " * 200
    name = "corpus.txt"
    job_id = scene.job(
        training_file=scene.file(b"short\n<|endoftext|>\n" + text, name),
        method="unsupervised",
        hyperparameters=ASKED,
    )
    run(scene.worker())
    # As many as there are windows and documents, which are too few.
    error = scene.row(job_id).error
    assert error is not None
    assert "has 3 example(s)" in error["message"]
    job_id = scene.job(training_file=scene.file(text, name), hyperparameters=ASKED)
    run(scene.worker())
    error = scene.row(job_id).error
    assert error is not None
    assert "which the method 'unsupervised' learns from" in error["message"]


def test_windows_overlap_as_asked_and_by_half_where_a_loss_is_measured() -> None:
    method = resolve.method_of("unsupervised", {**ASKED, "overlap": 100})
    assert method == Unsupervised(overlap=100)
    assert resolve.overlap_of(method, "training", 2048) == 100
    assert resolve.overlap_of(method, "training", 64) == 32
    assert resolve.overlap_of(method, "validation", 2048) == 1024
    supervised = resolve.method_of("supervised", {"n_epochs": 2})
    assert resolve.overlap_of(supervised, "validation", 2048) is None


def test_a_base_without_the_token_that_shall_end_texts_is_told(scene: Scene) -> None:
    base = BaseModel("tiny-random", "builtin:tiny-random", "1", document_end="<|nothing|>")
    path = scene.bases.path(base, lambda: None)
    with pytest.raises(Setback, match="of the base model tiny-random cannot be read") as caught:
        bases.read_template(base, path)
    assert "no token '<|nothing|>' to end texts" in str(caught.value.__cause__)
