"""/v1/organization/usage/… and /v1/organization/costs: what was used, in buckets of time.

Buckets begin at full minutes, hours or days of UTC. Time before anything was ever used is left out, so
that `start_time=0` does not mean to page through half a century of nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.auth import AdminCaller
from api.wiring import Wired
from foundation.errors import InvalidRequest
from storage.organization import usage
from storage.organization.usage import Dimension, Total

router = APIRouter(prefix="/v1/organization", tags=["usage"])

DAY_S = 86_400
WIDTHS_S = {"1m": 60, "1h": 3600, "1d": DAY_S}
DEFAULT_LIMITS = {"1m": 60, "1h": 24, "1d": 7}
MAX_LIMITS = {"1m": 1440, "1h": 168, "1d": 31}
MAX_COST_DAYS = 180
MAX_TIME_S = 253_402_300_800
"""The year 10000."""
PAGE_PREFIX = "page_"

UNUSED = (
    "audio_speeches",
    "audio_transcriptions",
    "code_interpreter_sessions",
    "decisions",
    "embeddings",
    "file_search_calls",
    "images",
    "moderations",
    "vector_stores",
    "web_search_calls",
)
"""What this server does not offer."""

Group = Literal[
    "project_id", "user_id", "api_key_id", "model", "batch", "service_tier", "api_source"
]
# This server knows neither users nor tiers: grouped by those, everything is in one group.
DIMENSIONS: Mapping[str, Dimension] = {
    "project_id": "project_id",
    "api_key_id": "api_key_id",
    "model": "model",
    "batch": "is_batch",
}

NOTHING: Mapping[Dimension, list[Any]] = {"model": []}
"""Lets no row through."""

Seconds = Annotated[int, Query(ge=0, le=MAX_TIME_S, description="Seconds since 1970.")]
Strings = list[str]
Limit = Annotated[
    int | None,
    Query(ge=0, description="The number of buckets; the maximum depends on their width."),
]


class CompletionsUsed(BaseModel):
    """What one group used in one bucket. What it was not grouped by is null."""

    object: Literal["organization.usage.completions.result"] = (
        "organization.usage.completions.result"
    )
    input_tokens: int
    input_cached_tokens: int
    input_audio_tokens: Literal[0] = 0
    output_tokens: int
    output_audio_tokens: Literal[0] = 0
    num_model_requests: int
    project_id: str | None
    user_id: None = None
    api_key_id: str | None
    model: str | None
    batch: bool | None
    service_tier: None = None

    @classmethod
    def from_total(cls, total: Total) -> CompletionsUsed:
        return cls(
            input_tokens=total.used.input_tokens,
            input_cached_tokens=total.used.cached_tokens,
            output_tokens=total.used.output_tokens,
            num_model_requests=total.used.num_requests,
            project_id=total.group.get("project_id"),
            api_key_id=total.group.get("api_key_id"),
            model=total.group.get("model"),
            batch=total.group.get("is_batch"),
        )


class Bucket(BaseModel):
    object: Literal["bucket"] = "bucket"
    start_time: int
    end_time: int
    results: list[CompletionsUsed]


class BucketPage(BaseModel):
    object: Literal["page"] = "page"
    data: list[Bucket]
    has_more: bool
    next_page: str | None


@dataclass(frozen=True)
class Range:
    """The time that was asked about, and the page of it."""

    start_s: int
    end_s: int
    width_s: int
    max_buckets: int
    page: str | None

    def first_bucket_s(self, first_use_s: int | None) -> int | None:
        """Where the page begins; None for a page of nothing. An unknown page is an empty one."""
        if first_use_s is None or self.max_buckets == 0:
            return None
        begin_s = max(self.start_s, first_use_s)
        if self.page is not None:
            position = self.page.removeprefix(PAGE_PREFIX)
            if not position.isascii() or not position.isdecimal() or len(position) > 12:
                return None
            begin_s = max(begin_s, int(position))
        return begin_s - begin_s % self.width_s if begin_s < self.end_s else None


def time_range(
    start_time: Seconds,
    end_time: Seconds | None = None,
    bucket_width: Literal["1m", "1h", "1d"] = "1d",
    limit: Limit = None,
    page: Annotated[str | None, Query(description="`next_page` of the page before.")] = None,
) -> Range:
    return _range(
        start_time,
        end_time,
        WIDTHS_S[bucket_width],
        DEFAULT_LIMITS[bucket_width] if limit is None else limit,
        MAX_LIMITS[bucket_width],
        page,
    )


def cost_range(
    start_time: Seconds,
    end_time: Seconds | None = None,
    bucket_width: Literal["1d"] = "1d",
    limit: Limit = None,
    page: Annotated[str | None, Query(description="`next_page` of the page before.")] = None,
) -> Range:
    max_buckets = DEFAULT_LIMITS["1d"] if limit is None else limit
    return _range(start_time, end_time, WIDTHS_S[bucket_width], max_buckets, MAX_COST_DAYS, page)


def _range(
    start_s: int, end_s: int | None, width_s: int, max_buckets: int, limit: int, page: str | None
) -> Range:
    if max_buckets > limit:
        raise InvalidRequest(
            f"Invalid 'limit': integer above maximum value. Expected a value <= {limit}, but got "
            f"{max_buckets} instead.",
            param="limit",
            code="integer_above_max_value",
        )
    now_s = int(time.time()) + 1
    return Range(start_s, now_s if end_s is None else min(end_s, now_s), width_s, max_buckets, page)


@router.get("/usage/completions")
async def completions_usage(
    _: AdminCaller,
    wiring: Wired,
    asked: Annotated[Range, Depends(time_range)],
    project_ids: Annotated[Strings | None, Query(alias="project_ids[]")] = None,
    user_ids: Annotated[Strings | None, Query(alias="user_ids[]")] = None,
    api_key_ids: Annotated[Strings | None, Query(alias="api_key_ids[]")] = None,
    models: Annotated[Strings | None, Query(alias="models[]")] = None,
    group_by: Annotated[list[Group] | None, Query(alias="group_by[]")] = None,
    batch: bool | None = None,
) -> BucketPage:
    """Chat completions and completions, by the canonical names of models. No user has any."""
    chosen = {
        "project_id": project_ids,
        "api_key_id": api_key_ids,
        "model": models,
        "is_batch": None if batch is None else [batch],
    }
    where: dict[Any, Any] = {name: value for name, value in chosen.items() if value is not None}
    groups = [DIMENSIONS[name] for name in dict.fromkeys(group_by or ()) if name in DIMENSIONS]
    await wiring.meter.flush()
    return await wiring.database.run(_read, asked, groups, NOTHING if user_ids else where)


async def nothing_used(
    _: AdminCaller, wiring: Wired, asked: Annotated[Range, Depends(time_range)]
) -> BucketPage:
    """What this server does not offer is never used: buckets without results."""
    return await wiring.database.run(_read, asked, [], NOTHING)


for kind in UNUSED:
    router.add_api_route(f"/usage/{kind}", nothing_used, methods=["GET"], name=f"{kind}_usage")


@router.get("/costs")
async def costs(
    _: AdminCaller, wiring: Wired, asked: Annotated[Range, Depends(cost_range)]
) -> BucketPage:
    """Nothing costs anything here: buckets without results."""
    return await wiring.database.run(_read, asked, [], NOTHING)


def _read(
    session: Session, asked: Range, group_by: list[Dimension], where: Mapping[Dimension, Any]
) -> BucketPage:
    first_s = asked.first_bucket_s(usage.first_minute(session))
    if first_s is None:
        return BucketPage(data=[], has_more=False, next_page=None)
    next_s = first_s + asked.width_s * asked.max_buckets
    totals = usage.totals(
        session,
        start_s=max(first_s, asked.start_s),
        end_s=min(next_s, asked.end_s),
        width_s=asked.width_s,
        group_by=group_by,
        where=where,
    )
    by_bucket = {
        bucket_s: [CompletionsUsed.from_total(total) for total in group]
        for bucket_s, group in groupby(totals, lambda total: total.bucket_s)
    }
    has_more = next_s < asked.end_s
    return BucketPage(
        data=[
            Bucket(
                start_time=start_s,
                end_time=start_s + asked.width_s,
                results=by_bucket.get(start_s, []),
            )
            for start_s in range(first_s, min(next_s, asked.end_s), asked.width_s)
        ],
        has_more=has_more,
        next_page=f"{PAGE_PREFIX}{next_s}" if has_more else None,
    )
