"""A tuned model at a strength, as a project names it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from foundation.errors import InvalidRequest

from . import aliases, models, strengths
from .artifacts import DIALLED_KINDS, ArtifactRow
from .base_models import Catalogue
from .models import ModelRow


@dataclass(frozen=True)
class DialledModel:
    model: ModelRow
    artifact: ArtifactRow
    strength: float = 1.0

    @property
    def name(self) -> str:
        """Without aliases, the strength in its short form."""
        return strengths.name_at(self.model.name, self.strength)


def find(session: Session, project_id: str, name: str, catalogue: Catalogue) -> DialledModel | None:
    """What `ft:…@0.75` stands for, or an alias of it: `support@0.75`, or `support` where that is bound to such a name.

    Whoever calls has found nothing that the whole name stands for. Raises InvalidRequest for a strength that the model
    cannot have.
    """
    plain, text = strengths.split(aliases.target(session, project_id, name) or name)
    if text is None:
        return None
    found = models.find(session, project_id, plain)
    if found is None:
        if aliases.find_base(session, project_id, plain, catalogue) is None:
            return None
        raise _has_none(plain, "a base model")
    model, artifact = found
    if artifact.kind not in DIALLED_KINDS:
        raise _has_none(plain, f"of the kind '{artifact.kind}'")
    try:
        return DialledModel(model, artifact, strengths.parse(text))
    except ValueError:
        raise InvalidRequest(
            f"Invalid strength of the model `{plain}`: expected a number from 0 to {strengths.MAX_STRENGTH} behind "
            f"the '{strengths.SEPARATOR}', such as 0.75, but got {text[:40]!r}.",
            param="model",
            code="invalid_strength",
        ) from None


def _has_none(name: str, what: str) -> InvalidRequest:
    return InvalidRequest(
        f"The model `{name}` is {what}, which has no strength: only models of the kind 'lora' can be asked for "
        f"at one. Ask for `{name}`.",
        param="model",
        code="invalid_strength",
    )
