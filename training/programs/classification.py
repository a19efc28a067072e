"""Classification by label tokens: supervised fine-tuning on the labels, judged as the choice among them that it is.

A label scores Σ log p of all its tokens, and the highest is the guess. Each example that is judged costs one forward pass:
its prompt once, and every label behind that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dataset.examples import Example
from training.batches import ScoredRow
from training.course import Diverged, Measured, Program, Step, Values
from training.messages import Classification, Table, TrainConfig
from training.primitives import Learner
from training.programs import class_metrics
from training.programs.class_metrics import Floats, Ints

from .supervised import SupervisedProgram


class ClassificationProgram(Program):
    """Measures `loss` and `mean_token_accuracy` of the labels' tokens, and of what is judged how well the classes are told apart.

    A class's weight counts in what is learnt, not in what is judged.
    """

    def __init__(self, config: TrainConfig, method: Classification, learner: Learner) -> None:
        self._supervised = SupervisedProgram(config, learner)
        self._method = method
        self._learner = learner
        self._places = {label.token_ids: place for place, label in enumerate(method.labels)}

    def update(
        self,
        step: int,
        examples: Sequence[Example],
        learning_rate: float,
        check_stop: Callable[[], None],
    ) -> Step:
        weighted = [self._weighted(example) for example in examples]
        return (yield from self._supervised.update(step, weighted, learning_rate, check_stop))

    def evaluate(
        self, step: int, examples: Sequence[Example], check_stop: Callable[[], None]
    ) -> Measured:
        judged = [self._judge(example, check_stop) for example in examples]
        scores: Floats = torch.stack([of_labels for of_labels, _ in judged]).cpu().numpy()  # (N, K)
        if not np.isfinite(scores).all():
            raise Diverged("The validation loss became infinite or not a number", step)
        truths = np.array([self._truth(example) for example in examples])
        num_tokens = sum(example.num_supervised_tokens for example in examples)
        table = class_metrics.confusion(truths, scores.argmax(axis=1), len(self._method.labels))
        return {
            "loss": -float(scores[np.arange(len(truths)), truths].sum()) / num_tokens,
            "mean_token_accuracy": float(torch.stack([right for _, right in judged]).sum())
            / num_tokens,
            "accuracy": class_metrics.accuracy(table),
            "weighted_f1": class_metrics.weighted_f1(table),
            **self._of_search(table, truths, scores),
            **_tables(table, [label.text for label in self._method.labels]),
        }

    def _weighted(self, example: Example) -> Example:
        weight = self._method.labels[self._truth(example)].weight
        return dataclasses.replace(example, weights=example.weights * np.float32(weight))

    def _truth(self, example: Example) -> int:
        """The place of the example's label."""
        return self._places[tuple(example.input_ids[_label_start(example) :].tolist())]

    def _judge(self, example: Example, check_stop: Callable[[], None]) -> tuple[Tensor, Tensor]:
        """The labels' scores (K,) float64 behind the example's prompt, and how many tokens of the right one are the likeliest."""
        prompt = example.input_ids[: _label_start(example)]
        truth = self._truth(example)
        units = [[_row(prompt, label.token_ids)] for label in self._method.labels]
        scores = torch.zeros(len(units), dtype=torch.float64, device=self._learner.device)
        num_right = torch.zeros((), dtype=torch.int64, device=self._learner.device)
        # The prompt is there once, and the budget is for what stands behind it.
        for batch in self._learner.micro_batches(units, num_beginning=len(prompt)):
            check_stop()
            found = self._learner.logprobs(batch)
            rows = zip(
                batch.units,
                batch.of_rows(found.logprobs),
                batch.of_rows(found.is_top),
                strict=True,
            )
            for place, logprobs, is_top in rows:
                scores[place] = logprobs.double().sum()
                if place == truth:
                    num_right = is_top.sum()
        return scores, num_right

    def _of_search(
        self,
        table: Ints,
        truths: Ints,
        scores: Floats,
    ) -> Values:
        """Of two classes: how well the one that is searched for is found."""
        texts = [label.text for label in self._method.labels]
        if self._method.positive_class is None:
            return {}
        place = texts.index(self._method.positive_class)
        is_positive = truths == place
        # Finer than a probability, which is 1 for all that the model is sure of.
        margin = scores[:, place] - scores[:, 1 - place]
        return {
            "precision": float(class_metrics.precision(table)[place]),
            "recall": float(class_metrics.recall(table)[place]),
            **{
                f"f{beta:g}": float(class_metrics.f_beta(table, beta)[place])
                for beta in self._method.betas
            },
            "auroc": class_metrics.auroc(is_positive, margin),
            "auprc": class_metrics.average_precision(is_positive, margin),
        }


def _label_start(example: Example) -> int:
    return int(np.flatnonzero(example.weights)[0])


def _row(prompt: npt.NDArray[np.int32], label_ids: Sequence[int]) -> ScoredRow:
    input_ids = np.concatenate([prompt, np.array(label_ids, np.int32)])
    mask = np.arange(len(input_ids)) >= len(prompt)
    return ScoredRow(input_ids, mask, mask.astype(np.float32))


def _tables(table: Ints, texts: Sequence[str]) -> dict[str, Table]:
    """Each class's rates, and which classes were taken for which."""
    columns = {
        "precision": class_metrics.precision(table),
        "recall": class_metrics.recall(table),
        "f1": class_metrics.f_beta(table),
        "support": table.sum(axis=1),
    }
    return {
        "classes": {
            text: {name: float(column[place]) for name, column in columns.items()}
            for place, text in enumerate(texts)
        },
        "confusion": {
            truth: {guess: float(n) for guess, n in zip(texts, row, strict=True) if n}
            for truth, row in zip(texts, table.tolist(), strict=True)
        },
    }
