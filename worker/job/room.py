"""Is there room for a job at all? By numbers alone, before it is queued; the trainer measures the rest."""

from __future__ import annotations

from foundation import memory
from foundation.memory import gigabytes
from storage.models.architecture import Architecture
from training.messages import Classifier, Full, Lora, OutputLayers, Prefix, Trainable
from worker.endings import JobFailed

from .defaults import DEFAULTS

BASE_BYTES = 2
"""Of a parameter that does not train, at least: bf16."""
ADDED_BYTES = 16
"""Of a parameter beside the base: itself, its gradient and two moments, in fp32."""
COPIED_BYTES = 18
"""Of a parameter of the base: a copy that is computed with besides."""


def check(trainable: Trainable, architecture: Architecture) -> None:
    """Raises JobFailed for a job that cannot fit on this machine, however its examples are cut."""
    total = memory.total_bytes()
    if total is None or memory.has_gpu():
        return
    needed = needed_bytes(trainable, architecture)
    if needed <= total:
        return
    num_trained = _num_trained(trainable, architecture)
    others: list[Trainable] = [
        OutputLayers(num_blocks=1),
        Lora(rank=DEFAULTS["supervised"].min_rank, alpha=1.0, target_modules=()),
        Prefix(num_virtual_tokens=2),
    ]
    fitting = [
        f"{other.kind} ({gigabytes(needed_bytes(other, architecture))} and more)"
        for other in others
        if needed_bytes(other, architecture) <= total
    ]
    mend = f"the tuning {' or '.join(fitting)}" if fitting else "a smaller base"
    raise JobFailed(
        "out_of_memory",
        f"The job cannot fit into the worker's memory. It needs at least {gigabytes(needed)}: the base of "
        f"{architecture.num_parameters / 1e6:.0f} million parameters, and weights, gradients and moments of the "
        f"{num_trained / 1e6:.1f} million that the tuning {trainable.kind} trains. The worker has "
        f"{gigabytes(total)}. What would fit: {mend}.",
        "tuning",
    )


def needed_bytes(trainable: Trainable, architecture: Architecture) -> int:
    """A bound from below: nothing of what is computed counts."""
    each = COPIED_BYTES if isinstance(trainable, Full | OutputLayers) else ADDED_BYTES
    trained = each * _num_trained(trainable, architecture)
    return BASE_BYTES * architecture.num_parameters + trained


def _num_trained(trainable: Trainable, architecture: Architecture) -> int:
    match trainable:
        case Lora(rank=rank) | Classifier(rank=rank):
            return rank * architecture.parameters_per_rank
        case Prefix(num_virtual_tokens=number):
            return number * architecture.parameters_per_virtual_token
        case OutputLayers(num_blocks=number, train_head=trains_head):
            head = architecture.head_parameters if trains_head else 0
            return number * architecture.parameters_per_block + head
        case Full():
            return architecture.num_parameters
