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


def check(
    trainable: Trainable, architecture: Architecture, merged: Trainable | None = None
) -> None:
    """Raises JobFailed for a job that cannot fit on this machine, however its examples are cut.

    `merged` is what of the base the tuned model changes that is merged first.
    """
    total = memory.total_bytes()
    if total is None or memory.has_gpu():
        return
    needed = needed_bytes(trainable, architecture, merged)
    if needed <= total:
        return
    num_trained = _num_trained(trainable, architecture)
    others: list[Trainable] = [
        OutputLayers(num_blocks=1),
        Lora(rank=DEFAULTS["supervised"].min_rank, alpha=1.0, target_modules=()),
        Prefix(num_virtual_tokens=2),
    ]
    where = "" if merged is None else " that begins with the base"
    fitting = [
        f"{other.kind} ({gigabytes(needed_bytes(other, architecture))} and more)"
        for other in others
        if needed_bytes(other, architecture) <= total
    ]
    mend = f"the tuning {' or '.join(fitting)}{where}" if fitting else "a smaller base"
    num_merged = _num_merged(merged, trainable, architecture)
    copy = ""
    if num_merged:
        copy = f"a copy of {num_merged / 1e6:.1f} million for what is merged into them, "
    if _writes_whole(merged, trainable):
        copy += "the whole model that is published, "
    raise JobFailed(
        "out_of_memory",
        f"The job cannot fit into the worker's memory. It needs at least {gigabytes(needed)}: the base of "
        f"{architecture.num_parameters / 1e6:.0f} million parameters, {copy}and weights, gradients and moments of the "
        f"{num_trained / 1e6:.1f} million that the tuning {trainable.kind} trains. The worker has "
        f"{gigabytes(total)}. What would fit: {mend}.",
        "tuning",
    )


def needed_bytes(
    trainable: Trainable, architecture: Architecture, merged: Trainable | None = None
) -> int:
    """A bound from below: nothing of what is computed counts."""
    each = COPIED_BYTES if isinstance(trainable, Full | OutputLayers) else ADDED_BYTES
    needed = BASE_BYTES * architecture.num_parameters
    needed += each * _num_trained(trainable, architecture)
    needed += BASE_BYTES * _num_merged(merged, trainable, architecture)
    if _writes_whole(merged, trainable):
        needed += BASE_BYTES * architecture.num_parameters
    return needed


def _writes_whole(merged: Trainable | None, trainable: Trainable) -> bool:
    """Whether a whole model is put together in memory when it is published, where little of it trains."""
    return merged is not None and trainable.kind not in ("full", merged.kind)


def _num_merged(merged: Trainable | None, trainable: Trainable, architecture: Architecture) -> int:
    """Weights of the base that lie in memory once more: the merged ones, where training has no copy of them anyway."""
    blocks = architecture.num_blocks
    if isinstance(trainable, Full):
        return 0
    trained = trainable.num_blocks if isinstance(trainable, OutputLayers) else 0
    match merged:
        case Lora(target_modules=targets) | Classifier(target_modules=targets):
            in_block = sum(architecture.parameters_of_target.get(name, 0) for name in targets)
            return in_block * (blocks - trained)
        case OutputLayers(num_blocks=number, train_head=has_head):
            head = architecture.head_parameters if has_head else 0
            return max(number - trained, 0) * architecture.parameters_per_block + head
        case Full():
            return architecture.num_parameters - trained * architecture.parameters_per_block
    return 0


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
