"""Which contenders a report has, and which training rows prompts are tried on: a function of the rows and the depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .asking import ReportQuestion
from .cases import Case
from .contenders import CONSTANT, COPY, NUM_NEAR, Contender, Ground, diverse
from .context import ReportContext
from .prompts import Ending, Wording, full_instruction

NUM_DEV = {"auto": 16, "full": 32}
"""Training rows that prompts are tried on."""
NUM_SHOTS = {"auto": (4, 8), "full": (4, 8, 16)}
MIN_TRAINING = 10
POOL = 400
"""Rows that worked examples are chosen from."""


class ContenderPlan:
    def __init__(self, context: ReportContext) -> None:
        data = context.data
        assert data.task is not None
        training = data.training if len(data.training) >= MIN_TRAINING else []
        self.ground = Ground(training, data.task, Ending.of(data.training, data.holdout))
        pool = sorted(training, key=lambda case: case.rank)[:POOL]
        seeds = range(2 if context.depth == "full" else 1)
        most = NUM_SHOTS[context.depth][-1]
        self._shots = [diverse(pool, most, seed) for seed in seeds]
        shown = {case.key for shots in self._shots for case in shots}
        self.dev = [case for case in pool if case.key not in shown][: NUM_DEV[context.depth]]
        self.alternatives = list(self._alternatives(context))
        """To the tuned model."""
        self.tuned = Contender("tuned", "the tuned model, asked as the rows ask", context.tuned)

    def questions(
        self, contenders: Sequence[Contender], cases: Sequence[Case]
    ) -> Iterator[ReportQuestion]:
        """Turn about, so that no contender has the machine's better hour."""
        models = [each for each in contenders if each.model is not None]
        for case in cases:
            for each in models:
                yield self.ground.question(each, case)

    def _alternatives(self, context: ReportContext) -> Iterator[Contender]:
        base, training = context.base, self.ground.training
        if training:
            yield CONSTANT
            yield COPY
        yield Contender("zero_shot", "the base, asked as the rows ask", base)
        if context.job.model != base:
            yield Contender("before", "the model that training went on from", context.job.model)
        if own := context.asked.get("prompt"):
            yield Contender("your_prompt", "the base with your prompt", base, Wording(str(own)))
        if not training:
            return
        full = full_instruction(self.ground.task, training)
        yield Contender("instructed", "the base with a full instruction", base, Wording(full))
        if self.ground.task.type == "tools":
            # Calls of earlier turns want results of tools, which nobody has.
            return
        title = f"the base with the {NUM_NEAR} nearest training rows shown"
        yield Contender("grounded", title, base, Wording(full), NUM_NEAR)
        for seed, shots in enumerate(self._shots):
            for count in NUM_SHOTS[context.depth]:
                yield from self._few_shot(base, full, shots[:count], count, seed)
            if len(shots) >= 8:
                name, title = f"few_shot_8_own_{seed}", "the base with 8 worked examples"
                title += " and the rows' own instruction"
                yield Contender(name, title, base, Wording(None, shots[:8]))

    def _few_shot(
        self, base: str, instruction: str, shots: tuple[Case, ...], count: int, seed: int
    ) -> Iterator[Contender]:
        if len(shots) == count:
            title = f"the base with {count} worked examples"
            yield Contender(f"few_shot_{count}_{seed}", title, base, Wording(instruction, shots))
