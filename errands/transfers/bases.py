"""The base of a transfer, as the catalogue has it now."""

from __future__ import annotations

from typing import Any

from errands.errands import Errands
from storage.models.base_models import BaseModel, Catalogue

from .process import TransferRefused


def find(errands: Errands, name: str) -> BaseModel:
    """Raises TransferRefused."""
    base = Catalogue.load(errands.settings.data_dir, errands.settings.aliases).get(name)
    if base is None:
        raise TransferRefused(
            "model_not_available", f"The base model {name} is not known to this server any more."
        )
    return base


def words(errands: Errands, base: BaseModel) -> dict[str, Any]:
    """What the process that knows models wants to hear of it."""
    return {
        "base": {"id": base.id, "source": base.source, "revision": base.revision},
        "bases_dir": str(errands.settings.bases_dir.resolve()),
    }
