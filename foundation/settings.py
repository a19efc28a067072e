"""What a process is told by its environment."""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from . import memory
from .connection_limits import Network
from .errors import LuthierError
from .vault import MIN_KEY_CHARS, Vault


class BadSetting(LuthierError):
    """An environment variable is missing or cannot be read."""


class EnvironmentSettings(BaseSettings):
    """Each field is the environment variable of its name behind the prefix, in capitals.

    An empty variable is none. The environment is read by `from_env` alone.
    """

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="forbid")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 -- pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Self:
        """Raises BadSetting, whose one line names the variable and what it wants."""
        source = EnvSettingsSource(cls)
        source.env_vars = {name.lower(): text for name, text in env.items() if text}
        try:
            return cls(**source())
        except ValidationError as error:
            raise BadSetting(cls._told(error)) from None

    def require(self, *names: str) -> Self:
        """Fail with the variable's name rather than with a driver's stack trace later."""
        for name in names:
            if not getattr(self, name):
                raise BadSetting(f"{self._variable(name)} is not set")
        return self

    def replace(self, **values: Any) -> Self:
        """A copy with other values."""
        return self.model_copy(update=values)

    @classmethod
    def _variable(cls, name: str) -> str:
        return f"{cls.model_config['env_prefix']}{name}".upper()

    @classmethod
    def _told(cls, error: ValidationError) -> str:
        first = error.errors(include_url=False)[0]
        cause = first.get("ctx", {}).get("error")
        wanted = str(cause or first["msg"]).replace("Input should be", "it must be")
        name = str(first["loc"][0])
        # Errors go to logs, where no key may be.
        found = "set" if _is_secret(name) else repr(first["input"])
        return f"{cls._variable(name)} is {found}; {wanted}"


def _is_secret(name: str) -> bool:
    return name.lower().endswith(("_key", "_keys"))


def without_secrets(env: Mapping[str, str]) -> dict[str, str]:
    """For processes that open nothing of the database: without the keys to what is sealed there."""
    sealing = ("LUTHIER_SECRET_KEY", "LUTHIER_OLD_SECRET_KEYS")
    return {name: value for name, value in env.items() if name not in sealing}


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = []
    for part in _split(text):
        key, separator, value = part.partition("=")
        if not separator or not key.strip() or not value.strip():
            raise ValueError(f"it must read NAME=VALUE,NAME=VALUE, and {part!r} does not")
        pairs.append((key.strip(), value.strip()))
    return pairs


def _aliases(value: object) -> object:
    return dict(_pairs(value)) if isinstance(value, str) else value


def _prices(value: object) -> object:
    if not isinstance(value, str):
        return value
    prices = {}
    for name, text in _pairs(value):
        try:
            prices[name] = float(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a number") from None
        if not 0 <= prices[name] < math.inf:
            raise ValueError(f"{text!r} is not a price")
    return prices


def _backends(value: object) -> object:
    if not isinstance(value, str):
        return value
    backends: dict[str, tuple[str, ...]] = {}
    for base, url in _pairs(value):
        backends[base] = (*backends.get(base, ()), url.rstrip("/"))
    return backends


def _networks(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return tuple(ipaddress.ip_network(part, strict=False) for part in _split(value))
    except ValueError as error:
        raise ValueError(f"it must read 10.0.0.7,192.168.0.0/16: {error}") from None


def _list(value: object) -> object:
    return tuple(_split(value)) if isinstance(value, str) else value


def _long_enough(key: str) -> str:
    if key and len(key) < MIN_KEY_CHARS:
        raise ValueError(
            f"it must have {MIN_KEY_CHARS} characters or more, such as `openssl rand -base64 32` gives"
        )
    return key


def _all_long_enough(keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(_long_enough, keys))


def _without_slash(url: str) -> str:
    return url.rstrip("/")


def _half_of_memory_bytes() -> int:
    return memory.machine_bytes() // 2


class Settings(EnvironmentSettings):
    """Each field is the environment variable LUTHIER_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="LUTHIER_")

    database_url: str = ""
    broker_url: str = ""
    blob_url: str = ""
    data_dir: Path = Path(".luthier")
    """Where this process keeps files of its own: caches, scratch space, the catalogue's additions."""
    bases_dir: Path = Field(default_factory=lambda known: known["data_dir"] / "bases")
    aliases: Annotated[Mapping[str, str], NoDecode, BeforeValidator(_aliases)] = Field(
        default_factory=dict
    )
    """Model names that stand for a base: `gpt-4o-mini=smollm2-135m-instruct,…`."""
    backends: Annotated[Mapping[str, tuple[str, ...]], NoDecode, BeforeValidator(_backends)] = (
        Field(default_factory=dict)
    )
    """Base model id -> URLs of the inference servers that serve it."""
    train_unserved: bool = False
    """Whether jobs may train on bases that no inference server serves, for their weights alone."""
    internal_key: str = ""
    """Bearer between Luthier's own processes: who holds it may act for any project."""
    secret_key: Annotated[str, AfterValidator(_long_enough)] = Field("", repr=False)
    """Seals the secrets that lie in the database: signing keys and those of webhooks. Without it they lie there as they
    are. Some 32 random characters, the same for the api, the errands and whoever makes the first keys."""
    old_secret_keys: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_list), AfterValidator(_all_long_enough)
    ] = Field((), repr=False)
    """Keys that open what was sealed before `secret_key` was another one."""
    moderation_model: str = ""
    """The classifier that answers /v1/moderations for projects without one of their own, and guards those that want to
    be: a tuned model of any project's."""
    moderation_threshold: float = Field(0.5, gt=0, lt=1)
    """A text is flagged from this probability on that it is not safe."""
    api_url: Annotated[str, AfterValidator(_without_slash)] = ""
    """Where the errands process reaches the api, for example `http://api:8000`."""
    jobs_per_trainer: int = Field(2, ge=1, le=16)
    """How many jobs on one base a worker's trainer trains in turn, a step of each: a short one does not wait for the
    end of a long one."""
    small_jobs_per_trainer: int = Field(8, ge=1, le=64)
    """As many altogether where they are small: their steps are computed together."""
    resident_bytes: int = Field(default_factory=_half_of_memory_bytes, ge=0)
    """Of bases that a trainer keeps in memory between jobs."""
    batch_concurrency: int = Field(8, ge=1, le=1000)
    """How many lines of batches one errands process has at the inference servers at a time."""
    reports: Literal["auto", "full", "off"] = "auto"
    """What a job's report is like where the job does not say."""
    report_budget: float = Field(1.5, ge=0, le=1000)
    """For how long a report may ask models, as a multiple of its job's time, a minute in any case."""
    report_concurrency: int = Field(4, ge=1, le=64)
    """How many of a report's questions are at the inference servers at a time."""
    result_file_encoding: Literal["base64", "plain"] = "base64"
    """`base64` as api.openai.com answers, or `plain`."""
    connections_per_address: int = Field(512, ge=1, le=10_000)
    """How many connections without a valid key one address may have; see `connection_limits`."""
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)] = ()
    """Addresses or networks of proxies in front of the api, which that bound does not hold for."""
    streams_per_project: int = Field(400, ge=1, le=2000)
    """How many streams of events one project may have open; one key half as many."""
    requests_per_minute: int = Field(0, ge=0)
    """How many requests for inference a project may send, unless it has a limit of its own; 0: as many as it likes."""
    tokens_per_minute: int = Field(0, ge=0)
    """How many tokens, read and written, a project may use; likewise."""
    token_prices: Annotated[Mapping[str, float], NoDecode, BeforeValidator(_prices)] = Field(
        default_factory=dict
    )
    """What forecasts say that a million trained tokens cost, by base: `smollm2-135m-instruct=0.4,*=2`; `*` is any other."""
    hour_price: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Likewise an hour of training."""
    currency: str = Field("USD", pattern=r"^[A-Za-z]{1,12}$")
    """Of both."""
    webhook_allow_private: bool = False
    """Whether webhooks may go to addresses of the inside, and without TLS."""

    def vault(self) -> Vault:
        return Vault(self.secret_key, self.old_secret_keys)

    def is_available(self, base_model: str) -> bool:
        """Whether a project can do anything with the base."""
        return self.train_unserved or base_model in self.backends
