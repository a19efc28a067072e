"""Whether what a job asks for fits the model that it begins with, as far as that is known before anybody works on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foundation.errors import InvalidRequest
from foundation.memory import gigabytes
from foundation.settings import Settings
from storage.forecasts import hosts, memory
from storage.forecasts.hosts import Host
from storage.models import architecture
from storage.models.artifacts import HEADED_KINDS
from storage.models.base_models import BaseModel

from . import control
from .request import CreateFineTuningJob


def check(
    body: CreateFineTuningJob,
    settings: Settings,
    base: BaseModel | None,
    *,
    base_model: str,
    begins_with_base: bool,
    kind: str,
) -> None:
    """`kind` is what is tuned where the job does not say. Raises InvalidRequest."""
    if kind in HEADED_KINDS:
        _check_goes_on_with_head(body, base_model)
        # What learns beside the head.
        kind = "lora"
    else:
        _check_head(body, base_model, begins_with_base)
    control.check(
        body.control(),
        method=body.method_type(),
        tuning=body.tuning.type if body.tuning else kind,
        param=body.control_param(),
        has_validation_file=body.validation_file is not None,
        base_max_seq_len=base.max_seq_len if base else None,
        is_served=base_model in settings.backends,
    )
    if base is not None:
        _check_context(body, base)
        _check_size(body, base, settings)


def _check_head(body: CreateFineTuningJob, base_model: str, begins_with_base: bool) -> None:
    """A head on what cannot have one."""
    if not body.merged_hyperparameters().get("head"):
        return
    param = "method.classification.hyperparameters.head"
    if not begins_with_base:
        raise _refused(
            param,
            f"A head begins with a base, and {body.model} is a tuned model; give {base_model} as the "
            "model, or leave out 'head'.",
        )
    if body.tuning is not None and body.tuning.type != "lora":
        raise _refused(
            param,
            f"A head is trained with LoRA, not with the tuning '{body.tuning.type}'; leave out one of them.",
        )
    _check_writes_nothing(body)


def _check_goes_on_with_head(body: CreateFineTuningJob, base_model: str) -> None:
    """A model with a head is gone on from as what it is."""
    if body.method_type() != "classification" or not body.merged_hyperparameters().get("head"):
        raise _refused(
            "model",
            f"{body.model} is a classifier with a head, and training goes on with it as that: use the method "
            f"'classification' with head: true, or begin with its base, {base_model}.",
        )
    _check_writes_nothing(body)


def _check_writes_nothing(body: CreateFineTuningJob) -> None:
    if body.control().get("probes"):
        name = f"{body.control_param()}.probes"
        raise _refused(
            name, f"Invalid '{name}': a model with a head writes no answers; leave the probes out."
        )


def _check_context(body: CreateFineTuningJob, base: BaseModel) -> None:
    """A prefix or an overlap that would leave less of the context to the texts than they take."""
    room = base.max_seq_len
    length = body.tuning.length if body.tuning and body.tuning.type == "prefix" else "auto"
    if length != "auto":
        if length > room // 2:
            raise _refused(
                "tuning.length",
                f"The context of {base.id} holds {room} tokens, of which a prefix may take half: expected a "
                f"length of {room // 2} at most, but got {length} instead.",
            )
        room -= length
    room = min(room, body.control().get("max_seq_len", room))
    overlap = body.merged_hyperparameters().get("overlap", "auto")
    if overlap != "auto" and overlap > room // 2:
        raise _refused(
            "method.unsupervised.hyperparameters.overlap",
            f"The windows of {base.id} hold {room} tokens and may overlap by half of that: "
            f"expected an overlap of {room // 2} at most, but got {overlap} instead.",
        )


def _check_size(body: CreateFineTuningJob, base: BaseModel, settings: Settings) -> None:
    """More of the base than there is of it. Where its files are not at hand, the worker finds out."""
    tuning = body.tuning
    numbers = {"output_layers": "blocks", "lora": "rank"}
    if tuning is None or tuning.type not in numbers:
        return
    name = numbers[tuning.type]
    asked = getattr(tuning, name)
    shape = None if asked == "auto" else architecture.known(settings.bases_dir, base)
    if shape is None:
        return
    most, why = (
        (shape.num_blocks, "blocks")
        if name == "blocks"
        else (
            shape.hidden_size,
            "numbers to a token's hidden state, beyond which a rank adds nothing",
        )
    )
    if asked > most:
        raise _refused(
            f"tuning.{name}",
            f"Invalid 'tuning.{name}': {base.id} has {most} {why}: expected {most} at most, but got {asked} instead.",
        )


def check_memory(
    tuning: Mapping[str, Any], base: BaseModel, settings: Settings, found: list[Host]
) -> None:
    """What no worker that told of itself could hold, whatever the rows are. Where nobody knows, the worker finds out."""
    most = hosts.most_bytes(found)
    shape = architecture.known(settings.bases_dir, base)
    if most is None or shape is None:
        return
    needed = memory.least_bytes(shape, tuning)
    if needed > most:
        raise InvalidRequest(
            f"The job cannot fit into the memory of a worker. It needs at least {gigabytes(needed)}: the base of "
            f"{shape.num_parameters / 1e6:.0f} million parameters, and weights, gradients and moments of the "
            f"{memory.num_trained(shape, tuning) / 1e6:.1f} million that the tuning {tuning['type']} trains. The largest "
            f"worker has {gigabytes(most)}. What would fit: {' or '.join(memory.would_fit(shape, tuning, most))}.",
            param="tuning",
            code="out_of_memory",
        )


def _refused(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="invalid_value")
