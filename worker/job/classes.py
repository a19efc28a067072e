"""The labels of a job that classifies, from what its training file has of them and what was asked for."""

from __future__ import annotations

import dataclasses

from sqlalchemy.orm import Session

from dataset.labels import Labels
from storage.jobs import events
from training.messages import Classification, Classifier, Label, Lora, Method, Trainable
from worker.endings import JobFailed
from worker.lease import Lease

from .resolve import Resolved

_SHOWN = 10


def labels_of(method: Method, begun: Trainable | None) -> Labels | None:
    """Where the file's labels are collected, or those that an earlier attempt found; None if there are none.

    A job that goes on from a model with a head (`begun`) has the labels of its rows and no others.
    """
    if not isinstance(method, Classification):
        return None
    known = {label.text: label.token_ids for label in method.labels} or None
    if isinstance(begun, Classifier):
        rows = {text: (row,) for row, text in enumerate(begun.labels)}
        form = method.form if known else None
        return Labels(known or rows, form, are_rows=True, are_a_models=True)
    return Labels(known, method.form if known else None, are_rows=method.head)


def with_labels(job: Resolved, found: Labels) -> Resolved:
    """With those of the training file. Raises JobFailed for labels that were asked for and are not there."""
    method = job.config.method
    assert isinstance(method, Classification)
    method = resolved(method, found)
    changes: dict[str, object] = {"method": method}
    if method.head and not isinstance(job.config.trainable, Classifier):
        assert isinstance(job.config.trainable, Lora)
        labels = [label.text for label in method.labels]
        lora = job.config.trainable.model_dump(exclude={"kind"})
        changes["trainable"] = Classifier(**lora, labels=labels)
    return dataclasses.replace(job, config=job.config.model_copy(update=changes))


def resolved(method: Classification, found: Labels) -> Classification:
    """Raises JobFailed likewise."""
    texts = list(found.classes) if method.head else sorted(found.classes)
    if method.n_classes not in (None, len(texts)):
        raise _wrong(
            f"has {len(texts)} labels ({_shown(texts)}), but n_classes is {method.n_classes}"
        )
    assert found.form is not None
    return method.model_copy(
        update={
            "form": found.form,
            "labels": tuple(
                Label(text=text, token_ids=found.classes[text].token_ids, weight=weight)
                for text, weight in zip(texts, _weights(method, found, texts), strict=True)
            ),
            "positive_class": _positive_class(method.positive_class, found, texts),
        }
    )


def _weights(method: Classification, found: Labels, texts: list[str]) -> list[float]:
    """Balanced ones as scikit-learn has them: all classes count alike, and an example counts 1 in the mean."""
    asked = method.class_weights
    counts = [found.classes[text].count for text in texts]
    if asked is None:
        return [1.0] * len(texts)
    if asked == "balanced":
        # A model's rows may have labels that the file has no example of.
        return [sum(counts) / (len(counts) * (count or sum(counts))) for count in counts]
    if unknown := sorted(asked.keys() - set(texts)):
        raise _wrong(
            f"has no label {unknown[0]!r}, which class_weights names; it has {_shown(texts)}"
        )
    return [asked.get(text, 1.0) for text in texts]


def _positive_class(asked: str | None, found: Labels, texts: list[str]) -> str | None:
    """Of two labels the rarer one, where nothing was said: that is what one mostly searches for."""
    if asked is None:
        rarest = min(texts, key=lambda text: found.classes[text].count)
        return rarest if len(texts) == 2 else None
    if len(texts) > 2:
        raise _wrong(
            f"has {len(texts)} labels ({_shown(texts)}), and positive_class is for two; leave it out"
        )
    # In the old files a label begins with a space.
    named = [text for text in texts if text == asked] or [
        text for text in texts if text.strip() == asked.strip()
    ]
    if len(named) != 1:
        raise _wrong(f"has no label {asked!r}, which positive_class names; it has {_shown(texts)}")
    return named[0]


def tell(session: Session, lease: Lease, method: Method, found: Labels) -> None:
    """What is to be known of the labels before training."""
    assert isinstance(method, Classification)
    texts = [label.text for label in method.labels]
    text = f"{len(texts)} labels: {_shown(texts)}"
    if method.positive_class is not None:
        text += f". The one that is searched for is {method.positive_class!r}"
    counts = {each: found.classes[each].count for each in texts}
    events.add(session, lease.job.id, "labels", text, data={"examples": counts})
    once = found.once
    if once:
        rows = [f"{text!r} (example {number})" for text, number in list(once.items())[:_SHOWN]]
        more = f" and {len(once) - _SHOWN} more" if len(once) > _SHOWN else ""
        events.add(
            session,
            lease.job.id,
            "labels_once",
            f"Seen once in the training file, which is too seldom to be learnt: {', '.join(rows)}{more}. "
            "If one is misspelt, mend it; else add examples of it",
            level="warn",
            data={"examples": once},
        )


def _shown(texts: list[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(map(repr, texts[:_SHOWN])) + more


def _wrong(what: str) -> JobFailed:
    return JobFailed("invalid_training_file", f"The training file {what}.", "training_file")
