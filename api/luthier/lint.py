"""/v1/luthier/files/{id}/lint: what the linter says of a file, with codes, lines and mends."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.auth import ProjectCaller
from api.wiring import Wired, Wiring
from foundation.errors import InvalidRequest, ModelNotFound
from storage.blobs.blobs import BlobStore
from storage.files import files
from storage.files.files import FileRow
from storage.models import base_models

router = APIRouter(prefix="/v1/luthier/files", tags=["luthier"])

MAX_BYTES = 32 * 1024 * 1024
"""Of both files; larger ones are linted where they are, with `luthier lint`."""

Json = dict[str, Any]
MethodName = Literal["supervised", "unsupervised", "dpo", "classification"]


class LintedLine(BaseModel):
    code: str
    severity: Literal["error", "warning", "info"]
    line: int | None
    """Null for what is said of the whole file."""
    path: str
    message: str
    mend: str | None


class FileLint(BaseModel):
    role: Literal["training", "validation"]
    file_id: str
    name: str
    num_bytes: int
    num_rows: int
    method: str | None
    task: str | None
    converted_from: str | None
    counts: dict[str, int]
    """Of all findings, by code."""
    findings: list[LintedLine]
    """The first five of each code."""


class LintResult(BaseModel):
    object: Literal["lint.report"] = "lint.report"
    version: int
    errors: int
    warnings: int
    files: list[FileLint]


@router.get("/{file_id}/lint")
async def lint_file(
    file_id: str,
    caller: ProjectCaller,
    wiring: Wired,
    validation_file: Annotated[str | None, Query()] = None,
    model: Annotated[str | None, Query()] = None,
    method: Annotated[MethodName | None, Query()] = None,
) -> LintResult:
    """`model` is a base: then tokens are counted, and what its context cuts off is found."""
    rows = await wiring.database.run(_rows, caller.project_id, file_id, validation_file)
    asked = {"method": method, **await run_sync(_base, wiring, model)}
    key = repr((*((row.sha256, row.filename) for row in rows), sorted(asked.items())))
    report = wiring.lint_runs.kept(key)
    if report is None:
        async with wiring.lint_runs.turn(caller.project_id):
            report = wiring.lint_runs.kept(key) or await _lint(wiring, key, rows, asked)
    ids = dict(zip(("training", "validation"), (row.id for row in rows), strict=False))
    found = [{**file, "file_id": ids[file["role"]]} for file in report["files"]]
    return LintResult(**{**report, "files": found})


async def _lint(wiring: Wiring, key: str, rows: list[FileRow], asked: Json) -> Json:
    with tempfile.TemporaryDirectory(prefix="luthier-lint-") as folder:
        paths = [Path(folder) / str(place) for place in range(len(rows))]
        for row, path in zip(rows, paths, strict=True):
            await run_sync(_fetch, wiring.blobs, row, path)
        names = [row.filename for row in rows]
        validation = str(paths[1]) if len(rows) > 1 else None
        of_files = {
            "path": str(paths[0]),
            "filename": names[0],
            "validation": validation,
            "validation_filename": names[1] if validation else None,
        }
        return await wiring.lint_runs.run(key, asked | of_files)


def _rows(session: Session, project_id: str, file_id: str, validation: str | None) -> list[FileRow]:
    rows = [
        files.get(session, project_id, each) for each in (file_id, validation) if each is not None
    ]
    for row, param in zip(rows, ("file_id", "validation_file"), strict=False):
        if row.purpose != "fine-tune":
            raise InvalidRequest(
                f"The file {row.id} has the purpose '{row.purpose}'; files for 'fine-tune' can be linted",
                param=param,
            )
    size_bytes = sum(row.size_bytes for row in rows)
    if size_bytes > MAX_BYTES:
        raise InvalidRequest(
            f"The files have {size_bytes} bytes, of which {MAX_BYTES} are linted here; run `luthier lint` on them",
            param="file_id",
        )
    return rows


def _fetch(blobs: BlobStore, row: FileRow, path: Path) -> None:
    with path.open("wb") as file:
        for chunk in blobs.read(row.blob_key, size_bytes=row.size_bytes, sha256=row.sha256):
            file.write(chunk)


def _base(wiring: Wiring, model: str | None) -> Json:
    """Where its tokenizer lies, if a base was named. Raises ModelNotFound, and InvalidRequest where it is not here."""
    nothing: Json = {"base_path": None, "document_end": None, "max_seq_len": None}
    if model is None:
        return nothing
    base = wiring.catalogue().get(model)
    if base is None:
        raise ModelNotFound(model)
    path = base_models.path(wiring.settings.bases_dir, base)
    if not (path / "tokenizer.json").exists():
        raise InvalidRequest(
            f"The base model {base.id} is not on the machine of the api, or no job has been trained on it yet; leave "
            "'model' out, or run `luthier lint --base`",
            param="model",
        )
    return {
        "base_path": str(path),
        "document_end": base.document_end,
        "max_seq_len": base.max_seq_len,
    }
