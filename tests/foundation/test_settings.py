from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from foundation.settings import BadSetting, Settings


def test_defaults_need_no_environment() -> None:
    settings = Settings.from_env({})
    assert settings.data_dir == Path(".luthier")
    assert settings.bases_dir == Path(".luthier/bases")
    assert settings.result_file_encoding == "base64"


def test_everything_is_read_from_the_environment() -> None:
    settings = Settings.from_env(
        {
            "LUTHIER_DATABASE_URL": "postgresql://db",
            "LUTHIER_BROKER_URL": "redis://broker",
            "LUTHIER_BLOB_URL": "s3://bucket",
            "LUTHIER_DATA_DIR": "/data",
            "LUTHIER_ALIASES": "gpt-4o-mini=base, other = base ,",
            "LUTHIER_BACKENDS": "base=http://a:1/,base=http://b:2,second=http://c:3?x=y",
            "LUTHIER_INTERNAL_KEY": "key",
            "LUTHIER_RESULT_FILE_ENCODING": "plain",
            "LUTHIER_TRAIN_UNSERVED": "1",
        }
    )
    assert settings.database_url == "postgresql://db"
    assert settings.bases_dir == Path("/data/bases")
    assert settings.aliases == {"gpt-4o-mini": "base", "other": "base"}
    assert settings.backends == {
        "base": ("http://a:1", "http://b:2"),
        "second": ("http://c:3?x=y",),
    }
    assert settings.internal_key == "key"
    assert settings.result_file_encoding == "plain"
    assert settings.train_unserved
    assert settings.is_available("anything")
    unset = replace(settings, train_unserved=False)
    assert (unset.is_available("base"), unset.is_available("third")) == (True, False)
    assert not Settings.from_env({}).train_unserved
    assert Settings.from_env({"LUTHIER_BASES_DIR": "/b"}).bases_dir == Path("/b")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LUTHIER_ALIASES", "no-equals"),
        ("LUTHIER_ALIASES", "a="),
        ("LUTHIER_BACKENDS", "=http://a"),
        ("LUTHIER_RESULT_FILE_ENCODING", "rot13"),
        ("LUTHIER_BATCH_CONCURRENCY", "0"),
        ("LUTHIER_BATCH_CONCURRENCY", "many"),
    ],
)
def test_unreadable_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(BadSetting, match=name):
        Settings.from_env({name: value})


def test_missing_requirement_names_its_variable() -> None:
    settings = Settings(database_url="postgresql://db")
    assert settings.require("database_url") is settings
    with pytest.raises(BadSetting, match="LUTHIER_BLOB_URL is not set"):
        settings.require("database_url", "blob_url")


def test_proxies_are_addresses_and_networks() -> None:
    env = {"LUTHIER_TRUSTED_PROXIES": "10.0.0.7, 2001:db8::1/32,"}
    assert [str(it) for it in Settings.from_env(env).trusted_proxies] == [
        "10.0.0.7/32",
        "2001:db8::/32",
    ]
    with pytest.raises(BadSetting, match="LUTHIER_TRUSTED_PROXIES: 'proxy'"):
        Settings.from_env({"LUTHIER_TRUSTED_PROXIES": "proxy"})
