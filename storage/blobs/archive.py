"""Folders as tars: the same files always give the same bytes, and unpacking trusts nobody."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any, cast

from .blobs import BlobInfo, BlobStore

_BLOCK_BYTES = 1 << 20


def pack(folder: Path, blobs: BlobStore, key: str) -> BlobInfo:
    """Stream the files below `folder` into an uncompressed tar; paths in it are relative to `folder`."""
    with blobs.writer(key) as writer:
        with tarfile.open(
            fileobj=cast(Any, writer),  # in this mode tarfile only calls `write`
            mode="w|",
            bufsize=_BLOCK_BYTES,
            format=tarfile.PAX_FORMAT,
        ) as tar:
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                _add(tar, file, file.relative_to(folder).as_posix())
        return writer.commit()


def _add(tar: tarfile.TarFile, file: Path, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = file.stat().st_size
    entry.mode = 0o644
    with file.open("rb") as content:
        tar.addfile(entry, content)


def unpack(file: Path, folder: Path) -> Path:
    """Extract the tar `file` into `folder`, which must be new; gives `folder`."""
    folder.mkdir()
    try:
        with tarfile.open(file) as tar:
            tar.extractall(folder, filter="data")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder
