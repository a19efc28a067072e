"""What an adapter is called and what its blob must be, and why it may not be had."""

from __future__ import annotations

import re
from dataclasses import dataclass

from foundation.errors import InvalidRequest, LuthierError, ModelNotFound, Unavailable
from modeling.artifacts import lora
from storage.blobs import artifact_keys

from .files import MAX_FILE_BYTES

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
MIB = 1 << 20


class AdapterUnusable(LuthierError):
    """The adapter's files are what was stored, but they cannot be applied to this base."""


class AdapterTooLarge(Unavailable):
    """The adapter needs more memory than there is for all of them. Another server may have it."""

    def __init__(self, adapter_id: str, num_bytes: int, budget_bytes: int, setting: str) -> None:
        super().__init__(
            f"The adapter {adapter_id} needs {-(-num_bytes // MIB)} MiB, and the inference server has "
            f"{budget_bytes // MIB} MiB for adapters ({setting}).",
            code="model_too_large",
        )


class NotLoadedInTime(Unavailable):
    """Others are loaded before it, it waits for room, or it takes long itself."""

    def __init__(self, model_id: str) -> None:
        super().__init__(
            f"The model {model_id} is still being loaded, or waits for its turn. Please try again."
        )


@dataclass(frozen=True)
class AdapterRef:
    """An adapter's id, what its blob must be, and the kind of artifact. Raises `InvalidRequest` where that is
    malformed."""

    id: str
    sha256: str
    size_bytes: int
    kind: str = lora.KIND

    def __post_init__(self) -> None:
        if not is_adapter_id(self.id):
            raise ModelNotFound(self.id)
        if not _SHA256.fullmatch(self.sha256) or self.size_bytes <= 0:
            raise InvalidRequest("an adapter's sha256 or size is malformed", param="model")
        if self.kind not in MAX_FILE_BYTES:
            raise InvalidRequest(
                f"artifacts of the kind '{self.kind}' are not served here", param="model"
            )

    @property
    def blob_key(self) -> str:
        return artifact_keys.key(self.id)


def is_adapter_id(name: str) -> bool:
    """Whether `name` may be used as a file name and blob key."""
    return _ID.fullmatch(name) is not None
