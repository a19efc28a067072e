"""What a model's name stands for: the base, and the artifact on top of it. Looked up in the caller's project."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from api.wiring import Wiring
from foundation.errors import InvalidRequest, NotFound
from foundation.headers import ARTIFACT_BYTES, ARTIFACT_KIND, ARTIFACT_SHA256, CACHE_SALT, WEIGHT
from storage.models import aliases, artifacts, dialled, models, strengths
from storage.models.artifacts import ArtifactRow
from storage.models.base_models import BaseModel, Catalogue
from storage.models.dialled import DialledModel
from storage.models.models import ModelRow
from storage.organization.api_keys import Caller

MAX_NAME_CHARS = 1024
"""No model's name is that long."""


@dataclass(frozen=True)
class Target:
    """A model as an inference server and as its user know it."""

    name: str
    """As the request has it."""
    canonical_name: str
    """Without aliases: the base's id or the tuned model's name, with its strength if it has one."""
    base_model: str
    wire_model: str
    """What the inference server calls it: the base's id or the artifact's, with the strength likewise."""
    key: str
    """Requests with the same key go to the same server, as long as it is up."""
    headers: dict[str, str] = field(default_factory=dict)
    is_dialled: bool = False
    """It is a tuned model at a strength."""


async def resolve(wiring: Wiring, caller: Caller, name: str, *, is_to_write: bool = True) -> Target:
    """Raises NotFound, with the same text for another project's model as for none, and InvalidRequest for one
    of a kind that is not served, or writes nothing though it is to, and for a strength that it cannot have."""
    whose = _whose(caller)
    catalogue = wiring.catalogue()
    base, found = catalogue.get(name), None
    if base is None:
        base, found = await wiring.database.run(_look_up, caller.project_id, name, catalogue)
    if base is not None:
        # A project's requests share prefixes with each other only, so they belong together.
        return Target(name, base.id, base.id, base.id, caller.project_id, whose)
    if found is None:
        raise NotFound(
            f"The model `{name}` does not exist or you do not have access to it.",
            code="model_not_found",
        )
    model, artifact = found.model, found.artifact
    if artifact.kind not in artifacts.SERVED_KINDS:
        raise InvalidRequest(
            f"The model `{name}` is of the kind '{artifact.kind}', which the inference servers cannot "
            f"apply: they serve {artifacts.served_kinds()}. Its weights can be downloaded from "
            "/v1/luthier/models/{model}/adapter.",
            param="model",
            code="model_not_servable",
        )
    if is_to_write and artifact.kind in artifacts.HEADED_KINDS:
        raise InvalidRequest(
            f"The model `{name}` is of the kind '{artifact.kind}': it names labels with their probabilities and "
            "writes no text. Ask it through POST /v1/luthier/classifications, with its name as the model and an input.",
            param="model",
            code="model_not_servable",
        )
    return of_artifact(name, model, artifact, caller, found.strength)


def of_artifact(
    name: str, model: ModelRow, artifact: ArtifactRow, caller: Caller, strength: float = 1.0
) -> Target:
    """A tuned model, for whom its project or the operator lets use it."""
    return Target(
        name,
        strengths.name_at(model.name, strength),
        model.base_model,
        strengths.name_at(artifact.id, strength),
        artifact.id,
        {
            **_whose(caller),
            ARTIFACT_SHA256: artifact.sha256,
            ARTIFACT_BYTES: str(artifact.size_bytes),
            ARTIFACT_KIND: artifact.kind,
        },
        is_dialled=strength != 1,
    )


def _whose(caller: Caller) -> dict[str, str]:
    weight = {} if caller.weight == 1 else {WEIGHT: str(caller.weight)}
    return {CACHE_SALT: caller.project_id, **weight}


def _look_up(
    session: Session, project_id: str, name: str, catalogue: Catalogue
) -> tuple[BaseModel | None, DialledModel | None]:
    """What the project calls by the name: a tuned model, else a base by the project's alias, else a tuned model at
    a strength."""
    found = models.find(session, project_id, name)
    if found is not None:
        return None, DialledModel(*found)
    base = aliases.find_base(session, project_id, name, catalogue)
    if base is not None:
        return base, None
    return None, dialled.find(session, project_id, name, catalogue)


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
    if len(name) > MAX_NAME_CHARS:
        raise InvalidRequest(
            f"Invalid 'model': string too long. Expected a string with maximum length "
            f"{MAX_NAME_CHARS}, but got a string with length {len(name)} instead.",
            param="model",
            code="string_above_max_length",
        )
    return name
