"""The installation's key, with which the manifests of exports are signed: made when it is first needed, and never again.

It is sealed where the operator gave a key for that (`foundation/vault.py`). Otherwise who can read the database can sign
with it.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import LargeBinary
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation.vault import Vault
from storage.database import Base, CreatedAt

ALGORITHM = "ed25519"


class SigningKeyRow(Base):
    __tablename__ = "signing_keys"

    algorithm: Mapped[str] = mapped_column(primary_key=True)
    private_key: Mapped[bytes] = mapped_column(LargeBinary)
    """32 bytes, as RFC 8032 has them, or those sealed."""
    created_at: Mapped[CreatedAt]


def of_installation(session: Session, vault: Vault) -> Ed25519PrivateKey:
    """Safe to call from several processes at once. Raises CannotOpen."""
    name = name_of_key(ALGORITHM)
    row = session.get(SigningKeyRow, ALGORITHM)
    if row is None:
        session.execute(
            insert(SigningKeyRow)
            .values(
                algorithm=ALGORITHM,
                private_key=vault.seal(Ed25519PrivateKey.generate().private_bytes_raw(), name),
            )
            .on_conflict_do_nothing()
        )
        row = session.get_one(SigningKeyRow, ALGORITHM)
    return Ed25519PrivateKey.from_private_bytes(vault.open(row.private_key, name))


def name_of_key(algorithm: str) -> str:
    """What its private key is sealed under."""
    return f"signing_keys/{algorithm}"


def public_key(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
