"""Lists: OpenAI's cursor pages. `limit=0` gives an empty page, more than the maximum is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import Query
from pydantic import BaseModel

T = TypeVar("T", bound=BaseModel)

After = Annotated[
    str | None,
    Query(description="The last id of the page before. An unknown one gives an empty page."),
]


def limit(maximum: int) -> Any:
    """The query parameter `limit`, from 0 to `maximum`."""
    return Query(ge=0, le=maximum)


class Page(BaseModel, Generic[T]):
    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool


class PageWithIds(Page[T], Generic[T]):
    first_id: str | None
    last_id: str | None


def ends(ids: Sequence[str]) -> dict[str, str | None]:
    """`first_id` and `last_id` of a page."""
    return {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
