"""Style sheets and scripts, under a path that holds the hash of them all: browsers keep them for ever, and never an old one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.responses import FileResponse, Response

STATIC = Path(__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def _digest() -> str:
    hashed = hashlib.sha256()
    for file in sorted(STATIC.iterdir()):
        hashed.update(file.name.encode() + b"\0" + file.read_bytes())
    return hashed.hexdigest()[:16]


DIGEST = _digest()
NAMES = frozenset(file.name for file in STATIC.iterdir())


def static(digest: str, name: str) -> Response:
    """The file, by one of the names that are there: nothing else is looked for on the disk."""
    if name not in NAMES:
        return Response("There is no such file.", 404, media_type="text/plain")
    is_current = digest == DIGEST
    caching = "public, max-age=31536000, immutable" if is_current else "no-store"
    return FileResponse(
        STATIC / name,
        media_type=_TYPES[Path(name).suffix],
        headers={"cache-control": caching},
    )
