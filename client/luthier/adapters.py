"""Downloading what training made: an archive from the server becomes a directory in its kind's format."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import openai
from openai._legacy_response import HttpxBinaryResponseContent
from openai._response import StreamedBinaryAPIResponse, to_custom_streamed_response_wrapper

if TYPE_CHECKING:
    from openai import OpenAI
    from openai._types import Headers

KIND_HEADER = "x-luthier-artifact-kind"
REQUIRED = {"lora": frozenset({"adapter_config.json", "adapter_model.safetensors"})}
"""What makes an archive complete, by the kind of what it holds. Of other kinds it is not known here."""
CHUNK_BYTES = 1 << 20
RETRY_DELAY_S = 0.5


class AdapterArchiveError(openai.OpenAIError):
    """What the server sent is not an archive of what training makes; nothing of it was kept."""


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
        target = Path(path)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise FileExistsError(f"{target} exists already")
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, because only a rename within one file system is atomic.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
            archive = Path(scratch, "adapter.tar")
            kind = self._fetch(model, archive)
            directory = Path(scratch, "adapter")
            directory.mkdir()
            extract(archive, directory, REQUIRED.get(kind, frozenset()))
            directory.rename(target)
        return target

    def _fetch(self, model: str, archive: Path) -> str:
        """Gives the kind of what it holds; servers that do not say it know LoRA alone."""
        stream = to_custom_streamed_response_wrapper(self._get, StreamedBinaryAPIResponse)
        broken = transport_errors()
        retries = self._client.max_retries
        while True:
            try:
                with stream(model) as response:
                    response.stream_to_file(archive, chunk_size=CHUNK_BYTES)
                    return response.headers.get(KIND_HEADER, "lora")
            except broken as error:
                # The client retries what fails before the reply's body, but not the body.
                if retries == 0:
                    raise openai.APIConnectionError(
                        message=f"The transfer of {model} broke off: {error}",
                        request=response.http_request,
                    ) from error
                retries -= 1
                time.sleep(RETRY_DELAY_S)

    def _get(
        self, model: str, *, extra_headers: Headers | None = None
    ) -> HttpxBinaryResponseContent:
        return self._client.get(
            f"/luthier/models/{quote(model, safe=':')}/adapter",
            options={"headers": {"Accept": "application/x-tar", **(extra_headers or {})}},
            cast_to=HttpxBinaryResponseContent,
        )


def extract(archive: Path, directory: Path, required: frozenset[str]) -> None:
    """Write the files of an uncompressed tar into `directory`, which exists and is empty.

    Only regular files with plain names are taken, and only their bytes: no paths, links, devices,
    owners or modes. Anything else raises `AdapterArchiveError`.
    """
    try:
        with tarfile.open(archive, mode="r:") as tar:
            for member in tar:
                _write(tar, member, directory)
    except tarfile.TarError as error:
        raise AdapterArchiveError(f"the adapter's archive cannot be read: {error}") from error
    found = {file.name for file in directory.iterdir()}
    if not found:
        raise AdapterArchiveError("the adapter's archive is empty")
    if missing := required - found:
        raise AdapterArchiveError(f"the adapter's archive lacks {', '.join(sorted(missing))}")


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, directory: Path) -> None:
    name = member.name
    # Sparse files count as regular for tarfile, but may claim any size.
    is_regular = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
    is_plain = name not in ("", ".", "..") and not set(name) & set("/\\:") and name.isprintable()
    content = tar.extractfile(member) if is_regular and is_plain else None
    if content is None:
        raise AdapterArchiveError(f"the adapter's archive holds {name!r}, which is no plain file")
    try:
        with (directory / name).open("xb") as file:
            shutil.copyfileobj(content, file, CHUNK_BYTES)
    except FileExistsError:
        raise AdapterArchiveError(f"the adapter's archive holds {name!r} twice") from None


def transport_errors() -> tuple[type[Exception], ...]:
    """What a broken stream raises: openai 3 reads through httpx2, older releases through httpx."""
    errors: list[type[Exception]] = []
    for module in ("httpx2", "httpx"):
        with suppress(ModuleNotFoundError):
            errors.append(import_module(module).TransportError)
    return tuple(errors)
