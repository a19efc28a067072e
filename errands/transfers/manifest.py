"""The signed manifest of an export: what each file is, down to its bytes, and who says so.

manifest.json       what was exported from what, and of each other file its size and SHA-256
manifest.json.sig   the Ed25519 signature of those bytes, and the public key of the installation that made it
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from storage.models import signing_keys

NAME = "manifest.json"
SIGNATURE_NAME = "manifest.json.sig"
VERSION = 1
_BLOCK_BYTES = 1 << 20

Json = dict[str, Any]


def sign(folder: Path, about: Json, key: Ed25519PrivateKey) -> None:
    """Write both files beside what is in `folder`."""
    content = {"version": VERSION, **about, "files": describe(folder)}
    data = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    (folder / NAME).write_bytes(data)
    signature = {
        "algorithm": signing_keys.ALGORITHM,
        "public_key": _text(signing_keys.public_key(key)),
        "signature": _text(key.sign(data)),
    }
    (folder / SIGNATURE_NAME).write_text(json.dumps(signature, indent=2) + "\n", encoding="utf-8")


def describe(folder: Path) -> list[Json]:
    """Of each file in it `{name, bytes, sha256}`, in the order of their names."""
    return [
        {"name": file.name, "bytes": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(folder.iterdir())
    ]


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
