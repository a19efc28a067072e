"""Raw text: supervised fine-tuning on every token of a text, told as a perplexity too."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from dataset.examples import Example
from training.course import Program, Step, Values
from training.messages import TrainConfig
from training.primitives import Learner

from .supervised import SupervisedProgram


class UnsupervisedProgram(Program):
    """Measures `perplexity` besides: e to the loss, which is a mean over tokens, for each weighs 1.

    And `bits_per_byte`, which does not depend on how the base cuts texts into tokens. The bits of a text's end count.
    """

    def __init__(self, config: TrainConfig, learner: Learner) -> None:
        self._supervised = SupervisedProgram(config, learner)

    def update(
        self,
        step: int,
        examples: Sequence[Example],
        learning_rate: float,
        check_stop: Callable[[], None],
    ) -> Step:
        values = yield from self._supervised.update(step, examples, learning_rate, check_stop)
        return _of_texts(values, examples)

    def evaluate(
        self, step: int, examples: Sequence[Example], check_stop: Callable[[], None]
    ) -> Values:
        return _of_texts(self._supervised.evaluate(step, examples, check_stop), examples)


def _of_texts(values: Values, examples: Sequence[Example]) -> Values:
    try:
        perplexity = math.exp(values["loss"])
    except OverflowError:
        perplexity = math.inf
    values = {**values, "perplexity": perplexity}
    # In one pass: they are read from a file.
    sizes = [(example.num_supervised_tokens, example.num_bytes) for example in examples]
    num_tokens, num_bytes = map(sum, zip(*sizes, strict=True)) if sizes else (0, 0)
    if num_bytes:
        values["bits_per_byte"] = values["loss"] / math.log(2) * num_tokens / num_bytes
    return values
