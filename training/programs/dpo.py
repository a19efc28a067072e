"""Preferences: what the model that training began with makes of the pairs is computed once, and kept, if it counts.

It is never computed again, not even after a resume: packed with other rows, sums differ in their last bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from dataset.examples import Example
from dataset.tokenized import Dataset
from training import batches
from training.batches import MicroBatch, ScoredRow
from training.checkpoint import CheckpointError
from training.course import Diverged, Program, Step, Values
from training.losses.dpo import PreferenceLoss, sums
from training.messages import Dpo, TrainConfig
from training.primitives import Learner
from training.sharing.fused import forward_backward

# Pairs that validation packs together.
_VALIDATION_WINDOW = 32

_MEASURED = (
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)
"""As TRL calls them. A reward is beta times what an answer has gained beside the reference, or the mean of its tokens."""
_SMOOTHING = 0.25
MAX_FALL = 1.2
"""From here on the preferred answers have become so much less likely that it is told."""
MAX_LENGTH_RATIO = 2.0
"""So many times as long as the others they teach length above all."""


class DpoProgram(Program):
    """Measures the loss, by pairs, and TRL's rewards; `accuracy` is the share of pairs in the right order."""

    def __init__(self, config: TrainConfig, method: Dpo, learner: Learner) -> None:
        self._config = config
        self._method = method
        self._learner = learner
        self._reference: dict[str, Tensor] = {}
        """(N, 2) float32 of a file's N pairs; NaN where it is still to be computed."""
        self._digests: dict[str, Tensor] = {}
        """Of the files whose pairs these are."""
        self._fall = torch.ones((), dtype=torch.float64)
        """How many times as unlikely, in logarithms, the preferred answers are as at the start."""
        self._lengths = torch.zeros(2, dtype=torch.float64)
        """All tokens of the preferred answers and of the others."""
        self._is_prepared = False

    # Before the first step.

    def prepare(
        self, training: Dataset, validation: Dataset | None, check_stop: Callable[[], None]
    ) -> Iterator[None]:
        if not self._method.has_reference:
            self._lengths.zero_()
            self._count(training.examples)
            self._is_prepared = True
            return
        self._expect("training", training)
        if validation is not None:
            self._expect("validation", validation)
        # Packed as in the first epoch, whose first step then begins exactly where the reference is.
        for step in range(1, self._steps_per_epoch(len(training.examples)) + 1):
            indices = batches.examples_of_step(
                step, len(training.examples), self._config.batch_size, self._config.seed
            )
            if not self._is_known("training", indices):
                examples = [training.examples[index] for index in indices]
                self._add_reference("training", examples, check_stop)
                self._count(examples)
                yield
        for start in range(0, len(validation.examples) if validation else 0, _VALIDATION_WINDOW):
            assert validation is not None
            window = validation.examples[start : start + _VALIDATION_WINDOW]
            if not self._is_known("validation", [each.index for each in window]):
                self._add_reference("validation", window, check_stop)
                yield
        self._is_prepared = True

    def _steps_per_epoch(self, num_examples: int) -> int:
        return batches.steps_per_epoch(num_examples, self._config.batch_size)

    def _expect(self, role: str, dataset: Dataset) -> None:
        """Raises CheckpointError when what is kept is of another file."""
        digest = torch.tensor(list(bytes.fromhex(dataset.statistics.sha256)), dtype=torch.uint8)
        shape = (len(dataset.examples), 2)
        if role not in self._reference:
            self._reference[role] = torch.full(shape, math.nan)
            self._digests[role] = digest
        elif self._reference[role].shape != shape or not self._digests[role].equal(digest):
            raise CheckpointError(f"its reference is of another {role} file")

    def _is_known(self, role: str, indices: Sequence[int]) -> bool:
        return not self._reference[role][indices].isnan().any()

    def _add_reference(
        self, role: str, examples: Sequence[Example], check_stop: Callable[[], None]
    ) -> None:
        found = torch.empty(len(examples), 2)
        for batch in self._batches(examples):
            check_stop()
            scores = self._learner.logprobs(batch, "start")
            found[list(batch.units)] = sums(scores.logprobs, batch).cpu()
        if not found.isfinite().all():
            raise Diverged("The reference became infinite or not a number", 0)
        # All of a step or nothing: a stop in the middle leaves what was there.
        self._reference[role][[each.index for each in examples]] = found

    def _count(self, examples: Iterable[Example]) -> None:
        for example in examples:
            counts = [sequence.num_supervised_tokens for sequence in example.sequences]
            self._lengths += torch.tensor(counts, dtype=torch.float64)

    # What a checkpoint keeps.

    def state(self) -> dict[str, Tensor]:
        return {
            **{f"reference.{role}": values for role, values in self._reference.items()},
            **{f"sha256.{role}": digest for role, digest in self._digests.items()},
            "fall": self._fall,
            "lengths": self._lengths,
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        try:
            self._fall, self._lengths = state["fall"].clone(), state["lengths"].clone()
            for name in state:
                part, _, role = name.partition(".")
                if part == "reference":
                    self._reference[role] = state[name].clone()
                    self._digests[role] = state[f"sha256.{role}"].clone()
        except KeyError as error:
            raise CheckpointError(f"it lacks the reference's {error}") from error

    # Steps.

    def update(
        self,
        step: int,
        examples: Sequence[Example],
        learning_rate: float,
        check_stop: Callable[[], None],
    ) -> Step:
        measured = self._zeros()
        for batch in self._batches(examples):
            check_stop()
            loss = self._loss("training", examples, batch)
            value, scores = yield from forward_backward(self._learner, batch, loss, len(examples))
            measured += self._measure(value, loss, scores.logprobs, batch)
        norm = self._learner.optim_step(learning_rate, self._config.max_grad_norm)
        # The only wait for the device in a step.
        *found, grad_norm = torch.cat([measured, norm[None]]).tolist()
        if not (math.isfinite(found[0]) and math.isfinite(grad_norm)):
            raise Diverged("The training loss became infinite or not a number", step)
        values = _means(found, len(examples))
        if self._method.has_reference:
            before = self._reference["training"][[each.index for each in examples]]
            ratio = values["logps/chosen"] / min(before[:, 0].double().mean().item(), -1e-6)
            self._fall += _SMOOTHING * (ratio - self._fall)
        return values

    def evaluate(
        self, step: int, examples: Sequence[Example], check_stop: Callable[[], None]
    ) -> Values:
        measured = self._zeros()
        for start in range(0, len(examples), _VALIDATION_WINDOW):
            window = examples[start : start + _VALIDATION_WINDOW]
            for batch in self._batches(window):
                check_stop()
                loss = self._loss("validation", window, batch)
                logprobs = self._learner.logprobs(batch).logprobs
                measured += self._measure(loss(logprobs, batch), loss, logprobs, batch)
        found = measured.tolist()
        if not math.isfinite(found[0]):
            raise Diverged("The validation loss became infinite or not a number", step)
        return _means(found, len(examples))

    def alerts(self) -> Mapping[str, str]:
        found = {}
        preferred, other = self._lengths.tolist()
        if self._is_prepared and preferred >= MAX_LENGTH_RATIO * other:
            found["length"] = (
                f"The preferred answers are {preferred / other:.1f} times as long as the others, so that the model "
                "may learn to write long above all. Pairs of about equal length hold against that"
            )
        if self._fall >= MAX_FALL:
            found["fall"] = (
                f"The preferred answers have become less likely than at the start: their log-probability has fallen by "
                f"{100 * (self._fall.item() - 1):.0f} %. That both answers fall somewhat is normal; by so much, the "
                "model may unlearn to answer. A higher beta, a lower learning_rate_multiplier or an sft_weight of 0.1 "
                "hold against that, and so does supervised fine-tuning on the preferred answers first"
            )
        return found

    def _zeros(self) -> Tensor:
        """Sums over pairs, on the device and as exact as Python's own."""
        return torch.zeros(len(_MEASURED), dtype=torch.float64, device=self._learner.device)

    def _batches(self, examples: Sequence[Example]) -> Iterator[MicroBatch]:
        units = [[ScoredRow.of(each) for each in example.sequences] for example in examples]
        return self._learner.micro_batches(units)

    def _loss(self, role: str, examples: Sequence[Example], batch: MicroBatch) -> PreferenceLoss:
        if not self._method.has_reference:
            return PreferenceLoss(self._method, None)
        indices = [examples[unit].index for unit in batch.units]
        reference = self._reference[role][indices].to(self._learner.device)
        return PreferenceLoss(self._method, reference)

    @torch.no_grad()
    def _measure(
        self, value: Tensor, loss: PreferenceLoss, logprobs: Tensor, batch: MicroBatch
    ) -> Tensor:
        """The sums over the batch's pairs of what is `_MEASURED`. Half of a tie is right."""
        pairs = loss.pairs(logprobs, batch)
        better, worse = (self._method.beta * pairs.merits.double()).unbind(1)
        is_right = (1 + torch.sign(better - worse)) / 2
        logps = pairs.logprobs.double().sum(0)
        rewards = torch.stack([better, worse, is_right, better - worse]).sum(1)
        return torch.cat([value.double()[None], rewards, logps])


def _means(measured: Sequence[float], num_pairs: int) -> Values:
    means = {name: total / num_pairs for name, total in zip(_MEASURED, measured, strict=True)}
    loss = means.pop("loss")
    return {"loss": loss, "accuracy": means["rewards/accuracies"], **means}
