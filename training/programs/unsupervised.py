"""Raw text: supervised fine-tuning on every token of a text, told as a perplexity too."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from dataset.examples import Example
from training.course import Program, Values
from training.messages import TrainConfig
from training.primitives import Learner

from .supervised import SupervisedProgram


class UnsupervisedProgram(Program):
    """Measures `perplexity` besides: e to the loss, which is a mean over tokens, for each weighs 1."""

    def __init__(self, config: TrainConfig, learner: Learner) -> None:
        self._supervised = SupervisedProgram(config, learner)

    def update(
        self,
        step: int,
        examples: Sequence[Example],
        learning_rate: float,
        check_stop: Callable[[], None],
    ) -> Values:
        return _with_perplexity(self._supervised.update(step, examples, learning_rate, check_stop))

    def evaluate(
        self, step: int, examples: Sequence[Example], check_stop: Callable[[], None]
    ) -> Values:
        return _with_perplexity(self._supervised.evaluate(step, examples, check_stop))


def _with_perplexity(values: Values) -> Values:
    try:
        perplexity = math.exp(values["loss"])
    except OverflowError:
        perplexity = math.inf
    return {**values, "perplexity": perplexity}
