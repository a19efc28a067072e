"""The primitive operations of training: one frozen base, one adapter, one optimizer.

Programs such as `train.Run` compose them; what is random or scheduled comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from modeling import attention, base, lora
from modeling.artifacts.artifact import Artifact
from modeling.artifacts.lora import AdapterConfig, artifact, layers
from modeling.base import Precision

from .batches import Batch
from .logprobs import linear_cross_entropy
from .messages import TrainConfig

_BETAS = (0.9, 0.95)
"""A short memory for the second moment: most jobs have a few hundred steps."""


_MOMENTS = ("exp_avg", "exp_avg_sq")


class UnsupportedBase(Exception):
    """A base whose output layer is more than a product with a matrix."""


def load_base(path: Path, precision: Precision) -> PreTrainedModel:
    """The frozen base, ready for engines. Raises UnsupportedBase, and OSError for missing files."""
    model = base.load_base(
        path,
        precision=precision,
        attn_implementation=attention.NAME,
        device=base.choose_device(),
    )
    _check_head(model)
    return model


def _head(model: PreTrainedModel) -> Tensor:
    """The output layer's weight (V, D)."""
    weight: Tensor = model.get_output_embeddings().weight  # type: ignore[no-untyped-call]
    return weight


@torch.no_grad()
def _check_head(model: PreTrainedModel) -> None:
    """The loss knows logits = hidden · headᵀ only: no bias, no scaling, no soft cap."""
    head = _head(model)
    row = torch.arange(8, device=head.device)[None]  # (1, T)
    with attention.segments((0, row.shape[1])):
        logits = model(input_ids=row, use_cache=False).logits
        hidden = model.base_model(input_ids=row, use_cache=False).last_hidden_state
    if not torch.allclose(logits, hidden @ head.T, rtol=0.05, atol=0.05):
        raise UnsupportedBase("the base's output layer is more than a product with a matrix")


class Engine:
    """An adapter in training on a base that stays as it is.

    The adapter sits in the model from construction to `close`.
    """

    def __init__(self, model: PreTrainedModel, config: TrainConfig) -> None:
        self._model = model
        self._config = config
        self._trunk = model.base_model
        self._head = _head(model)
        trainable = config.trainable
        self._modules = lora.attach(
            model, trainable.rank, trainable.alpha, trainable.target_modules, config.seed
        )
        self.parameters = {
            f"{name}.{side}": parameter
            for name, module in self._modules.items()
            for side, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self._optimizer = torch.optim.AdamW(
            self.parameters.values(), betas=_BETAS, weight_decay=config.weight_decay, fused=True
        )

    @property
    def device(self) -> torch.device:
        return self._head.device

    def close(self) -> None:
        """Give the model back without the adapter."""
        lora.detach(self._model)

    @torch.no_grad()
    def forward(self, batch: Batch) -> tuple[float, float]:
        """Sums over the supervised tokens: weight · loss, and weight where the guess is right."""
        loss, correct = self._sums(batch)
        return loss.item(), correct.item()

    def forward_backward(self, batch: Batch, total_weight: float) -> tuple[float, float]:
        """As `forward`, and adds the gradient of loss / total_weight to the parameters'."""
        loss, correct = self._sums(batch)
        torch.autograd.backward(loss / total_weight)
        return loss.item(), correct.item()

    def zero_grad(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def clip_grad_norm(self, max_norm: float) -> float:
        """Scale the gradients down to `max_norm` (0: leave them); returns their norm before."""
        limit = max_norm if max_norm > 0 else float("inf")
        return torch.nn.utils.clip_grad_norm_(self.parameters.values(), limit).item()

    def optim_step(self, learning_rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()

    def artifact(self) -> Artifact:
        """A copy of what is in training."""
        trainable = self._config.trainable
        config = AdapterConfig(
            rank=trainable.rank,
            alpha=trainable.alpha,
            target_modules=trainable.target_modules,
            base_model_name_or_path=self._config.base_model,
        )
        return artifact(config, lora.tensors(self._modules))

    def moments(self) -> dict[str, Tensor]:
        """Copies of AdamW's moments, by "<parameter>.exp_avg" and "<parameter>.exp_avg_sq"."""
        return {
            f"{name}.{moment}": self._optimizer.state[parameter][moment].to("cpu", copy=True)
            for name, parameter in self.parameters.items()
            for moment in _MOMENTS
        }

    def begin_from(self, artifact: Artifact) -> None:
        """Take over what was trained before; the optimizer stays new. Raises ArtifactError."""
        lora.set_weights(self._modules, layers(artifact))

    def resume_from(self, step: int, artifact: Artifact, moments: Mapping[str, Tensor]) -> None:
        """Stand where an engine stood after `step` optimizer steps."""
        lora.set_weights(self._modules, layers(artifact))
        for name, parameter in self.parameters.items():
            state = {moment: moments[f"{name}.{moment}"].to(self.device) for moment in _MOMENTS}
            steps = torch.tensor(float(step), device=self.device)
            self._optimizer.state[parameter] = {"step": steps, **state}

    def _sums(self, batch: Batch) -> tuple[Tensor, Tensor]:
        batch = batch.to(self.device)
        with attention.segments(batch.cu_seqlens, batch.num_shared):
            output = self._trunk(
                input_ids=batch.input_ids[None],  # (1, T)
                position_ids=batch.position_ids[None],
                use_cache=False,
            )
        hidden = output.last_hidden_state[0].index_select(0, batch.positions)  # (S, D)
        return linear_cross_entropy(hidden, self._head, batch.labels, batch.weights)
