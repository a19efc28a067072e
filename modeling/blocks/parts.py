"""Own forward passes in the place of transformers', for the classes whose code is known to be the same."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation
from transformers.models.granite import modeling_granite as granite
from transformers.models.llama import modeling_llama as llama
from transformers.models.mistral import modeling_mistral as mistral
from transformers.models.olmo2 import modeling_olmo2 as olmo2
from transformers.models.qwen2 import modeling_qwen2 as qwen2
from transformers.models.qwen3 import modeling_qwen3 as qwen3
from transformers.models.smollm3 import modeling_smollm3 as smollm3

from modeling.attention import packed_attention
from modeling.trainable.lora import project

from .rms_norm import rms_norm
from .rotary import rotate
from .swiglu import swiglu


class RmsNorm(nn.Module):
    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)


class LateRoundingRmsNorm(RmsNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return rms_norm(hidden_states, self.weight, self.variance_epsilon, rounds_late=True)


class SwiGluMlp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        this: Any = self
        gate, up = project(x, this.gate_proj, this.up_proj)
        y: Tensor = this.down_proj(swiglu(gate, up))
        return y


class PackedAttention(nn.Module):
    """Queries and keys may be normed before they are turned, head by head or all heads at once."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        *,
        cache: Any = None,
        past_key_values: Any = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        """hidden_states (1, T, D)"""
        this: Any = self
        by_head = (*hidden_states.shape[:-1], -1, this.head_dim)
        query, key, value = project(hidden_states, this.q_proj, this.k_proj, this.v_proj)
        if hasattr(this, "q_norm"):
            query, key = _normed(this.q_norm, query, by_head), _normed(this.k_norm, key, by_head)
        query, key, value = (x.view(by_head) for x in (query, key, value))  # (1, T, H, head_dim)
        # Some families leave out some layers.
        if getattr(this, "use_rope", True):
            query, key = (rotate(x, *position_embeddings) for x in (query, key))
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        # The later one of transformers' two names for it.
        kept = past_key_values if cache is None else cache
        if kept is not None:
            key, value = kept.update(key, value, this.layer_idx)
        attended, _ = packed_attention(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=this.scaling,
            dropout=this.attention_dropout if self.training else 0.0,
            sliding_window=getattr(this, "sliding_window", None),
            **options,
        )
        return this.o_proj(attended.flatten(2)), None


class PackedMistralAttention(PackedAttention):
    @property
    def sliding_window(self) -> int | None:
        window: int | None = getattr(self.config, "sliding_window", None)
        return window


def _normed(norm: Any, x: Tensor, by_head: tuple[int, ...]) -> Tensor:
    of_head = norm.weight.shape[0] == by_head[-1]
    normed: Tensor = norm(x.view(by_head) if of_head else x)
    return normed


OWN: dict[type[nn.Module], type[nn.Module]] = {
    llama.LlamaRMSNorm: RmsNorm,
    mistral.MistralRMSNorm: RmsNorm,
    qwen2.Qwen2RMSNorm: RmsNorm,
    qwen3.Qwen3RMSNorm: RmsNorm,
    smollm3.SmolLM3RMSNorm: RmsNorm,
    granite.GraniteRMSNorm: RmsNorm,
    olmo2.Olmo2RMSNorm: LateRoundingRmsNorm,
    llama.LlamaMLP: SwiGluMlp,
    mistral.MistralMLP: SwiGluMlp,
    qwen2.Qwen2MLP: SwiGluMlp,
    qwen3.Qwen3MLP: SwiGluMlp,
    smollm3.SmolLM3MLP: SwiGluMlp,
    granite.GraniteMLP: SwiGluMlp,
    olmo2.Olmo2MLP: SwiGluMlp,
    llama.LlamaAttention: PackedAttention,
    mistral.MistralAttention: PackedMistralAttention,
    qwen2.Qwen2Attention: PackedAttention,
    qwen3.Qwen3Attention: PackedAttention,
    smollm3.SmolLM3Attention: PackedAttention,
    granite.GraniteAttention: PackedAttention,
    olmo2.Olmo2Attention: PackedAttention,
}
"""Other classes keep their own code."""


def put_in(model: PreTrainedModel) -> None:
    """For good. The model must compute with packed attention; its parameters and their names stay what they are."""
    for module in model.modules():
        own = OWN.get(type(module))
        if own is None or (
            own is SwiGluMlp and not isinstance(module.act_fn, (SiLUActivation, nn.SiLU))
        ):
            continue
        module.__class__ = own
