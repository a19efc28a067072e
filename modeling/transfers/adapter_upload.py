"""An adapter that somebody else made: taken out of what was uploaded, checked as strictly as any, and written anew.

Of the upload nothing is kept but the numbers: no name, no file and no option of it gets any further than this.
"""

from __future__ import annotations

import errno
import json
import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from transformers import PretrainedConfig

from modeling.artifacts import files, lora, peft_files
from modeling.artifacts.artifact import ArtifactError

from .merged import TransferFailed, base_config

MAX_ENTRIES = 1000
PICKLE_NAME = "adapter_model.bin"
_BLOCK_BYTES = 1 << 20
_DAMAGED = (
    *(
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        shutil.ReadError,
        struct.error,
    ),
    *(EOFError, IndexError, NotImplementedError, RuntimeError, ValueError),
)
"""What Python's readers of archives raise for bytes that are none."""
_DAMAGED_ERRNOS = (None, errno.EINVAL)
"""Of the OSErrors that they raise for the same reason; those of a disk have numbers of their own."""


def convert(upload: Path, base: Path, base_id: str, folder: Path) -> dict[str, Any]:
    """Write the adapter in `upload`, a tar or a zip, into `folder`; gives its artifact's manifest.

    Raises TransferFailed and OSError.
    """
    unpacked = folder.with_name("unpacked")
    unpacked.mkdir()
    _unpack(upload, unpacked, max_file_bytes(base_config(base)))
    _check_task(unpacked)
    try:
        # Its own name for the base is another than ours, so the shapes have to say whether it fits.
        found = lora.read(unpacked, base_config(base))
    except ArtifactError as error:
        raise TransferFailed(f"The adapter cannot be used: {error}.") from error
    modules = {module.rpartition(".")[2] for module in lora.layers(found)}
    # Others name their targets by patterns; what is there says it better.
    spec = {**found.spec, "target_modules": sorted(modules)}
    own = replace(found, spec=spec, base_model=base_id, base_revision="")
    lora.write(folder, own)
    # As it will be served, so that nothing is promised that the writer lost.
    return lora.read(folder, base_config(base), base_model=base_id).manifest()


def max_file_bytes(config: PretrainedConfig) -> dict[str, int]:
    """By name, what the files of an adapter may have: more than the highest rank of every layer as float64 holds no
    adapter for that base, however small it is packed."""
    numbers = sum(lora.MAX_RANK * sum(shape) for shape in lora.linear_shapes(config).values())
    return {
        **peft_files.MAX_FILE_BYTES,
        peft_files.WEIGHTS_NAME: 8 * numbers + files.MAX_HEADER_BYTES,
    }


def _check_task(folder: Path) -> None:
    """The strict reader looks at weights; what they are for, it does not ask."""
    try:
        config = json.loads((folder / peft_files.CONFIG_NAME).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise TransferFailed(f"{peft_files.CONFIG_NAME} cannot be read: {error}") from None
    task = config.get("task_type") if isinstance(config, dict) else None
    if task not in (None, "CAUSAL_LM"):
        raise TransferFailed(
            f"{peft_files.CONFIG_NAME} says task_type {task!r}; adapters for CAUSAL_LM can be imported."
        )


def _unpack(upload: Path, folder: Path, max_bytes: dict[str, int]) -> None:
    """The two files that count, wherever they lie in the archive; their places and owners are nobody's business."""
    found: set[str] = set()
    names: list[str] = []
    with _entries(upload) as entries:
        for number, (name, size_bytes, file) in enumerate(entries):
            if number >= MAX_ENTRIES:
                raise TransferFailed(f"The archive has more than {MAX_ENTRIES} entries.")
            own = PurePosixPath(name.replace("\\", "/")).name
            names.append(own)
            if own not in max_bytes:
                continue
            if own in found:
                raise TransferFailed(f"The archive holds {own} twice.")
            found.add(own)
            _copy(file, folder / own, size_bytes, max_bytes[own])
    for missing in max_bytes:
        if missing not in found:
            raise TransferFailed(f"The archive lacks {missing}.{_advice(names)}")


def _advice(names: list[str]) -> str:
    if PICKLE_NAME in names:
        return (
            f" It has {PICKLE_NAME}, a pickle, which is never opened here: save the adapter again with "
            "safe_serialization=True."
        )
    return ""


def _copy(file: IO[bytes], target: Path, size_bytes: int, max_bytes: int) -> None:
    """What an archive says of a size is not believed."""
    if size_bytes > max_bytes:
        raise TransferFailed(f"{target.name} has {size_bytes} bytes; it may have {max_bytes}.")
    left = max_bytes
    with target.open("xb") as local:
        while block := file.read(_BLOCK_BYTES):
            left -= len(block)
            if left < 0:
                raise TransferFailed(f"{target.name} has more than {max_bytes} bytes.")
            local.write(block)


@contextmanager
def _entries(upload: Path) -> Iterator[Iterator[tuple[str, int, IO[bytes]]]]:
    """Name, size and content of each regular file in the archive."""
    try:
        if zipfile.is_zipfile(upload):
            with zipfile.ZipFile(upload) as archive:
                yield _of_zip(archive)
        else:
            with tarfile.open(upload) as tar:
                yield _of_tar(tar)
    except _DAMAGED as error:
        raise _no_archive(error) from error
    except OSError as error:
        if error.errno not in _DAMAGED_ERRNOS:
            raise
        raise _no_archive(error) from error


def _no_archive(error: Exception) -> TransferFailed:
    return TransferFailed(
        f"The file is no tar or zip of an adapter's folder that can be read: {error}"
    )


def _of_zip(archive: zipfile.ZipFile) -> Iterator[tuple[str, int, IO[bytes]]]:
    for entry in archive.infolist():
        if not entry.is_dir():
            with archive.open(entry) as file:
                yield entry.filename, entry.file_size, file


def _of_tar(tar: tarfile.TarFile) -> Iterator[tuple[str, int, IO[bytes]]]:
    for entry in tar:
        # Sparse files count as regular for tarfile, but may claim any size.
        if entry.isreg() and not entry.issparse():
            file = tar.extractfile(entry)
            assert file is not None
            yield entry.name, entry.size, file
