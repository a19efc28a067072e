"""A decoder's blocks as inference computes them: transformers' numbers with fewer calls and passes over memory.

A step of a few tokens is short, so what each layer costs beside its products counts. The products of one input arrive
side by side and stay so: queries, keys and values are turned and written to the pool as one tensor.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation

from modeling.blocks import parts

from .attention import AttentionStep, attend_packed
from .slots.linear import Part


def put_in(model: PreTrainedModel) -> None:
    """In the place of transformers' own, for the classes whose code is known to be the same; others keep theirs."""
    for module in model.modules():
        of_training = parts.OWN.get(type(module))
        if of_training is None:
            continue
        if issubclass(of_training, parts.RmsNorm):
            module.__class__ = _NORMS[of_training]
        elif of_training is parts.SwiGluMlp:
            layer = _joint(module, "gate_proj", "up_proj")
            if layer is not None and isinstance(module.act_fn, (SiLUActivation, nn.SiLU)):
                module.gate_and_up = layer
                module.__class__ = JointMlp
        elif (layer := _joint(module, "q_proj", "k_proj", "v_proj")) is not None:
            module.query_key_value = layer
            module.__class__ = JointAttention


def _joint(module: nn.Module, *names: str) -> nn.Module | None:
    """The layer that computes those of these names together, side by side."""
    found = [getattr(module, name) for name in names]
    if not all(isinstance(each, Part) for each in found):
        return None
    layer: nn.Module = found[0].fused.layer
    return layer if all(each.fused.layer is layer for each in found) else None


class EarlyRoundingNorm(nn.Module):
    """RMSNorm. The normed vector is rounded to its dtype before the weight, as most families have it."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        normed = F.rms_norm(hidden_states.float(), self.weight.shape, None, self.variance_epsilon)
        return normed.to(hidden_states.dtype).mul_(self.weight)


class LateRoundingNorm(EarlyRoundingNorm):
    """The same, rounded behind the weight."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        normed = F.rms_norm(hidden_states.float(), self.weight.shape, None, self.variance_epsilon)
        return normed.mul_(self.weight).to(hidden_states.dtype)


_NORMS: dict[type[nn.Module], type[nn.Module]] = {
    parts.RmsNorm: EarlyRoundingNorm,
    parts.LateRoundingRmsNorm: LateRoundingNorm,
}


class JointMlp(nn.Module):
    """SwiGLU."""

    def forward(self, x: Tensor) -> Tensor:
        """(1, T, D) -> (1, T, D)"""
        this: Any = self
        gate, up = this.gate_and_up(x).chunk(2, -1)
        y: Tensor = this.down_proj(F.silu(gate).mul_(up))
        return y


class JointAttention(nn.Module):
    """Queries and keys may be normed before they are turned, head by head or all heads at once."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        *,
        step: AttentionStep,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """hidden_states (1, T, D)"""
        this: Any = self
        num_heads: int = this.config.num_attention_heads
        num_kv_heads: int = this.config.num_key_value_heads
        joint = this.query_key_value(hidden_states)[0]
        heads = joint.view(len(joint), -1, this.head_dim)  # (T, H + 2 kv heads, head dim)
        turned = heads[:, : num_heads + num_kv_heads]
        if hasattr(this, "q_norm"):
            _norm(this.q_norm, turned[:, :num_heads])
            _norm(this.k_norm, turned[:, num_heads:])
        # Some families leave out some layers.
        if getattr(this, "use_rope", True):
            _turn(turned, *position_embeddings)
        attended = attend_packed(
            this.layer_idx, heads[:, :num_heads], heads[:, num_heads:], this.scaling, step
        )
        return this.o_proj(attended.view(1, len(joint), -1)), None


def _norm(norm: Any, x: Tensor) -> None:
    """x (T, heads, head dim), in place."""
    of_head = norm.weight.shape[0] == x.shape[-1]
    x.copy_(norm(x if of_head else x.flatten(1)).view(x.shape))


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """x (T, heads, head dim), in place; cos and sin (1, T, head dim) of halves that are alike."""
    cos, sin = cos[0].unsqueeze(1), sin[0].unsqueeze(1)
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    turned = x * cos
    turned[..., :half].addcmul_(second, sin[..., :half], value=-1)
    turned[..., half:].addcmul_(first, sin[..., half:])
    x.copy_(turned)
