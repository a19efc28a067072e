"""Imports: LoRA adapters in PEFT's format that were trained elsewhere become models of the server's."""

from __future__ import annotations

import os
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import openai
from openai import BaseModel

from .transfers import TransferError, wait

if TYPE_CHECKING:
    from openai import OpenAI

PATH = "/luthier/imports"
FILES = ("adapter_config.json", "adapter_model.safetensors")


class ModelImport(BaseModel):
    id: str
    object: str
    created_at: int
    file_id: str
    base_model: str
    status: str
    error: TransferError | None = None
    model: str | None = None


class Imports:
    def __init__(self, client: OpenAI) -> None:
        self._client = client

    def create(self, file_id: str, base: str, *, suffix: str | None = None) -> ModelImport:
        """Begin the import of an uploaded archive; the adapter was trained on `base`."""
        body = {"file_id": file_id, "model": base}
        if suffix is not None:
            body["suffix"] = suffix
        return self._client.post(PATH, body=body, cast_to=ModelImport)

    def retrieve(self, import_id: str) -> ModelImport:
        return self._client.get(f"{PATH}/{quote(import_id, safe='')}", cast_to=ModelImport)

    def wait(self, import_id: str) -> ModelImport:
        """Until it has succeeded. Raises `TransferFailed` for any other end."""
        return wait(lambda: self.retrieve(import_id))

    def upload(
        self, directory: str | os.PathLike[str], base: str, *, suffix: str | None = None
    ) -> str:
        """Make a model of the adapter in `directory`; gives the model's name.

        Of the directory the two files that make an adapter are sent, and nothing else. Raises
        `FileNotFoundError` if one is missing, `TransferFailed` if the server finds the adapter unusable.
        """
        with tempfile.TemporaryFile(suffix=".tar") as archive:
            with tarfile.open(fileobj=archive, mode="w") as tar:
                for name in FILES:
                    with Path(directory, name).open("rb") as content:
                        entry = tarfile.TarInfo(name)
                        entry.size = os.fstat(content.fileno()).st_size
                        tar.addfile(entry, content)
            archive.seek(0)
            file = self._client.files.create(file=("adapter.tar", archive), purpose="user_data")
        try:
            done = self.wait(self.create(file.id, base, suffix=suffix).id)
        finally:
            self._client.files.delete(file.id)
        if done.model is None:
            raise openai.OpenAIError(f"{done.id} succeeded without a model")
        return done.model
