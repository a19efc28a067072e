"""An artifact's files: out of a tar into a folder, and whether they are still what they were."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from pathlib import Path

from modeling.artifacts import classifier, full, lora, output_layers, peft_files, prefix
from modeling.artifacts.artifact import ArtifactError
from modeling.artifacts.files import MAX_CONFIG_BYTES

MAX_FILE_BYTES = {
    lora.KIND: peft_files.MAX_FILE_BYTES,
    classifier.KIND: classifier.MAX_FILE_BYTES,
    prefix.KIND: peft_files.MAX_FILE_BYTES,
    output_layers.KIND: {
        output_layers.CONFIG_NAME: MAX_CONFIG_BYTES,
        output_layers.WEIGHTS_NAME: 64 << 30,
    },
    full.KIND: {full.CONFIG_NAME: MAX_CONFIG_BYTES, full.WEIGHTS_NAME: 512 << 30},
}
"""By kind the files that an artifact consists of, with the size beyond which they are refused."""
# Beside them: what they were when they were unpacked, in the form of sha256sum.
CHECKSUMS = "SHA256SUMS"


def checksums(folder: Path, kind: str) -> str:
    """The SHA-256 of each of an artifact's files."""
    lines = []
    for name in sorted(MAX_FILE_BYTES[kind]):
        with (folder / name).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)


def is_intact(folder: Path, kind: str) -> bool:
    """Whether an unpacked artifact is still what was unpacked."""
    try:
        return (folder / CHECKSUMS).read_text() == checksums(folder, kind)
    except (OSError, UnicodeDecodeError):
        return False


def unpack(archive: Path, folder: Path, kind: str) -> None:
    """Take an artifact's files out of a tar and nothing else: no links, no other paths, no giants.

    Raises `ArtifactError`, or `tarfile.TarError` for what is no tar.
    """
    found = set()
    limits = MAX_FILE_BYTES[kind]
    # An uncompressed archive is larger than its files, unless it claims holes.
    archive_bytes = archive.stat().st_size
    with tarfile.open(archive, mode="r:") as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if name not in limits:
                continue
            limit_bytes = min(limits[name], archive_bytes)
            if not member.isreg() or member.size > limit_bytes or name in found:
                raise ArtifactError(f"its archive holds a {name} that is not acceptable")
            source = tar.extractfile(member)
            assert source is not None
            with source, (folder / name).open("xb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            found.add(name)
    missing = limits.keys() - found
    if missing:
        raise ArtifactError(
            f"it is none of the kind '{kind}': its archive lacks {', '.join(sorted(missing))}"
        )
