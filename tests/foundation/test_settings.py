from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from foundation.settings import BadSetting, EnvironmentSettings, Settings, without_secrets
from serving.settings import ServingSettings


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
    unset = settings.replace(train_unserved=False)
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
    with pytest.raises(BadSetting, match="LUTHIER_TRUSTED_PROXIES is 'proxy'; it must read"):
        Settings.from_env({"LUTHIER_TRUSTED_PROXIES": "proxy"})


@pytest.mark.parametrize("kind", [Settings, ServingSettings])
def test_every_wrong_number_stops_the_start_with_one_line(
    kind: type[EnvironmentSettings],
) -> None:
    prefix = kind.model_config["env_prefix"]
    names = [name for name, field in kind.model_fields.items() if field.annotation in (int, bool)]
    assert names
    for name in names:
        variable = f"{prefix}{name}".upper()
        with pytest.raises(BadSetting) as caught:
            kind.from_env({variable: "-wrong"})
        assert str(caught.value).startswith(f"{variable} is '-wrong'; it must be a valid ")
        assert "\n" not in str(caught.value)
        assert kind.from_env({variable: ""}) == kind()


def test_nothing_but_from_env_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_BLOB_URL", "file:///elsewhere")
    assert Settings().blob_url == ""
    assert Settings.from_env().blob_url == "file:///elsewhere"


@pytest.mark.parametrize(
    "command",
    [
        ["api"],
        ["worker"],
        ["errands"],
        ["migrations"],
        ["storage.organization.first_keys"],
        ["serving", "--base", "tiny-random"],
    ],
    ids=lambda command: str(command[0]),
)
def test_a_wrong_variable_stops_a_process_with_one_line(command: list[str]) -> None:
    env = {name: text for name, text in os.environ.items() if not name.startswith("LUTHIER_")}
    env["LUTHIER_STREAMS_PER_PROJECT"] = "many"
    done = subprocess.run(
        [sys.executable, "-m", *command], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("LUTHIER_STREAMS_PER_PROJECT is 'many'; it must be a valid integer")


def test_a_wrong_variable_of_serving_stops_it_with_one_line() -> None:
    env = {**os.environ, "LUTHIER_SERVING_SLOTS": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "serving", "--base", "tiny-random"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1] == (
        "LUTHIER_SERVING_SLOTS is '0'; it must be greater than or equal to 1"
    )


def test_a_key_that_is_refused_is_not_told() -> None:
    for name in ("LUTHIER_SECRET_KEY", "LUTHIER_OLD_SECRET_KEYS"):
        with pytest.raises(BadSetting) as caught:
            Settings.from_env({name: "hunter2"})
        assert str(caught.value).startswith(f"{name} is set; it must have 32 characters or more")
        assert "hunter2" not in str(caught.value)
    keys = {"LUTHIER_SECRET_KEY": "k" * 32, "LUTHIER_OLD_SECRET_KEYS": f"{'a' * 32}, {'b' * 32}"}
    settings = Settings.from_env(keys)
    assert settings.old_secret_keys == ("a" * 32, "b" * 32)
    assert "kkk" not in repr(settings)
    assert without_secrets({**keys, "PATH": "/bin"}) == {"PATH": "/bin"}
