"""Aliases: a project's own names for its models, so that code keeps the name it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote

from openai import BaseModel

if TYPE_CHECKING:
    from openai import OpenAI

PATH = "/luthier/aliases"
PAGE_ALIASES = 100


class ModelAlias(BaseModel):
    alias: str
    model: str
    """The base's id or the tuned model's name."""
    object: str
    created_at: int
    """When it was last bound; Unix time."""


class AliasDeleted(BaseModel):
    alias: str
    object: str
    deleted: bool


class AliasPage(BaseModel):
    data: list[ModelAlias]
    has_more: bool


class Aliases:
    def __init__(self, client: OpenAI) -> None:
        self._client = client

    def bind(self, alias: str, model: str) -> ModelAlias:
        """Let `alias` stand for `model` from now on, whatever it stood for before.

        Raises `openai.NotFoundError` for an unknown model and `openai.BadRequestError` for an alias
        that names a model already.
        """
        return self._client.post(PATH, body={"alias": alias, "model": model}, cast_to=ModelAlias)

    def list(self) -> Iterator[ModelAlias]:
        """All of the project's aliases, in alphabetical order."""
        after: dict[str, object] = {}
        while True:
            query = {"limit": PAGE_ALIASES, **after}
            page = self._client.get(PATH, cast_to=AliasPage, options={"params": query})
            yield from page.data
            if not page.has_more:
                return
            after = {"after": page.data[-1].alias}

    def delete(self, alias: str) -> AliasDeleted:
        """Take the alias away; the model stays."""
        return self._client.delete(f"{PATH}/{quote(alias, safe=':')}", cast_to=AliasDeleted)
