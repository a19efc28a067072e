"""Archives from the server become directories: fetched whole, taken for nothing but plain files, and there at once or not at all."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import openai
from openai._legacy_response import HttpxBinaryResponseContent
from openai._response import StreamedBinaryAPIResponse, to_custom_streamed_response_wrapper

if TYPE_CHECKING:
    from openai import OpenAI
    from openai._types import Headers

CHUNK_BYTES = 1 << 20
RETRY_DELAY_S = 0.5

OnBytes = Callable[[int], object]
"""Gets how many bytes have come since the last call."""


class AdapterArchiveError(openai.OpenAIError):
    """What the server sent is not an archive of what training makes; nothing of it was kept."""


def download(
    client: OpenAI,
    url: str,
    path: str | os.PathLike[str],
    *,
    what: str,
    required: Callable[[Mapping[str, str]], frozenset[str]],
    check: Callable[[Path], object] = lambda _: None,
    on_bytes: OnBytes = lambda _: None,
) -> Path:
    """Make the new directory `path` of the tar at `url`.

    `required` says by the reply's headers which files must be in it; `check` may refuse the directory before
    anybody sees it. Raises `FileExistsError` if something is there already, `AdapterArchiveError` if the reply
    holds anything but plain files, and what the client and `check` raise. A transfer that breaks off is begun
    anew, as often as the client retries other requests.
    """
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists already")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, because only a rename within one file system is atomic.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        archive = Path(scratch, "archive.tar")
        headers = _fetch(client, url, archive, what, on_bytes)
        directory = Path(scratch, "directory")
        directory.mkdir()
        extract(archive, directory, required(headers))
        archive.unlink()
        check(directory)
        directory.rename(target)
    return target


def _fetch(
    client: OpenAI, url: str, archive: Path, what: str, on_bytes: OnBytes
) -> Mapping[str, str]:
    """Gives the reply's headers."""

    def get(*, extra_headers: Headers | None = None) -> HttpxBinaryResponseContent:
        return client.get(
            url,
            options={"headers": {"Accept": "application/x-tar", **(extra_headers or {})}},
            cast_to=HttpxBinaryResponseContent,
        )

    stream = to_custom_streamed_response_wrapper(get, StreamedBinaryAPIResponse)
    broken = transport_errors()
    retries = client.max_retries
    while True:
        try:
            with stream() as response, archive.open("wb") as file:
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    file.write(chunk)
                    on_bytes(len(chunk))
                return response.headers
        except broken as error:
            # The client retries what fails before the reply's body, but not the body.
            if retries == 0:
                raise openai.APIConnectionError(
                    message=f"The transfer of {what} broke off: {error}",
                    request=response.http_request,
                ) from error
            retries -= 1
            time.sleep(RETRY_DELAY_S)


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
