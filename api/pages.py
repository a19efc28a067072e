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


def places(
    ids: Sequence[str], *, after: str | None, limit: int, descending: bool
) -> tuple[list[int], bool]:
    """Of a list that is there as a whole, the places of those that are on the page, and whether there are more."""
    order = list(range(len(ids)))
    if descending:
        order.reverse()
    if after is not None:
        order = order[order.index(ids.index(after)) + 1 :] if after in ids else []
    return order[:limit], 0 < limit < len(order)
