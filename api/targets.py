"""What a model's name stands for: the base, and the adapter on top of it. Looked up in the caller's project."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from storage import models
from storage.api_keys import Caller
from storage.errors import InvalidRequest, NotFound

from .wiring import Wiring


@dataclass(frozen=True)
class Target:
    """A model as an inference server and as its user know it."""

    name: str
    """As the request has it."""
    canonical_name: str
    """Without aliases: the base's id or the tuned model's name."""
    base_model: str
    wire_model: str
    """What the inference server calls it: the base's id or the adapter's."""
    key: str
    """Requests with the same key go to the same server, as long as it is up."""
    headers: dict[str, str] = field(default_factory=dict)


async def resolve(wiring: Wiring, caller: Caller, name: str) -> Target:
    """Raises NotFound, with the same text for another project's model as for none."""
    salt = {"x-luthier-cache-salt": caller.project_id}
    base = wiring.catalogue().get(name)
    if base is not None:
        # A project's requests share prefixes with each other only, so they belong together.
        return Target(name, base.id, base.id, base.id, caller.project_id, salt)
    found = await wiring.database.run(models.find, caller.project_id, name)
    if found is None:
        raise NotFound(
            f"The model `{name}` does not exist or you do not have access to it.",
            code="model_not_found",
        )
    model, adapter = found
    return Target(
        name,
        model.name,
        model.base_model,
        adapter.id,
        adapter.id,
        salt
        | {
            "x-luthier-adapter-sha256": adapter.sha256,
            "x-luthier-adapter-bytes": str(adapter.size_bytes),
        },
    )


def model_name(body: dict[str, Any]) -> str:
    """Raises InvalidRequest."""
    name = body.get("model")
    if name is None:
        raise InvalidRequest(
            "Missing required parameter: 'model'.",
            param="model",
            code="missing_required_parameter",
        )
    if not isinstance(name, str) or "\0" in name:
        raise InvalidRequest(
            "Invalid type for 'model': expected a model's name.", param="model", code="invalid_type"
        )
    return name
