"""What a process is told by its environment; nothing is read from anywhere else."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .connection_limits import Network
from .errors import LuthierError


class BadSetting(LuthierError):
    """An environment variable is missing or cannot be read."""


@dataclass(frozen=True)
class Settings:
    """Each field is the environment variable LUTHIER_<FIELD>."""

    database_url: str = ""
    broker_url: str = ""
    blob_url: str = ""
    data_dir: Path = Path(".luthier")
    """Where this process keeps files of its own: caches, scratch space, the catalogue's additions."""
    bases_dir: Path = Path(".luthier/bases")
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Model names that stand for a base: `gpt-4o-mini=smollm2-135m-instruct,…`."""
    backends: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Base model id -> URLs of the inference servers that serve it."""
    train_unserved: bool = False
    """Whether jobs may train on bases that no inference server serves, for their weights alone."""
    internal_key: str = ""
    """Bearer between Luthier's own processes: who holds it may act for any project."""
    api_url: str = ""
    """Where the errands process reaches the api, for example `http://api:8000`."""
    batch_concurrency: int = 8
    """How many lines of batches one errands process has at the inference servers at a time."""
    result_file_encoding: str = "base64"
    """`base64` as api.openai.com answers, or `plain`."""
    connections_per_address: int = 512
    """How many connections without a valid key one address may have; see `connection_limits`."""
    trusted_proxies: tuple[Network, ...] = ()
    """Addresses or networks of proxies in front of the api, which that bound does not hold for."""
    streams_per_project: int = 400
    """How many streams of events one project may have open; one key half as many."""
    webhook_allow_private: bool = False
    """Whether webhooks may go to addresses of the inside, and without TLS."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        data_dir = Path(env.get("LUTHIER_DATA_DIR", ".luthier"))
        encoding = env.get("LUTHIER_RESULT_FILE_ENCODING", "base64")
        if encoding not in ("base64", "plain"):
            raise BadSetting(
                f"LUTHIER_RESULT_FILE_ENCODING is {encoding!r}; it must be 'base64' or 'plain'"
            )
        backends: dict[str, tuple[str, ...]] = {}
        for base, url in _pairs(env, "LUTHIER_BACKENDS"):
            backends[base] = (*backends.get(base, ()), url.rstrip("/"))
        return cls(
            database_url=env.get("LUTHIER_DATABASE_URL", ""),
            broker_url=env.get("LUTHIER_BROKER_URL", ""),
            blob_url=env.get("LUTHIER_BLOB_URL", ""),
            data_dir=data_dir,
            bases_dir=Path(env.get("LUTHIER_BASES_DIR", data_dir / "bases")),
            aliases=dict(_pairs(env, "LUTHIER_ALIASES")),
            backends=backends,
            train_unserved=env.get("LUTHIER_TRAIN_UNSERVED", "") == "1",
            internal_key=env.get("LUTHIER_INTERNAL_KEY", ""),
            api_url=env.get("LUTHIER_API_URL", "").rstrip("/"),
            batch_concurrency=_count(env, "LUTHIER_BATCH_CONCURRENCY", 8),
            result_file_encoding=encoding,
            connections_per_address=_count(env, "LUTHIER_CONNECTIONS_PER_ADDRESS", 512, 10_000),
            trusted_proxies=_networks(env, "LUTHIER_TRUSTED_PROXIES"),
            streams_per_project=_count(env, "LUTHIER_STREAMS_PER_PROJECT", 400, 2000),
            webhook_allow_private=env.get("LUTHIER_WEBHOOK_ALLOW_PRIVATE", "") == "1",
        )

    def is_available(self, base_model: str) -> bool:
        """Whether a project can do anything with the base."""
        return self.train_unserved or base_model in self.backends

    def require(self, *names: str) -> Settings:
        """Fail with the variable's name rather than with a driver's stack trace later."""
        for name in names:
            if not getattr(self, name):
                raise BadSetting(f"LUTHIER_{name.upper()} is not set")
        return self


def _count(env: Mapping[str, str], name: str, default: int, maximum: int = 1000) -> int:
    text = env.get(name, "").strip() or str(default)
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= maximum:
        raise BadSetting(f"{name} is {text!r}; it must be a number from 1 to {maximum}")
    return int(text)


def _networks(env: Mapping[str, str], name: str) -> tuple[Network, ...]:
    parts = [part.strip() for part in env.get(name, "").split(",") if part.strip()]
    try:
        return tuple(ipaddress.ip_network(part, strict=False) for part in parts)
    except ValueError as error:
        raise BadSetting(f"{name}: {error}; it must read 10.0.0.7,192.168.0.0/16") from None


def _pairs(env: Mapping[str, str], name: str) -> list[tuple[str, str]]:
    pairs = []
    for part in filter(None, (p.strip() for p in env.get(name, "").split(","))):
        key, separator, value = part.partition("=")
        if not separator or not key.strip() or not value.strip():
            raise BadSetting(f"{name} holds {part!r}; it must read NAME=VALUE,NAME=VALUE")
        pairs.append((key.strip(), value.strip()))
    return pairs
