"""Which server a command talks to, and with which key."""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from luthier.client import DEFAULT_BASE_URL, Luthier

from .errors import CommandError

DEFAULT_DATA_DIR = Path(".luthier")


@dataclass(frozen=True)
class Connection:
    base_url: str
    api_key: str


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command --base-url, --api-key and --data; it gets the client they lead to."""

    @functools.wraps(command)
    def with_client(
        *, base_url: str | None, api_key: str | None, data_dir: Path | None, **own: Any
    ) -> None:
        connection = find(base_url, api_key, data_dir)
        with Luthier(base_url=connection.base_url, api_key=connection.api_key) as client:
            command(client, **own)

    parameters = [
        *list(inspect.signature(command, eval_str=True).parameters.values())[1:],
        *inspect.signature(_options, eval_str=True).parameters.values(),
    ]
    # typer reads the signature and the annotations.
    with_client.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_client.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_client


def _options(
    *,
    base_url: Annotated[
        str | None,
        typer.Option(help="Address of the API, [LUTHIER_BASE_URL, OPENAI_BASE_URL]."),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Key for it, [LUTHIER_API_KEY, OPENAI_API_KEY].")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Take both from the data directory of a server on this machine."
        ),
    ] = None,
) -> None:
    """Nothing but the options that every connected command has."""


def find(
    base_url: str | None,
    api_key: str | None,
    data_dir: Path | None,
    env: Mapping[str, str] = os.environ,
) -> Connection:
    """Options, then --data, then LUTHIER_*, then OPENAI_*, each for what is still missing.

    Where none of them names a server, the one whose data directory is ./.luthier is meant, with the
    key from there: a key for api.openai.com that happens to be in OPENAI_API_KEY is not sent to it,
    and the directory's key to no other server.
    """
    if data_dir is not None:
        base_url = base_url or _address(data_dir)
        api_key = api_key or _key(data_dir)
    base_url = base_url or env.get("LUTHIER_BASE_URL")
    api_key = api_key or env.get("LUTHIER_API_KEY")
    is_unsaid = not (base_url or api_key or env.get("OPENAI_BASE_URL"))
    if is_unsaid and (DEFAULT_DATA_DIR / "api_key").exists():
        return Connection(_address(DEFAULT_DATA_DIR), _key(DEFAULT_DATA_DIR))
    base_url = base_url or env.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
    api_key = api_key or env.get("OPENAI_API_KEY")
    if not api_key:
        raise CommandError("no API key: give --api-key, --data DIR or set LUTHIER_API_KEY")
    return Connection(base_url, api_key)


def _key(data_dir: Path) -> str:
    file = data_dir / "api_key"
    try:
        return file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise CommandError(
            f"{file} is missing: `luthier serve --data {data_dir}` writes it"
        ) from None


def _address(data_dir: Path) -> str:
    file = data_dir / "server.json"
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["base_url"])
    except FileNotFoundError:
        raise CommandError(
            f"{file} is missing: is `luthier serve --data {data_dir}` running?"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(f"{file} does not say where the server is: {error!r}") from None
