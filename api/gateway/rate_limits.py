"""Requests and tokens a minute: how much of the inference servers a project may use.

Two buckets a project, in the broker, so that they hold for all processes of the api together: each is full at first, is filled
evenly up to what a minute allows, and gives what a request takes. How many tokens a request takes is known at its end; until
then it takes what its text and its `max_tokens` make likely, and the difference is settled afterwards, also below zero. A broker
that does not answer limits nobody: the inference servers have bounds of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from foundation.errors import LuthierError
from storage import queue
from storage.organization.api_keys import Caller

log = structlog.get_logger()

TIMEOUT_S = 0.25
CHARS_PER_TOKEN = 4
"""Of a request's JSON, until its tokens are counted."""
FORGET_AFTER_S = 120
"""By then any bucket is full, unless it owes more than a minute's worth."""

Json = dict[str, Any]

# KEYS: the buckets. ARGV: whether to take in any case, then of each bucket what a minute allows and what is taken.
# Gives 1 if it was taken, then of each bucket what is left and in how many seconds there is enough, and in how many it is full.
_TAKE = """
local time = redis.call('TIME')
local now_s = tonumber(time[1]) + tonumber(time[2]) / 1000000
local levels, is_taken, found = {}, 1, {}
for i, key in ipairs(KEYS) do
  local limit, cost = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local bucket = redis.call('HMGET', key, 'level', 'at_s')
  local level, at_s = tonumber(bucket[1]) or limit, tonumber(bucket[2]) or now_s
  levels[i] = math.min(limit, level + math.max(0, now_s - at_s) * limit / 60)
  if ARGV[1] == '0' and levels[i] < cost then is_taken = 0 end
end
for i, key in ipairs(KEYS) do
  local limit, cost = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local wait_s = math.max(0, cost - levels[i]) * 60 / limit
  if is_taken == 1 then
    levels[i] = math.min(limit, levels[i] - cost)
    redis.call('HSET', key, 'level', tostring(levels[i]), 'at_s', tostring(now_s))
    redis.call('EXPIRE', key, ARGV[#ARGV] + math.ceil(math.max(0, -levels[i]) * 60 / limit))
  end
  found[#found + 1] = tostring(levels[i])
  found[#found + 1] = tostring(wait_s)
  found[#found + 1] = tostring((limit - levels[i]) * 60 / limit)
end
return {is_taken, unpack(found)}
"""


@dataclass(frozen=True)
class Limit:
    """Of a minute."""

    noun: str
    """`requests` or `tokens`."""
    per_minute: int


@dataclass(frozen=True)
class Taken:
    """How a project's buckets stand after a request."""

    headers: Mapping[str, str]
    """OpenAI's `x-ratelimit-…`."""
    num_tokens: int
    """What the request has taken for its tokens; None are limited if 0."""


class RateLimited(LuthierError):
    """A project has used up what a minute allows."""

    def __init__(self, message: str, noun: str, headers: Mapping[str, str]) -> None:
        super().__init__(message, status=429, type=noun, code="rate_limit_exceeded")
        self.headers = headers


class RateLimits:
    def __init__(
        self, broker_url: str, *, requests_per_minute: int | None, tokens_per_minute: int | None
    ) -> None:
        """The limits of projects that have none of their own; None: as much as they like. Connects to nothing yet."""
        self._redis = Redis.from_url(
            broker_url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
        )
        self._take = self._redis.register_script(_TAKE)
        self._requests_per_minute = requests_per_minute
        self._tokens_per_minute = tokens_per_minute

    async def close(self) -> None:
        await self._redis.aclose()

    def of(self, caller: Caller) -> list[Limit]:
        """Those that hold for the caller's project."""
        figures = {
            "requests": caller.requests_per_minute or self._requests_per_minute,
            "tokens": caller.tokens_per_minute or self._tokens_per_minute,
        }
        return [Limit(noun, figure) for noun, figure in figures.items() if figure]

    async def take(self, caller: Caller, model: str, num_tokens: int) -> Taken:
        """Take a request and its tokens, or nothing. Raises RateLimited."""
        limits = self.of(caller)
        # One that is larger than any minute waits for a whole one, and owes the rest.
        costs = [1 if it.noun == "requests" else min(num_tokens, it.per_minute) for it in limits]
        found = await self._ask(caller, limits, costs, is_settled=False)
        if found is None:
            return Taken({}, 0)
        is_taken, stands = found
        headers = _headers(limits, stands)
        if not is_taken:
            wait_s, limit, cost = max(
                (stand[1], limit, cost)
                for stand, limit, cost in zip(stands, limits, costs, strict=True)
            )
            used = max(0, round(limit.per_minute - stands[limits.index(limit)][0]))
            name = {"requests": "requests per min (RPM)", "tokens": "tokens per min (TPM)"}[
                limit.noun
            ]
            raise RateLimited(
                f"Rate limit reached for {model} in project {caller.project_id} on {name}: Limit {limit.per_minute}, Used "
                f"{used}, Requested {cost}. Please try again in {_told(wait_s)}.",
                limit.noun,
                {**headers, "retry-after": str(max(1, math.ceil(wait_s)))},
            )
        taken = sum(c for it, c in zip(limits, costs, strict=True) if it.noun == "tokens")
        return Taken(headers, taken)

    async def settle(self, caller: Caller, num_tokens: int) -> None:
        """Take so many tokens more, or give them back if it is less than none."""
        limits = [limit for limit in self.of(caller) if limit.noun == "tokens"]
        if num_tokens:
            await self._ask(caller, limits, [num_tokens], is_settled=True)

    async def _ask(
        self, caller: Caller, limits: list[Limit], costs: list[int], *, is_settled: bool
    ) -> tuple[bool, list[tuple[float, float, float]]] | None:
        """None if nothing is limited, or nobody answers."""
        if not limits:
            return None
        keys = [f"{queue.KEY_PREFIX}limit:{caller.project_id}:{limit.noun}" for limit in limits]
        arguments: list[int] = [int(is_settled)]
        for limit, cost in zip(limits, costs, strict=True):
            arguments += [limit.per_minute, cost]
        try:
            is_taken, *figures = await self._take(keys=keys, args=[*arguments, FORGET_AFTER_S])
        except (RedisError, OSError) as error:
            log.warning("rate_limits.no_answer", error=repr(error))
            return None
        numbers = [float(figure) for figure in figures]
        stands = [(a, b, c) for a, b, c in zip(*[iter(numbers)] * 3, strict=True)]
        return bool(is_taken), stands


def likely_tokens(body: Json, num_bytes: int) -> int:
    """How many tokens a request will likely use, its reply's among them."""
    asked = body.get("max_completion_tokens", body.get("max_tokens"))
    choices = body.get("n")
    num_choices = choices if isinstance(choices, int) and choices > 0 else 1
    num_new = asked if isinstance(asked, int) and asked > 0 else 0
    return num_bytes // CHARS_PER_TOKEN + num_new * num_choices


def _headers(limits: list[Limit], stands: list[tuple[float, float, float]]) -> dict[str, str]:
    headers = {}
    for limit, (level, _, full_in_s) in zip(limits, stands, strict=True):
        headers[f"x-ratelimit-limit-{limit.noun}"] = str(limit.per_minute)
        headers[f"x-ratelimit-remaining-{limit.noun}"] = str(max(0, math.floor(level)))
        headers[f"x-ratelimit-reset-{limit.noun}"] = _told(full_in_s)
    return headers


def _told(seconds: float) -> str:
    """As OpenAI writes a time: `1m2.5s`, `240ms`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest_s = divmod(round(seconds, 3), 60)
    return f"{int(minutes)}m{rest_s:g}s" if minutes else f"{rest_s:g}s"
