"""Is there room for a job at all? By numbers alone, before it is queued; the trainer measures the rest."""

from __future__ import annotations

from foundation import memory
from foundation.memory import gigabytes
from storage.forecasts.memory import BASE_BYTES, least_bytes, num_trained, would_fit
from storage.models.architecture import Architecture
from training.messages import Classifier, Full, Lora, OutputLayers, Trainable
from worker.endings import JobFailed

from .trainables import told


def check(
    trainable: Trainable,
    architecture: Architecture,
    merged: Trainable | None = None,
    *,
    longest: int = 0,
) -> None:
    """Raises JobFailed for a job that cannot fit on this machine, however its examples are cut.

    `merged` is what of the base the tuned model changes that is merged first; `longest` the tokens of the largest example.
    """
    total = memory.total_bytes()
    if total is None or memory.has_gpu():
        return
    tuning, besides = told(trainable), _merged_bytes(trainable, architecture, merged)
    needed = least_bytes(architecture, tuning, longest) + besides
    if needed <= total:
        return
    where = "" if merged is None else " that begins with the base"
    # Without what is merged, for a job that begins with the base merges nothing.
    mends = would_fit(architecture, tuning, total if merged else total - besides, longest)
    num_merged = _num_merged(merged, trainable, architecture)
    copy = ""
    if num_merged:
        copy = f"a copy of {num_merged / 1e6:.1f} million for what is merged into them, "
    if _writes_whole(merged, trainable):
        copy += "the whole model that is published, "
    if longest:
        copy += f"what blocks read of an example of {longest} tokens, "
    raise JobFailed(
        "out_of_memory",
        f"The job cannot fit into the worker's memory. It needs at least {gigabytes(needed)}: the base of "
        f"{architecture.num_parameters / 1e6:.0f} million parameters, {copy}and weights, gradients and moments of the "
        f"{num_trained(architecture, tuning) / 1e6:.1f} million that the tuning {trainable.kind} trains. The worker has "
        f"{gigabytes(total)}. What would fit: {' or '.join(mends)}{where}.",
        "tuning",
    )


def needed_bytes(
    trainable: Trainable, architecture: Architecture, merged: Trainable | None = None
) -> int:
    """A bound from below: nothing of what is computed counts."""
    least = least_bytes(architecture, told(trainable))
    return least + _merged_bytes(trainable, architecture, merged)


def _merged_bytes(
    trainable: Trainable, architecture: Architecture, merged: Trainable | None
) -> int:
    needed = BASE_BYTES * _num_merged(merged, trainable, architecture)
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
