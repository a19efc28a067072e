"""Jobs that learn from preferences, from the rows to the model."""

from __future__ import annotations

import csv
import io
import math

import pytest

from storage.files import files
from storage.models.architecture import Architecture
from tests.factories import Json, colour_rows, preference_rows
from tests.worker.job.test_resolve import SMOLLM2, resolve
from tests.worker.scene import Scene
from training.messages import Dpo
from worker import trainer
from worker.job.run import run

ASKED: Json = {
    **{"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 20.0},
    **dict.fromkeys(("beta", "loss_type", "label_smoothing", "gamma", "sft_weight"), "auto"),
}


@pytest.mark.slow
def test_a_job_on_preferences_becomes_a_model(scene: Scene) -> None:
    job_id = scene.job(
        preference_rows(16), validation=preference_rows(4), method="dpo", hyperparameters=ASKED
    )
    run(scene.worker(trainer.COMMAND))
    job = scene.row(job_id)
    assert job.status == "succeeded", (job.error, scene.messages(job_id))
    assert job.train_config is not None
    assert job.train_config["config"]["method"] == Dpo(beta=0.1).model_dump()
    assert job.hyperparameters == {
        **ASKED,
        **Dpo(beta=0.1).model_dump(exclude={"kind"}),
    }
    first, *_, last = scene.metrics(job_id)
    assert first["train_loss"] == pytest.approx(math.log(2))
    assert (first["train_accuracy"], first["rewards/margins"]) == (0.5, 0)
    assert last["train_loss"] < first["train_loss"]
    assert last["train_accuracy"] == last["full_valid_accuracy"] == 1
    assert last["full_valid_rewards/margins"] > 0
    texts = [event.message for event in scene.events(job_id) if event.type == "metrics"]
    assert texts[0].startswith("Step 1/6: training loss=0.69, training accuracy=0.50")
    assert "full validation accuracy=1.00" in texts[-1]
    newest, *_ = scene.checkpoints(job_id)
    assert newest.metrics["type"] == "dpo"
    assert newest.metrics["rewards/chosen"] == last["rewards/chosen"]
    assert newest.model_name == job.fine_tuned_model
    with scene.sessions() as session:
        row = files.find(session, job.project_id, job.result_files[0])
        assert row is not None
    content = b"".join(scene.blobs.read(row.blob_key, size_bytes=row.size_bytes, sha256=row.sha256))
    table = list(csv.DictReader(io.StringIO(content.decode())))
    assert len(table) == 6
    assert table[0]["train_loss"] == "0.69315"
    assert table[-1]["train_accuracy"] == table[-1]["valid_accuracy"] == "1.00000"
    assert float(table[-1]["rewards/margins"]) == pytest.approx(last["rewards/margins"], abs=1e-5)
    assert float(table[-1]["valid_rewards/margins"]) > 0


def test_conversations_are_refused_in_openais_words(scene: Scene) -> None:
    job_id = scene.job(colour_rows(10), method="dpo", hyperparameters=ASKED)
    run(scene.worker())
    job = scene.row(job_id)
    assert job.error is not None
    assert (job.error["code"], job.error["param"]) == ("invalid_training_file", "training_file")
    assert "is in the fine-tune-chat format" in job.error["message"]
    assert "(provided method=dpo)" in job.error["message"]


@pytest.mark.parametrize(
    ("num_pairs", "size"), [(10, 8), (100, 8), (400, 8), (800, 16), (1600, 32), (10**6, 32)]
)
def test_a_batch_has_8_to_32_pairs_and_leaves_steps(num_pairs: int, size: int) -> None:
    found = resolve(num_pairs, method="dpo").config
    assert (found.batch_size, found.n_epochs) == (size, 1)


def test_simpo_has_a_beta_of_its_own_and_a_margin_that_goes_by_it() -> None:
    for asked, beta, gamma in (({}, 2, 1), ({"beta": 1.0}, 1, 0.5), ({"gamma": 0.3}, 2, 0.3)):
        hyperparameters = {"loss_type": "simpo", "beta": "auto", "gamma": "auto", **asked}
        method = resolve(100, method="dpo", hyperparameters=hyperparameters).config.method
        assert method == Dpo(loss_type="simpo", beta=beta, gamma=gamma)


def test_the_rate_is_a_tenth_of_that_for_answers_and_a_twentieth_for_large_bases() -> None:
    small = Architecture.read(
        {**SMOLLM2, "vocab_size": 49152, "tie_word_embeddings": True}, "llama"
    )
    # SmolLM2-135M has 134,515,008 parameters, of its norms 35,136.
    assert small.num_parameters == 134_515_008 - 35_136
    large = Architecture.read({**SMOLLM2, "vocab_size": 10**6}, "llama")
    assert large.num_parameters > 10**9
    asked = {"hyperparameters": {"batch_size": 8, "n_epochs": 1}}
    for architecture, share in ((small, 0.1), (large, 0.05)):
        dpo = resolve(1000, method="dpo", architecture=architecture, **asked).config
        answers = resolve(1000, architecture=architecture, **asked).config
        assert dpo.learning_rate == pytest.approx(share * answers.learning_rate)
