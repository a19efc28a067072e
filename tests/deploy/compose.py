"""docker-compose.yml as compose reads it: anchors merged, variables put in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

# PyYAML carries no types.
yaml: Any = import_module("yaml")

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
SECRETS = (
    "POSTGRES_PASSWORD",
    "LUTHIER_BROKER_PASSWORD",
    "LUTHIER_S3_ACCESS_KEY",
    "LUTHIER_S3_SECRET_KEY",
    "LUTHIER_INTERNAL_KEY",
    "LUTHIER_API_KEY",
    "LUTHIER_ADMIN_KEY",
)
ENV = {name: f"test{number}secret" for number, name in enumerate(SECRETS)}

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?P<kind>:\?|:-)(?P<rest>[^}]*)\}")


class MissingVariable(Exception):
    pass


def load(env: Mapping[str, str] = ENV) -> dict[str, Any]:
    document: dict[str, Any] = _interpolated(_raw(), env)
    return document


@cache
def _raw() -> Any:
    return yaml.safe_load(FILE.read_text("utf-8"))


@cache
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = load()["services"]
    return found


def _interpolated(value: Any, env: Mapping[str, str]) -> Any:
    """`${NAME:?why}` and `${NAME:-default}`, the two forms that the file uses, in every string."""
    if isinstance(value, dict):
        return {name: _interpolated(each, env) for name, each in value.items()}
    if isinstance(value, list):
        return [_interpolated(each, env) for each in value]
    return (
        _VARIABLE.sub(lambda found: _value(found, env), value) if isinstance(value, str) else value
    )


def _value(found: re.Match[str], env: Mapping[str, str]) -> str:
    if given := env.get(found["name"]):
        return given
    if found["kind"] == ":?":
        raise MissingVariable(found["name"])
    return found["rest"]
