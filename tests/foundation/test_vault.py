from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.vault import CannotOpen, Vault

KEY, OLD = "k" * 32, "o" * 32


@given(secret=st.binary(max_size=64), name=st.text(max_size=20))
def test_what_is_sealed_opens_under_its_name_alone(secret: bytes, name: str) -> None:
    vault = Vault(KEY)
    kept = vault.seal(secret, name)
    assert vault.open(kept, name) == secret
    assert kept.isascii()
    assert len(secret) < 8 or secret not in kept
    assert vault.seal(secret, name) != kept
    with pytest.raises(CannotOpen, match="is not what was sealed there"):
        vault.open(kept, f"{name}x")


def test_without_a_key_secrets_are_kept_as_they_are() -> None:
    assert Vault().seal(b"secret", "name") == b"secret"
    assert Vault().is_current(b"secret")
    assert Vault(KEY).open(b"secret", "name") == b"secret"
    assert not Vault(KEY).is_current(b"secret")


def test_an_old_key_opens_and_does_not_seal() -> None:
    kept = Vault(OLD).seal(b"secret", "name")
    both = Vault(KEY, [OLD])
    assert both.open(kept, "name") == b"secret"
    assert not both.is_current(kept)
    anew = both.seal(b"secret", "name")
    assert both.is_current(anew)
    assert Vault(KEY).open(anew, "name") == b"secret"
    for stranger in (Vault(), Vault("s" * 32)):
        with pytest.raises(CannotOpen, match="LUTHIER_SECRET_KEY is to be the one with the id"):
            stranger.open(kept, "name")


@pytest.mark.parametrize("change", [slice(0, -4), slice(0, 16), slice(0, 20)])
def test_what_was_tampered_with_does_not_open(change: slice) -> None:
    vault = Vault(KEY)
    kept = vault.seal(b"secret", "name")
    with pytest.raises(CannotOpen):
        vault.open(kept[change], "name")
