"""Jobs that classify, from the rows to the model."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from dataset.labels import Labels
from storage.files import files
from storage.jobs.jobs import JobRow
from tests.factories import Json
from tests.worker.job.test_resolve import resolve
from tests.worker.scene import Scene
from training.messages import Classification, Classifier
from worker import trainer
from worker.endings import JobFailed
from worker.job import classes
from worker.job.resolve import Resolved, method_of
from worker.job.run import run

ASKED: Json = {
    "n_epochs": 2,
    "batch_size": 8,
    "learning_rate_multiplier": 1.0,
    "class_weights": "auto",
    "n_classes": "auto",
    "positive_class": "auto",
    "betas": "auto",
}


def rows(*labels: str) -> list[Json]:
    return [{"text": f"Number {n}", "label": label} for n, label in enumerate(labels)]


def found(**counts: int) -> Labels:
    labels = Labels()
    labels.form = "text"
    for place, (text, count) in enumerate(counts.items()):
        for number in range(count):
            labels.see(number + 1, text, (place, 9))
    return labels


def resolved(labels: Labels, **asked: Any) -> Classification:
    method = method_of("classification", {**ASKED, **asked})
    assert isinstance(method, Classification)
    return classes.resolved(method, labels)


def test_balanced_weights_let_all_classes_count_alike() -> None:
    labels = found(ham=8, spam=2)
    weights = {label.text: label.weight for label in resolved(labels).labels}
    assert weights == {"ham": 1.0, "spam": 1.0}
    method = resolved(labels, class_weights="balanced")
    weights = {label.text: label.weight for label in method.labels}
    # As scikit-learn's compute_class_weight: n / (classes * count).
    assert weights == {"ham": 10 / 16, "spam": 10 / 4}
    method = resolved(labels, class_weights={"spam": 3})
    assert {label.text: label.weight for label in method.labels} == {"ham": 1.0, "spam": 3.0}


def test_of_two_labels_the_rarer_one_is_searched_for_unless_another_is_named() -> None:
    labels = found(ham=8, spam=2)
    assert resolved(labels).positive_class == "spam"
    assert resolved(labels, positive_class=" ham").positive_class == "ham"
    assert resolved(found(a=1, b=1, c=1)).positive_class is None


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"n_classes": 3}, "has 2 labels ('ham', 'spam'), but n_classes is 3"),
        ({"positive_class": "eggs"}, "has no label 'eggs', which positive_class names"),
        ({"class_weights": {"eggs": 2}}, "has no label 'eggs', which class_weights names"),
    ],
)
def test_labels_that_were_asked_for_and_are_not_there_fail_the_job(asked: Json, words: str) -> None:
    with pytest.raises(JobFailed) as caught:
        resolved(found(ham=8, spam=2), **asked)
    assert words in caught.value.message
    assert caught.value.param == "training_file"
    with pytest.raises(JobFailed, match="positive_class is for two"):
        resolved(found(a=1, b=1, c=1), positive_class="a")


def test_a_validation_file_with_another_label_fails_the_job(scene: Scene) -> None:
    job_id = scene.job(
        rows(*["ham", "spam"] * 5),
        validation=rows("ham", "eggs"),
        method="classification",
        hyperparameters=ASKED,
    )
    run(scene.worker())
    job = scene.row(job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error["param"] == "validation_file"
    assert "Example 2 has the label 'eggs'" in job.error["message"]


def test_a_job_that_goes_on_from_a_head_has_its_rows_in_their_order() -> None:
    begun = Classifier(
        rank=2, alpha=2.0, target_modules=("q_proj",), labels=("spam", "ham", "eggs")
    )
    method = method_of("classification", {**ASKED, "head": True})
    assert isinstance(method, Classification)
    labels = classes.labels_of(method, begun)
    assert labels is not None
    labels.form = "text"
    assert labels.see(1, "ham", (7,)) is None
    wrong = labels.see(2, "fish", (8,))
    assert wrong is not None
    assert (
        "the label 'fish', for which the model to go on from has no row; it has 'eggs'"
        in wrong.text
    )
    config = resolve(100, method="classification", init_artifact=begun).config
    job = Resolved(config.model_copy(update={"method": method}), {})
    balanced = classes.resolved(method.model_copy(update={"class_weights": "balanced"}), labels)
    assert all(label.weight > 0 for label in balanced.labels)
    found = classes.with_labels(job, labels).config
    assert found.trainable == begun
    assert isinstance(found.method, Classification)
    assert [label.text for label in found.method.labels] == ["spam", "ham", "eggs"]
    # Another attempt goes by what the first one wrote.
    again = classes.labels_of(found.method, begun)
    assert again is not None
    assert again.classes.keys() == labels.classes.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("is_legacy", "head"), [(False, False), (True, False), (False, True)], ids=str
)
def test_a_job_that_classifies_becomes_a_model(scene: Scene, is_legacy: bool, head: bool) -> None:
    job_id = scene.job(
        rows(*["ham", "ham", "spam"] * 8, "eggs"),
        validation=rows("ham", "spam", "spam"),
        method="classification",
        hyperparameters=ASKED | {"class_weights": "balanced", "n_classes": 3, "head": head},
        legacy={"model": "curie", "name": "curie"} if is_legacy else None,
    )
    run(scene.worker(trainer.COMMAND))
    with scene.sessions() as session:
        job = session.get_one(JobRow, job_id)
        assert job.status == "succeeded", (job.error, scene.messages(job_id))
        assert job.train_config is not None
        method = job.train_config["config"]["method"]
        (file_id,) = job.result_files
        file = files.get(session, scene.project_id, file_id)
    order = ["ham", "spam", "eggs"] if head else ["eggs", "ham", "spam"]
    assert [label["text"] for label in method["labels"]] == order
    assert job.fine_tuned_model is not None
    _, artifact = scene.model(job.fine_tuned_model)
    assert artifact.kind == ("classifier" if head else "lora")
    assert artifact.spec.get("labels") == (order if head else None)
    assert method["form"] == "text"
    assert job.hyperparameters["betas"] == [1.0]
    assert "labels" not in job.hyperparameters
    once = [event for event in scene.events(job_id) if event.key == "labels_once"]
    assert [event.level for event in once] == ["warn"]
    assert "'eggs' (example 25)" in once[0].message
    last = scene.metrics(job_id)[-1]
    assert 0 <= last["full_valid_accuracy"] <= 1
    assert last["full_valid_classes"]["spam"]["support"] == 2
    assert sum(sum(row.values()) for row in last["full_valid_confusion"].values()) == 3
    newest = scene.checkpoints(job_id)[0]
    assert newest.metrics["type"] == "classification"
    assert newest.metrics["full_valid_confusion"] == last["full_valid_confusion"]
    content = b"".join(
        scene.blobs.read(file.blob_key, size_bytes=file.size_bytes, sha256=file.sha256)
    )
    cells = list(csv.DictReader(io.StringIO(content.decode())))[-1]
    assert cells["classification/accuracy"] == f"{last['full_valid_accuracy']:.5f}"
    assert json.loads(cells["classification/confusion_matrix"]) == (last["full_valid_confusion"])
