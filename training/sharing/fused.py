"""Small passes of several jobs on one base, made as one.

A pass of few tokens takes about as long as it takes to read the base's weights and to call its operations. Jobs that
stand at such passes at the same time therefore make them together: their rows lie in one packed batch, each row goes
through its own job's adapter, and each job gets its own loss, scores and gradients, which sums of other shapes
make differ from those of a pass alone in their last digits.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modeling.layout import Layout
from modeling.trainable import trainable
from modeling.trainable.fused_lora import Segment, fused
from modeling.trainable.trainable import PackedRow
from training import memory
from training.batches import MicroBatch
from training.logprobs import Scores, score
from training.losses import Loss
from training.messages import SMALL_PASS_TOKENS
from training.primitives import Learner, head_of

MAX_FUSED_TOKENS = 1024
"""Altogether: no more than a job plans memory for when it is alone."""
FEWEST_JOBS = 3
"""Two take turns and stay exact to the bit."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Pass:
    """A forward and backward that a job is about to make. If it was made for the job, `outcome` says what came of it."""

    learner: Learner
    batch: MicroBatch
    loss: Loss
    denominator: float
    outcome: tuple[Tensor, Scores] | None = None
    """As `Learner.forward_backward` gives it; the gradient is where that would have added it."""


def forward_backward(
    learner: Learner, batch: MicroBatch, loss: Loss, denominator: float
) -> Generator[Pass, None, tuple[Tensor, Scores]]:
    """As the learner's own, but whoever iterates has the chance to make the pass first, together with others."""
    planned = Pass(learner, batch, loss, denominator)
    yield planned
    if planned.outcome is None:
        return learner.forward_backward(batch, loss, denominator)
    learner.has_shared = True
    return planned.outcome


def is_small(planned: Pass) -> bool:
    """Whether it could be made together with others."""
    return (
        planned.learner.shareable is not None and len(planned.batch.input_ids) <= SMALL_PASS_TOKENS
    )


def make_together(passes: Sequence[Pass]) -> list[tuple[Pass, float]]:
    """Make the first of the passes with as many of the others as it pays with. Gives them with their parts of the tokens;
    no pass where the first is better made alone. The model is its plain self before and behind.
    """
    together = chosen(passes)
    if len(together) < FEWEST_JOBS:
        return []
    make(together)
    sizes = [len(each.batch.input_ids) for each in together]
    return [(each, size / sum(sizes)) for each, size in zip(together, sizes, strict=True)]


def chosen(passes: Sequence[Pass]) -> list[Pass]:
    """Those that fit into one with the first of them, itself among them."""
    found: list[Pass] = []
    num_tokens = 0
    for each in passes:
        size = len(each.batch.input_ids)
        if each.learner.model is passes[0].learner.model and num_tokens + size <= MAX_FUSED_TOKENS:
            found.append(each)
            num_tokens += size
    return found


def make(passes: Sequence[Pass]) -> None:
    """Make them all, or none if that fails: then each job makes its own, gets its own error, and goes on alone."""
    try:
        _make(passes)
    except Exception as error:
        if memory.is_out_of_memory(error):
            log.warning("%d passes do not fit into memory together", len(passes))
        else:
            log.exception("%d passes could not be made together", len(passes))
        for each in passes:
            each.outcome = None
            each.learner.shares = False
        is_made = False
    else:
        is_made = True
    # Not within `except`, where the error holds what was computed.
    if not is_made and passes[0].learner.device.type == "cuda":
        torch.cuda.empty_cache()


def _make(passes: Sequence[Pass]) -> None:
    model, batches = passes[0].learner.model, [each.batch for each in passes]
    offsets = list(itertools.accumulate((len(b.input_ids) for b in batches), initial=0))
    segments = []
    for each, (start, end) in zip(passes, itertools.pairwise(offsets), strict=True):
        adapter = each.learner.shareable
        assert adapter is not None
        segments.append(Segment(start, end, adapter.layers))
    head = head_of(model)
    with fused(model, segments):
        hidden = trainable.hidden_states(model, _joined(batches))
        positions = torch.cat(
            [b.positions + start for b, start in zip(batches, offsets, strict=False)]
        )
        labels = torch.cat([b.labels for b in batches])
        found = score(hidden.index_select(0, positions).to(head.dtype), head, labels)
    sizes = [len(b.labels) for b in batches]
    logprobs = torch.split(found.logprobs, sizes)
    is_top = torch.split(found.is_top, sizes)
    values = [each.loss(part, each.batch) for each, part in zip(passes, logprobs, strict=True)]
    _add_gradients(passes, values)
    for each, value, part, top in zip(passes, values, logprobs, is_top, strict=True):
        each.outcome = value.detach(), Scores(part.detach(), top)


def _add_gradients(passes: Sequence[Pass], values: Sequence[Tensor]) -> None:
    """All at the end: what fails before has changed nothing."""
    parameters = [p for each in passes for p in each.learner.parameters.values()]
    losses = [value / each.denominator for each, value in zip(passes, values, strict=True)]
    gradients = torch.autograd.grad(losses, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad += gradient


def _joined(batches: Sequence[MicroBatch]) -> PackedRow:
    """One row of all of them, end to end."""
    return PackedRow(
        torch.cat([batch.input_ids for batch in batches]),
        torch.cat([batch.position_ids for batch in batches]),
        Layout.joined([batch.layout for batch in batches]),
    )
