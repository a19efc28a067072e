"""What of the database is sealed, and how it comes under another key.

`python -m storage.organization.first_keys`, which runs at each start before the others do, seals anew whatever was kept
under an old key or none.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from foundation.vault import Vault
from storage.models.signing_keys import SigningKeyRow, name_of_key
from storage.webhooks.webhooks import WebhookEndpointRow, name_of_secret


def seal_anew(session: Session, vault: Vault) -> int:
    """Everything as `vault` would keep it; gives how many secrets were not. Raises CannotOpen, and changes nothing then."""
    num_changed = 0
    for key in session.scalars(select(SigningKeyRow).with_for_update()):
        if not vault.is_current(key.private_key):
            name = name_of_key(key.algorithm)
            key.private_key = vault.seal(vault.open(key.private_key, name), name)
            num_changed += 1
    for endpoint in session.scalars(select(WebhookEndpointRow).with_for_update()):
        name = name_of_secret(endpoint.id)
        secrets = [endpoint.secret, endpoint.old_secret]
        anew = [
            kept
            if kept is None or vault.is_current(kept.encode())
            else vault.seal(vault.open(kept.encode(), name), name).decode()
            for kept in secrets
        ]
        if anew != secrets:
            assert anew[0] is not None
            endpoint.secret, endpoint.old_secret = anew[0], anew[1]
            num_changed += 1
    return num_changed
