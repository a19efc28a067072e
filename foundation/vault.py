"""Secrets that are read again and lie in the database: encrypted with a key that does not lie there, if there is one.

A sealed secret is `sealed:<key's id>:<nonce and AES-256-GCM's ciphertext in base64>`. It is bound to the name of what it
belongs to, so that it means nothing in another row. Without a key secrets are kept as they are.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .errors import Unavailable

MIN_KEY_CHARS = 32
_MARK = b"sealed:"
_NONCE_BYTES = 12


class CannotOpen(Unavailable):
    """A secret was sealed with a key that this process does not have, or is not what was sealed."""


class Vault:
    def __init__(self, key: str = "", old_keys: Sequence[str] = ()) -> None:
        """`key` seals, an empty one nothing; the old ones open what was sealed with them."""
        keys = [_derived(text) for text in (key, *old_keys) if text]
        self._keys = {_id(derived): AESGCM(derived) for derived in keys}
        self._current = _id(keys[0]) if key else None

    def seal(self, secret: bytes, name: str) -> bytes:
        """As it is to be kept, in ASCII unless it is kept as it is."""
        if self._current is None:
            return secret
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._keys[self._current].encrypt(nonce, secret, name.encode())
        return _MARK + self._current + b":" + base64.b64encode(sealed)

    def open(self, kept: bytes, name: str) -> bytes:
        """What `seal` was given under that name, or what was kept without a key. Raises CannotOpen."""
        if not kept.startswith(_MARK):
            return kept
        key_id, _, text = kept.removeprefix(_MARK).partition(b":")
        key = self._keys.get(key_id)
        if key is None:
            raise CannotOpen(
                "A secret in the database was sealed with a key that this process does not have: LUTHIER_SECRET_KEY is "
                f"to be the one with the id {key_id.decode(errors='replace')[:8]}, or LUTHIER_OLD_SECRET_KEYS to name it."
            )
        try:
            sealed = base64.b64decode(text, validate=True)
            return key.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode())
        except (InvalidTag, ValueError) as error:
            raise CannotOpen(
                f"The secret of {name} in the database is not what was sealed there."
            ) from error

    def is_current(self, kept: bytes) -> bool:
        """Whether it is kept as `seal` would keep it."""
        if self._current is None:
            return not kept.startswith(_MARK)
        return kept.startswith(_MARK + self._current + b":")


def _derived(key: str) -> bytes:
    """Keys are long and random, so that nothing slows guessing down."""
    return HKDF(SHA256(), 32, salt=None, info=b"luthier secrets").derive(key.encode())


def _id(derived: bytes) -> bytes:
    return hashlib.sha256(b"luthier key id" + derived).hexdigest()[:8].encode()
