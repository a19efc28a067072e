"""Secrets in the database under a key that is not in it, and under another one later."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from foundation.settings import Settings
from foundation.vault import CannotOpen, Vault
from storage import sealed
from storage.models import signing_keys
from storage.models.signing_keys import ALGORITHM, SigningKeyRow
from storage.organization import first_keys
from storage.webhooks import webhooks
from storage.webhooks.webhooks import WebhookEndpointRow

Database = sessionmaker[Session]
KEY, NEXT = "k" * 32, "n" * 32


def kept(database: Database, endpoint_id: str) -> list[bytes]:
    """All that lies in the database: the signing key, and the endpoint's secrets."""
    with database.begin() as session:
        key = session.get_one(SigningKeyRow, ALGORITHM).private_key
        row = session.get_one(WebhookEndpointRow, endpoint_id)
        assert row.old_secret is not None
        return [key, row.secret.encode(), row.old_secret.encode()]


def known(database: Database, endpoint_id: str, vault: Vault) -> list[bytes]:
    """What is done with it."""
    with database.begin() as session:
        key = signing_keys.of_installation(session, vault)
        row = session.get_one(WebhookEndpointRow, endpoint_id)
        live = webhooks.live_secrets(session, row)
        return [
            key.private_bytes_raw(),
            *(webhooks.opened(vault, row.id, each).encode() for each in live),
        ]


def test_secrets_come_under_a_key_and_under_the_next_one_and_stay_the_same(
    database: Database, project_id: str
) -> None:
    with database.begin() as session:
        row = webhooks.create(
            session, project_id, Vault(), name="x", url="https://x.invalid/", event_types=[]
        )
        webhooks.rotate_secret(session, project_id, row.id, Vault(), keep_old=True)
        signing_keys.of_installation(session, Vault())
    plain = known(database, row.id, Vault())
    assert kept(database, row.id) == plain
    vaults = [
        (Vault(KEY), 2),
        (Vault(KEY), 0),
        (Vault(NEXT, [KEY]), 2),
        (Vault(NEXT), 0),
        # And back.
        (Vault("", [NEXT]), 2),
    ]
    for vault, num_changed in vaults:
        with database.begin() as session:
            assert sealed.seal_anew(session, vault) == num_changed
        assert known(database, row.id, vault) == plain
        assert (kept(database, row.id) == plain) == (vault is vaults[-1][0])
    assert kept(database, row.id) == plain


def test_what_is_made_with_a_key_is_never_in_the_database(
    database: Database, project_id: str
) -> None:
    vault = Vault(KEY)
    with database.begin() as session:
        row = webhooks.create(
            session, project_id, vault, name="x", url="https://x.invalid/", event_types=[]
        )
        webhooks.rotate_secret(session, project_id, row.id, vault, keep_old=True)
        signing_keys.of_installation(session, vault)
    assert all(it.startswith(b"sealed:") for it in kept(database, row.id))
    assert known(database, row.id, vault)[1].startswith(b"whsec_")
    with database.begin() as session, pytest.raises(CannotOpen):
        signing_keys.of_installation(session, Vault(NEXT))


def test_a_start_without_the_key_ends_with_a_line_and_changes_nothing(
    database: Database,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with database.begin() as session:
        signing_keys.of_installation(session, Vault(KEY))
    monkeypatch.setattr(
        Settings,
        "from_env",
        lambda: Settings(database_url=database_url, data_dir=tmp_path, secret_key=NEXT),
    )
    with pytest.raises(SystemExit, match="a key that this process does not have"):
        first_keys.main()
    with database.begin() as session:
        assert signing_keys.of_installation(session, Vault(KEY))
