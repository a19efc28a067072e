"""Exports: tuned models for use elsewhere, made by the server, downloaded, and checked on arrival."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from openai import BaseModel

from . import archives, manifests
from .archives import OnBytes
from .transfers import TransferError, wait

if TYPE_CHECKING:
    from openai import OpenAI

PATH = "/luthier/exports"
PAGE_EXPORTS = 100

Format = Literal["peft", "safetensors", "gguf"]
Quantization = Literal["f16", "q8_0"]


class ExportedFile(BaseModel):
    name: str
    bytes: int
    sha256: str


class ModelExport(BaseModel):
    id: str
    object: str
    created_at: int
    model: str
    format: str
    quantization: str | None = None
    status: str
    progress: float
    error: TransferError | None = None
    files: list[ExportedFile] | None = None
    bytes: int | None = None


class ExportDeleted(BaseModel):
    id: str
    object: str
    deleted: bool


class ExportPage(BaseModel):
    data: list[ModelExport]
    has_more: bool


class SigningKey(BaseModel):
    algorithm: str
    public_key: str


class Exports:
    def __init__(self, client: OpenAI) -> None:
        self._client = client

    def create(
        self, model: str, format: Format, quantization: Quantization | None = None
    ) -> ModelExport:
        """Begin an export; `quantization` is for `gguf` alone."""
        body: dict[str, str] = {"format": format}
        if quantization is not None:
            body["quantization"] = quantization
        return self._client.post(
            f"/luthier/models/{quote(model, safe=':')}/export", body=body, cast_to=ModelExport
        )

    def retrieve(self, export_id: str) -> ModelExport:
        return self._client.get(_path(export_id), cast_to=ModelExport)

    def list(self) -> Iterator[ModelExport]:
        """All of the project's exports, newest first."""
        after: dict[str, object] = {}
        while True:
            query = {"limit": PAGE_EXPORTS, **after}
            page = self._client.get(PATH, cast_to=ExportPage, options={"params": query})
            yield from page.data
            if not page.has_more:
                return
            after = {"after": page.data[-1].id}

    def cancel(self, export_id: str) -> ModelExport:
        return self._client.post(_path(export_id, "/cancel"), cast_to=ModelExport)

    def delete(self, export_id: str) -> ExportDeleted:
        """Take it and its files from the server."""
        return self._client.delete(_path(export_id), cast_to=ExportDeleted)

    def wait(
        self, export_id: str, on_progress: Callable[[float], object] = lambda _: None
    ) -> ModelExport:
        """Until it has succeeded. Raises `TransferFailed` for any other end."""
        return wait(lambda: self.retrieve(export_id), lambda seen: on_progress(seen.progress))

    def download(
        self,
        export_id: str,
        path: str | os.PathLike[str],
        *,
        on_bytes: OnBytes = lambda _: None,
    ) -> Path:
        """Write the export's files into the new directory `path`, whole and as they were signed, or not at all.

        Raises `FileExistsError`, `AdapterArchiveError` and `ManifestError`.
        """
        key = self.signing_key()

        def required(_: Mapping[str, str]) -> frozenset[str]:
            return frozenset({manifests.NAME, manifests.SIGNATURE_NAME})

        return archives.download(
            self._client,
            _path(export_id, "/content"),
            path,
            what=export_id,
            required=required,
            check=lambda folder: manifests.verify(folder, key),
            on_bytes=on_bytes,
        )

    def signing_key(self) -> str:
        """The public key, in base64, with which this server signs its exports: always the same."""
        return self._client.get("/luthier/signing_key", cast_to=SigningKey).public_key


def _path(export_id: str, action: str = "") -> str:
    return f"{PATH}/{quote(export_id, safe='')}{action}"
