"""The primitive operations of training: one frozen base, one trainable, one optimizer.

Programs compose them; what is random or scheduled comes in as an argument. They give tensors, which a program
reads once a step: a device need not wait between micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dataset import beginnings
from dataset.examples import Example
from modeling import attention, base
from modeling.artifacts.artifact import Artifact
from modeling.base import Precision
from modeling.blocks import parts
from modeling.layout import Layout
from modeling.recompute import measure, recomputed
from modeling.trainable.lora import LoraTrainable
from modeling.trainable.trainable import PackedRow

from . import batches, checkpoint, memory, trainables
from .batches import MicroBatch, ScoredRow
from .checkpoint import Checkpoint, Cursor
from .logprobs import Scores, score
from .losses import Loss
from .messages import TrainConfig
from .regularization import Regularization

_BETAS = (0.9, 0.95)
"""A short memory for the second moment: most jobs have a few hundred steps."""


_MOMENTS = ("exp_avg", "exp_avg_sq")
_EXACT = "parameter"
"""What of a parameter an artifact that rounds does not hold."""

Who = Literal["policy", "start", "base"]
"""What is in training; what it was before the first step; the base without it."""


class UnsupportedBase(Exception):
    """A base whose output layer is more than a product with a matrix."""


def load_base(path: Path, precision: Precision) -> PreTrainedModel:
    """The frozen base, ready for learners. Raises UnsupportedBase, and OSError for missing files."""
    model = base.load_base(
        path,
        precision=precision,
        attn_implementation=attention.NAME,
        device=base.choose_device(),
    )
    parts.put_in(model)
    _check_head(model)
    return model


def head_of(model: PreTrainedModel) -> Tensor:
    """The output layer's weight (V, D)."""
    weight: Tensor = model.get_output_embeddings().weight  # type: ignore[no-untyped-call]
    return weight


@torch.no_grad()
def _check_head(model: PreTrainedModel) -> None:
    """The loss knows logits = hidden · headᵀ only: no bias, no scaling, no soft cap."""
    head = head_of(model)
    row = torch.arange(8, device=head.device)[None]  # (1, T)
    with attention.segments(Layout.of_lengths([row.shape[1]])):
        logits = model(input_ids=row, use_cache=False).logits
        hidden = model.base_model(input_ids=row, use_cache=False).last_hidden_state
    if not torch.allclose(logits, hidden @ head.T, rtol=0.05, atol=0.05):
        raise UnsupportedBase("the base's output layer is more than a product with a matrix")


def _groups(parameters: Mapping[str, nn.Parameter], loraplus_ratio: float) -> list[dict[str, Any]]:
    """For the optimizer: LoRA's B learns `loraplus_ratio` times as fast as the rest."""
    fast = [each for name, each in parameters.items() if name.endswith(".lora_B")]
    if loraplus_ratio == 1 or not fast:
        return [{"params": list(parameters.values()), "ratio": 1.0}]
    rest = [each for name, each in parameters.items() if not name.endswith(".lora_B")]
    return [{"params": rest, "ratio": 1.0}, {"params": fast, "ratio": loraplus_ratio}]


class Learner:
    """What is in training, on a base that stays as it is.

    It sits in the model from construction to `close`. Batches lie on its device.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: TrainConfig,
        scratch: Path | None = None,
        merged: Artifact | None = None,
    ) -> None:
        """`scratch` is a folder for what is quicker read than computed again; None keeps nothing. `merged` is a tuned
        model that is merged into the base first. Raises ArtifactError for one that cannot be."""
        self._model = model
        self._config = config
        self._trainable = trainables.attached(model, config, scratch, merged)
        self.parameters = self._trainable.parameters
        self._is_at_start = True
        self._optimizer = torch.optim.AdamW(
            _groups(self.parameters, config.loraplus_ratio),
            betas=_BETAS,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._regularization = Regularization(model, model.get_input_embeddings(), config)
        self._step, self._num_passes = 1, 0
        """The step that is being made, and its passes up to now."""
        self.micro_batch_tokens = config.micro_batch_tokens
        """What is computed at a time."""
        self._recomputes = False
        """Whether blocks are computed again in backward instead of kept: it takes time and changes no bit."""
        self._is_half_stepped = False
        self.shares = config.may_share
        """Whether passes may be made together with others'."""
        self.has_shared = False
        """Whether any pass was made together with others'."""

    @property
    def model(self) -> PreTrainedModel:
        """The base that it sits in."""
        return self._model

    @property
    def device(self) -> torch.device:
        return head_of(self._model).device

    def set_aside(self) -> AbstractContextManager[None]:
        """The model is its plain self within, and may be another's."""
        return self._trainable.set_aside()

    def close(self) -> None:
        """Give the model back as it was."""
        self._regularization.close()
        self._trainable.detach()

    def micro_batches(
        self, units: Sequence[Sequence[ScoredRow]], *, num_beginning: int = 0
    ) -> Iterator[MicroBatch]:
        """The rows of units, which stay together, in as few passes as memory is planned for, on the device.

        `num_beginning` tokens are what all of them begin with and come on top.
        """
        for batch in batches.micro_batches(
            units,
            self.micro_batch_tokens + num_beginning,
            num_virtual_tokens=self._config.num_virtual_tokens,
        ):
            yield batch.to(self.device)

    @torch.no_grad()
    def logprobs(self, batch: MicroBatch, who: Who = "policy") -> Scores:
        """What a model makes of the batch's labels.

        That of the start is gone when the first step is taken, for every kind of trainable alike: what is needed of it
        is computed before. Raises ValueError then.
        """
        if who == "start" and not self._is_at_start:
            raise ValueError("the weights that training began with are gone")
        if who != "base":
            return self._score(batch)
        with self._trainable.set_aside():
            return self._score(batch)

    def forward_backward(
        self, batch: MicroBatch, loss: Loss, denominator: float
    ) -> tuple[Tensor, Scores]:
        """Adds the gradient of loss / denominator to what the next `optim_step` goes by.

        Returns the loss, undivided, and the scores that it is made of.
        """
        self._num_passes += 1
        # Backward as well, for what is computed again there has the same noise.
        with self._regularization.drawn(batch, self._step, self._num_passes):
            with recomputed(self._model) if self._recomputes else nullcontext():
                scores = self._score(batch)
            value = loss(scores.logprobs, batch)
            torch.autograd.backward(value / denominator)
        return value.detach(), Scores(scores.logprobs.detach(), scores.is_top)

    @property
    def shareable(self) -> LoraTrainable | None:
        """What trains, if its passes may be made together with others' on the same base."""
        if not self.shares or self._recomputes:
            return None
        return self._trainable if isinstance(self._trainable, LoraTrainable) else None

    def optim_step(self, learning_rate: float, max_grad_norm: float) -> Tensor:
        """Go down the gradients, scaled to at most `max_grad_norm` (0: as they are), and forget them.

        Returns their norm before.
        """
        limit = max_grad_norm if max_grad_norm > 0 else float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), limit)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate * group["ratio"]
        self._is_half_stepped = True
        self._optimizer.step()
        self._is_at_start = self._is_half_stepped = False
        self._optimizer.zero_grad(set_to_none=True)
        self._trainable.refresh()
        self._step, self._num_passes = self._step + 1, 0
        return norm

    def save(
        self,
        path: Path,
        cursor: Cursor,
        environment: dict[str, str],
        program: dict[str, Tensor] | None = None,
    ) -> None:
        """Write a checkpoint, with the state of what trains. Raises ArtifactError for weights that are of no use."""
        moments = {
            f"{name}.{moment}": self._optimizer.state[parameter][moment].cpu()
            for name, parameter in self.parameters.items()
            # Before the first step there are none.
            if parameter in self._optimizer.state
            for moment in _MOMENTS
        }
        if not self._trainable.artifact_is_exact:
            for name, parameter in self.parameters.items():
                moments[f"{name}.{_EXACT}"] = parameter.detach().cpu()
        checkpoint.save(
            path,
            cursor=cursor,
            config=self._config,
            environment=environment,
            artifact=self.artifact(),
            moments=moments,
            program=program or {},
        )

    def load(self, path: Path) -> Checkpoint:
        """Stand where `save` was called; gives what it was given. Raises CheckpointError."""
        saved = checkpoint.load(path, config=self._config, base_config=self._model.config)
        self._is_at_start = saved.cursor.step == 0
        if self._trainable.artifact_is_exact:
            self._trainable.take_over(saved.artifact)
        else:
            for name, parameter in self.parameters.items():
                parameter.data.copy_(saved.moments[f"{name}.{_EXACT}"])
            self._trainable.refresh()
        for name, parameter in self.parameters.items():
            if self._is_at_start:
                break
            state = {
                moment: saved.moments[f"{name}.{moment}"].to(self.device) for moment in _MOMENTS
            }
            steps = torch.tensor(float(saved.cursor.step), device=self.device)
            self._optimizer.state[parameter] = {"step": steps, **state}
        self._step = saved.cursor.step + 1
        if saved.cursor.micro_batch_tokens is not None:
            self.micro_batch_tokens = saved.cursor.micro_batch_tokens
            self._recomputes = True
        return saved

    def plan_memory(self, longest: int) -> None:
        """Keep less for backward if keeping all would be much of the memory that there is.

        `longest` is the size of the largest example. Raises OutOfMemory for a job that cannot fit even so.
        """
        if memory.is_ample(self._model, self._num_parameters, self._num_tokens(longest)):
            return
        need = self.memory_need(longest)
        if need is None:
            return
        if not need.fits:
            raise memory.OutOfMemory(memory.told(need))
        self._recomputes = self._recomputes or need.must_recompute

    def memory_need(self, longest: int) -> memory.Need | None:
        """By what a short forward pass keeps; None where nobody says how much memory there is."""
        batch = memory.probe(len(self._output)).to(self.device)
        kept = measure(self._model, lambda: self._score(batch))
        num_tokens, num_virtual = self._num_tokens(longest), self._config.num_virtual_tokens
        return memory.need(
            self._model, self._num_parameters, kept, num_tokens, num_virtual + longest
        )

    @property
    def _num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters.values())

    def _num_tokens(self, longest: int) -> int:
        """Of the largest micro-batch, if the largest example has `longest`."""
        return max(self.micro_batch_tokens, longest) + self._config.num_virtual_tokens

    def make_room(self) -> bool:
        """After memory ran out: forget what was begun of a step and compute half as much at a time from now on.

        False if that was done before, or if the parameters may have moved.
        """
        if self._is_half_stepped or self.micro_batch_tokens < self._config.micro_batch_tokens:
            return False
        self._optimizer.zero_grad(set_to_none=True)
        # Those of rounded copies too.
        self._model.zero_grad(set_to_none=True)
        self.micro_batch_tokens = max(self.micro_batch_tokens // 2, 1)
        self._recomputes = True
        self._num_passes = 0
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return True

    def artifact(self) -> Artifact:
        """A copy of what is in training."""
        return self._trainable.artifact(self._config.base_model)

    def begin(self, examples: Sequence[Example]) -> None:
        """Stand where a job that goes on from nothing begins, which can depend on its texts."""

        def beginning(num_tokens: int) -> Tensor:
            return torch.from_numpy(beginnings.commonest(examples, num_tokens).astype(np.int64))

        self._trainable.begin(beginning)

    def begin_from(self, artifact: Artifact) -> None:
        """Take over what was trained before; the optimizer stays new. Raises ArtifactError."""
        self._trainable.take_over(artifact)

    @property
    def _output(self) -> Tensor:
        """The layer whose rows are scored."""
        own = self._trainable.output
        return head_of(self._model) if own is None else own

    def _score(self, batch: MicroBatch) -> Scores:
        row = PackedRow(batch.input_ids, batch.position_ids, batch.layout)
        hidden = self._trainable.hidden_states(row).index_select(0, batch.positions)  # (S, D)
        # Of a few rows of a trainable's own fp32 costs nothing.
        hidden = hidden.to(self._output.dtype)
        return score(hidden, self._output, batch.labels, self._trainable.head)
