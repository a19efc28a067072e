"""`python -m modeling.transfers REQUEST`: one export or one import, in a process that ends with whoever started it.

REQUEST is a file of JSON, see `Export` and `Import`. On stdout comes a line of JSON each time there is news: `{"progress": 0.25}`, and as
the last one `{"done": …}`, or `{"failed": message, "code": …}` for what is to be told to the model's owner.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter
from safetensors import SafetensorError

from foundation import leash
from foundation.errors import DISK_FULL
from modeling.artifacts.artifact import ArtifactError
from modeling.importer import ImportFailed, ensure_imported

from . import adapter_upload, gguf_export, merged_folder
from .merged import Merged, TransferFailed, read

PROGRESS_INTERVAL_S = 0.25
MAX_TOLD_CHARS = 1000
GGUF_NAME = "model-{quantization}.gguf"


class _Source(BaseModel):
    """A base as the catalogue has it."""

    model_config = ConfigDict(extra="forbid")
    id: str
    source: str
    revision: str


class Export(BaseModel):
    """Write a tuned model, merged into its base, into the empty folder `folder`."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["export"]
    base: _Source
    bases_dir: Path
    artifact_dir: Path
    artifact_kind: str
    format: Literal["safetensors", "gguf"]
    quantization: gguf_export.Quantization | None
    model: str
    license: str | None
    folder: Path


class Import(BaseModel):
    """Write the adapter in the archive `upload` into the empty folder `folder`."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["import"]
    base: _Source
    bases_dir: Path
    upload: Path
    folder: Path


def run(request: Export | Import, progress: _Progress) -> dict[str, Any]:
    """Raises TransferFailed, ArtifactError, ImportFailed and OSError."""
    base = ensure_imported(request.base, request.bases_dir)
    if isinstance(request, Import):
        return adapter_upload.convert(request.upload, base, request.base.id, request.folder)
    artifact = read(request.artifact_dir, request.artifact_kind, base)
    merged = Merged(base, artifact)
    if request.format == "safetensors":
        merged_folder.write(merged, request.folder, progress)
        return {}
    assert request.quantization is not None
    name = GGUF_NAME.format(quantization=request.quantization)
    gguf_export.write(
        merged,
        request.folder / name,
        request.quantization,
        progress,
        name=request.model,
        license=request.license,
    )
    merged_folder.copy_licences(base, request.folder)
    return {}


class _Progress:
    def __init__(self) -> None:
        self._told_at = 0.0

    def __call__(self, share: float) -> None:
        now = time.monotonic()
        if now - self._told_at > PROGRESS_INTERVAL_S:
            self._told_at = now
            _say(progress=share)


def main(path: str) -> int:
    leash.exit_with_parent()
    adapter: TypeAdapter[Export | Import] = TypeAdapter(Export | Import)
    request = adapter.validate_json(Path(path).read_bytes())
    try:
        _say(done=run(request, _Progress()))
    except (TransferFailed, ArtifactError) as error:
        _say(failed=_tellable(str(error)), code="invalid_model")
    except (OSError, SafetensorError, ImportFailed) as error:
        if not _is_for_want_of_room(error):
            # Its text names paths of this machine: it is for the log.
            raise
        _say(failed="The server's disk is full.", code="storage_full")
    return 0


def _tellable(text: str) -> str:
    """What may quote a stranger's file, at a length that a person reads and without what no database keeps."""
    cut = text if len(text) <= MAX_TOLD_CHARS else f"{text[:MAX_TOLD_CHARS]}…"
    return cut.replace("\0", "\\0")


def _is_for_want_of_room(error: BaseException) -> bool:
    cause = error.__cause__ if isinstance(error, ImportFailed) else error
    if isinstance(cause, SafetensorError):
        # The library is not Python's, and tells the system's number in its text alone.
        told = re.search(r"os error (\d+)", str(cause))
        return told is not None and int(told[1]) in DISK_FULL
    return isinstance(cause, OSError) and cause.errno in DISK_FULL


def _say(**news: Any) -> None:
    sys.stdout.write(json.dumps(news) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
