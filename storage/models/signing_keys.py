"""The installation's key, with which the manifests of exports are signed: made when it is first needed, and never again.

Who can read the database can sign with it, as everything else that the installation vouches for is in there, too.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import LargeBinary
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from storage.database import Base, CreatedAt

ALGORITHM = "ed25519"


class SigningKeyRow(Base):
    __tablename__ = "signing_keys"

    algorithm: Mapped[str] = mapped_column(primary_key=True)
    private_key: Mapped[bytes] = mapped_column(LargeBinary)
    """32 bytes, as RFC 8032 has them."""
    created_at: Mapped[CreatedAt]


def of_installation(session: Session) -> Ed25519PrivateKey:
    """Safe to call from several processes at once."""
    row = session.get(SigningKeyRow, ALGORITHM)
    if row is None:
        session.execute(
            insert(SigningKeyRow)
            .values(
                algorithm=ALGORITHM, private_key=Ed25519PrivateKey.generate().private_bytes_raw()
            )
            .on_conflict_do_nothing()
        )
        row = session.get_one(SigningKeyRow, ALGORITHM)
    return Ed25519PrivateKey.from_private_bytes(row.private_key)


def public_key(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
