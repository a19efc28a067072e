"""Checking an export: every file against its manifest, and the manifest's signature against the key of the installation."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

NAME = "manifest.json"
SIGNATURE_NAME = "manifest.json.sig"
VERSION = 1
MAX_MANIFEST_BYTES = 16 << 20
BLOCK_BYTES = 1 << 20


class ManifestError(openai.OpenAIError):
    """The directory is not what the installation made; the message says what differs."""


@dataclass(frozen=True)
class Verified:
    """What is certain of a directory that passed."""

    model: str
    format: str
    num_files: int
    public_key: str
    """Of who signed it, in base64."""
    content: dict[str, Any]
    """The whole manifest."""


def verify(path: str | os.PathLike[str], public_key: str) -> Verified:
    """Raises `ManifestError` unless `path` holds exactly the files of a manifest that `public_key` (base64) signed."""
    folder = Path(path)
    data = _read(folder / NAME)
    _check_signature(data, _read(folder / SIGNATURE_NAME), public_key)
    # From here on what is read was signed.
    content = json.loads(data)
    if content.get("version") != VERSION:
        raise ManifestError(
            f"{NAME} is of version {content.get('version')!r}; this luthier reads {VERSION}: update it"
        )
    expected = {file["name"]: file for file in content["files"]}
    found = {each.name for each in folder.iterdir()} - {NAME, SIGNATURE_NAME}
    if missing := expected.keys() - found:
        raise ManifestError(f"{sorted(missing)[0]} is missing")
    if strange := found - expected.keys():
        raise ManifestError(f"{sorted(strange)[0]} is in no line of {NAME}")
    for name, file in expected.items():
        _check_file(folder / name, file["bytes"], file["sha256"])
    return Verified(
        model=content["model"],
        format=content["format"],
        num_files=len(expected),
        public_key=public_key,
        content=content,
    )


def _check_signature(data: bytes, signature_file: bytes, public_key: str) -> None:
    try:
        signature = json.loads(signature_file)
        algorithm, signed_by = signature["algorithm"], signature["public_key"]
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
        raw = base64.b64decode(signature["signature"], validate=True)
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{SIGNATURE_NAME} or the key cannot be read: {error!r}") from None
    if algorithm != "ed25519":
        raise ManifestError(f"{SIGNATURE_NAME} is of the kind {algorithm!r}, which is not known")
    if signed_by != public_key:
        raise ManifestError(f"it was signed with another key, {signed_by}")
    try:
        key.verify(raw, data)
    except InvalidSignature:
        raise ManifestError(f"{NAME} was changed after it was signed") from None


def _check_file(file: Path, num_bytes: int, sha256: str) -> None:
    if file.is_symlink() or not file.is_file():
        raise ManifestError(f"{file.name} is no plain file")
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(BLOCK_BYTES):
            digest.update(block)
    if file.stat().st_size != num_bytes or digest.hexdigest() != sha256:
        raise ManifestError(f"{file.name} is not the file that was exported")


def _read(file: Path) -> bytes:
    try:
        if file.stat().st_size > MAX_MANIFEST_BYTES:
            raise ManifestError(f"{file.name} is too large for a manifest")
        return file.read_bytes()
    except FileNotFoundError:
        raise ManifestError(f"{file.parent} has no {file.name}: it is no export") from None
