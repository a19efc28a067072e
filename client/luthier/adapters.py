"""Downloading what training made: an archive from the server becomes a directory in its kind's format."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from . import archives

if TYPE_CHECKING:
    from openai import OpenAI

KIND_HEADER = "x-luthier-artifact-kind"
REQUIRED = {"lora": frozenset({"adapter_config.json", "adapter_model.safetensors"})}
"""What makes an archive complete, by the kind of what it holds. Of other kinds it is not known here."""


class Adapters:
    def __init__(self, client: OpenAI) -> None:
        self._client = client

    def download(self, model: str, path: str | os.PathLike[str]) -> Path:
        """Write the weights of a tuned model into the new directory `path`, in the format of their kind: PEFT's
        for a LoRA adapter.

        The directory appears whole or not at all. Raises `FileExistsError` if something is there
        already, `openai.NotFoundError` for an unknown model, `AdapterArchiveError` if the reply
        holds anything but the plain files of an adapter. A transfer that breaks off is begun anew,
        as often as the client retries other requests.
        """
        url = f"/luthier/models/{quote(model, safe=':')}/adapter"
        return archives.download(self._client, url, path, what=model, required=_required)


def _required(headers: Mapping[str, str]) -> frozenset[str]:
    """Servers that do not say what kind it is know LoRA alone."""
    return REQUIRED.get(headers.get(KIND_HEADER, "lora"), frozenset())
