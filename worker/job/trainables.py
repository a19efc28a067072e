"""What a job changes of its base, with every "auto" resolved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from storage.models.architecture import Architecture
from storage.models.artifacts import LORA_TARGETS, MAX_ADAPTER_RANK, MIN_PREFIX_TOKENS
from training.checkpoint_folder import lora_spec
from training.messages import Classifier, Full, Lora, OutputLayers, Prefix, Trainable
from worker.endings import JobFailed

from .defaults import DEFAULTS, Asked, Defaults

ALPHA = 32.0
"""With a scale of alpha / rank the best learning rate does not depend on the rank."""
NUM_VIRTUAL_TOKENS = 16
"""An estimate: 16 to 32 hold a tone or a format, and each is taken from every request's context."""
NUM_BLOCKS = 2
UNASKED = {"type": "lora"}

_trainable: TypeAdapter[Trainable] = TypeAdapter(Trainable)


def chosen(
    tuning: Mapping[str, Any],
    architecture: Architecture,
    num_supervised_tokens: int,
    defaults: Defaults,
    reasons: dict[str, str],
) -> Trainable:
    """What the job's `tuning` asks for; adds the reasons of what was "auto". Raises JobFailed."""
    given = Asked(tuning, reasons).given
    match tuning["type"]:
        case "lora":
            reason = (
                f"{num_supervised_tokens} tokens to learn, "
                f"{architecture.parameters_per_rank} parameters a rank"
            )
            return Lora(
                rank=given("rank", rank(architecture, num_supervised_tokens, defaults), reason),
                alpha=given("alpha", ALPHA, "the default"),
                target_modules=given("targets", LORA_TARGETS, "all linear layers"),
                use_rslora=tuning.get("rslora") is True,
            )
        case "prefix":
            return Prefix(num_virtual_tokens=given("length", NUM_VIRTUAL_TOKENS, "the default"))
        case "output_layers":
            blocks = given("blocks", min(NUM_BLOCKS, architecture.num_blocks), "the default")
            if blocks > architecture.num_blocks:
                raise JobFailed(
                    "invalid_tuning",
                    f"The base model has {architecture.num_blocks} blocks, fewer than the {blocks} that "
                    "'tuning.blocks' asks for",
                    "tuning",
                )
            return OutputLayers(num_blocks=blocks, train_head=tuning.get("head") is True)
        case "full":
            return Full()
    raise ValueError(f"no tuning is called {tuning['type']!r}")


def rank(
    architecture: Architecture, supervised_tokens: int, defaults: Defaults = DEFAULTS["supervised"]
) -> int:
    """As many parameters as there are tokens to learn, within bounds."""
    needed = max(supervised_tokens / architecture.parameters_per_rank, 1)
    return min(max(1 << math.ceil(math.log2(needed)), defaults.min_rank), defaults.max_rank)


def of_artifact(kind: str, spec: Mapping[str, Any], folder: Path) -> Trainable:
    """What a job that goes on from a tuned model takes over from it; `folder` has the model's files.

    Raises ValueError for what training cannot go on from.
    """
    if kind == "lora":
        # What earlier versions wrote into their rows is not all of it.
        spec = lora_spec(folder)
        # Their order in the file is arbitrary, that of the config part of what makes a run repeatable.
        spec["target_modules"] = sorted(spec["target_modules"])
        # Of those made elsewhere, layers may have less: they get as much as the others.
        spec["rank"] = max(spec["rank"], *spec.pop("rank_pattern", {}).values(), 1)
    elif kind == "classifier":
        spec = {**spec, "target_modules": sorted(spec["target_modules"])}
    elif kind == "prefix":
        # The rest is the base's shape.
        spec = {"num_virtual_tokens": spec["num_virtual_tokens"]}
    return _trainable.validate_python({"kind": kind, **spec})


def gone_on_with(tuning: Mapping[str, Any] | None, begun: Trainable) -> Trainable | None:
    """What trains of a job that goes on from a tuned model as what that is; None if something else is asked for.

    "auto" is what the model has. An adapter may grow: what it has is in the larger one.
    """
    if tuning is None:
        return begun
    has = told(begun)
    if tuning["type"] != has["type"]:
        return None
    asked = {name: value for name, value in tuning.items() if value not in (None, "auto")}
    if isinstance(begun, Lora):
        if set(asked.get("targets", ())) == set(begun.target_modules):
            del asked["targets"]
        fields = {own: asked[name] for name, own in _LORA_FIELDS.items() if name in asked}
        grown = Lora.model_validate({**begun.model_dump(), **fields})
        return grown if _holds(grown, begun) else None
    return begun if has | asked == has else None


_LORA_FIELDS = {
    "rank": "rank",
    "alpha": "alpha",
    "targets": "target_modules",
    "rslora": "use_rslora",
}


def _holds(adapter: Lora, other: Lora) -> bool:
    """Whether one of the other's rank and targets has a place in it."""
    return adapter.rank >= other.rank and {*adapter.target_modules} >= {*other.target_modules}


def merges(begun: Trainable, trainable: Trainable) -> bool:
    """Whether the tuned model that a job goes on from is merged into its base first.

    So it is where another kind trains or less of it, and where what trains are copies of the base's weights anyway.
    """
    if isinstance(begun, Lora) and isinstance(trainable, Lora):
        return not _holds(trainable, begun)
    return trainable != begun or isinstance(trainable, Full | OutputLayers)


def on_top_of(
    begun: Trainable | None, trainable: Trainable, reasons: Mapping[str, str]
) -> Trainable:
    """An adapter on a merged adapter: both are published as one, whose rank is the sum. Raises JobFailed."""
    if not isinstance(begun, Lora) or not isinstance(trainable, Lora):
        return trainable
    left = MAX_ADAPTER_RANK - begun.rank
    if trainable.rank <= left:
        return trainable
    if left > 0 and "rank" in reasons:
        return trainable.model_copy(update={"rank": left})
    raise JobFailed(
        "invalid_tuning",
        f"The model has rank {begun.rank}, and another {trainable.rank} on top of it make more than "
        f"{MAX_ADAPTER_RANK}, which is the most that an adapter may have. Ask for less, or for all of the model's "
        "targets and its rank, so that training goes on with what is there",
        "tuning",
    )


def num_virtual_tokens(
    tuning: Mapping[str, Any] | None, begun: Trainable | None, max_seq_len: int
) -> int:
    """How many places of a context of `max_seq_len` tokens a job keeps from its texts. Raises JobFailed."""
    match begun:
        case Prefix(num_virtual_tokens=number):
            pass
        case None if tuning and tuning["type"] == "prefix":
            asked = tuning.get("length", "auto")
            number = NUM_VIRTUAL_TOKENS if asked == "auto" else asked
        case _:
            return 0
    if number < MIN_PREFIX_TOKENS:
        raise JobFailed(
            "invalid_tuning",
            "The model is a prefix of a single virtual token, which stays as it is in training: there is nothing "
            "to go on with. Begin with the base",
            "model",
        )
    if number >= max_seq_len:
        raise JobFailed(
            "invalid_tuning",
            f"A prefix of {number} virtual tokens leaves no room in the context of {max_seq_len} tokens",
            "tuning",
        )
    return number


def told(trainable: Trainable) -> dict[str, Any]:
    """As the job's `tuning` would have asked for it."""
    match trainable:
        case Lora() | Classifier():
            return {
                "type": "lora",
                "rank": trainable.rank,
                "alpha": trainable.alpha,
                "targets": list(trainable.target_modules),
                "rslora": trainable.use_rslora,
            }
        case Prefix():
            return {"type": "prefix", "length": trainable.num_virtual_tokens}
        case OutputLayers():
            blocks, head = trainable.num_blocks, trainable.train_head
            return {"type": "output_layers", "blocks": blocks, "head": head}
        case Full():
            return {"type": "full"}
