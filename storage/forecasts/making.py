"""Makes a forecast of what a job was found to be, the hosts that there are and how long others took. Whoever asks, here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from foundation.memory import gigabytes
from foundation.settings import Settings

from . import gain, memory, speed
from .forecasts import ForecastRow
from .hosts import Host
from .plan import Plan
from .speed import QUANTILES, JobWork, RunThrough, Speed

VERSION = 1
"""Of what is told."""
MAX_JOBS = 100
"""Of one host that a forecast goes by."""
MAX_LIKE = 60
MIN_SECONDS = 0.05
"""What is quicker counts as so long."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Prices:
    """The operator's table."""

    of_tokens: Mapping[str, float]
    """Of a million trained tokens, by base; `*` for the others."""
    of_hour: float
    currency: str

    @classmethod
    def of(cls, settings: Settings) -> Prices:
        return cls(settings.token_prices, settings.hour_price, settings.currency)

    def price(self, base_model: str, trained_tokens: int, seconds: float) -> float:
        of_million = self.of_tokens.get(base_model, self.of_tokens.get("*", 0.0))
        return of_million * trained_tokens / 1e6 + self.of_hour * seconds / 3600


@dataclass(frozen=True)
class Paced:
    """How fast, and how sure."""

    speed: Speed
    factors: Mapping[str, float]
    basis: Json


def make(
    session: Session,
    plan: Plan,
    hosts: list[Host],
    prices: Prices,
    vote: Mapping[str, Any] | None = None,
) -> Json:
    """The columns of its row; `hosts` are those that may train it, the likeliest first. Of the `vote`, see `gain`."""
    host = hosts[0]
    found = _speed(session, plan, host)
    expected = found.speed.seconds(plan.work)
    seconds = {
        name: max(round(expected * factor, 2), 0.01) for name, factor in found.factors.items()
    }
    result = {
        "version": VERSION,
        "tokens": {
            "trained": plan.trained_tokens,
            "learnt": plan.num_learnt_tokens * plan.n_epochs,
            "per_epoch": plan.num_tokens,
        },
        "examples": {
            "rows": plan.num_rows,
            "trained": plan.num_examples,
            "truncated": plan.num_truncated,
            "left_out": plan.num_left_out,
            "longest_tokens": plan.longest,
        },
        "steps": {"total": plan.num_steps, "per_epoch": plan.steps_per_epoch},
        "n_epochs": plan.n_epochs,
        "batch_size": plan.batch_size,
        "learning_rate": plan.learning_rate,
        "max_seq_len": plan.max_seq_len,
        "tuning": dict(plan.tuning),
        "seconds": {**seconds, "basis": found.basis},
        "memory": _memory(plan, hosts),
        "price": _price(plan, seconds, prices),
        "gain": gain.told(plan, vote),
        "host_type": host.type,
    }
    return {
        "base_model": plan.base_model,
        "method": plan.method,
        "kind": plan.kind,
        "precision": plan.precision,
        "host_type": host.type,
        "num_parameters": plan.shape.num_parameters,
        "num_steps": plan.num_steps,
        "num_tokens": plan.trained_tokens,
        "work_tokens": plan.work.tokens,
        **{f"seconds_{name}": value for name, value in seconds.items()},
        "result": {**result, "text": text(result)},
    }


def text(result: Json) -> str:
    """What an event and a terminal say of it."""
    tokens, steps, examples = result["tokens"], result["steps"], result["examples"]
    seconds, needed = result["seconds"], result["memory"]
    said = (
        f"{tokens['trained']:,} tokens ({tokens['learnt']:,} of them learnt) in {steps['total']:,} steps, "
        f"about {duration(seconds['p50'])} of training (nine in ten such jobs: {duration(seconds['p05'])} to "
        f"{duration(seconds['p95'])})"
    )
    if seconds["basis"]["interval"] == "guess":
        said += ", which is a guess: no job like it was measured on such a machine yet"
    said += f"; memory about {gigabytes(needed['bytes']['p50'])}"
    if needed["available_bytes"] is not None:
        said += f" of {gigabytes(needed['available_bytes'])}"
    if result["price"] is not None:
        low, high = result["price"]["p05"], result["price"]["p95"]
        said += f"; price {low:.2f} to {high:.2f} {result['price']['currency']}"
    if examples["truncated"]:
        said += f"; {examples['truncated']:,} of {examples['rows']:,} rows lose a part"
    return said


def gist(forecast_id: str, result: Json) -> Json:
    """What the job itself tells."""
    names = ("p05", "p50", "p95")
    price = result["price"]
    return {
        "id": forecast_id,
        "trained_tokens": result["tokens"]["trained"],
        "learnt_tokens": result["tokens"]["learnt"],
        "truncated_examples": result["examples"]["truncated"],
        "steps": result["steps"]["total"],
        "seconds": {name: result["seconds"][name] for name in names},
        "memory_bytes": result["memory"]["bytes"]["p50"],
        "available_bytes": result["memory"]["available_bytes"],
        "price": price and {name: price[name] for name in (*names, "currency")},
    }


def duration(seconds: float) -> str:
    """A time as people say it: `50 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{max(round(seconds), 1)} s"
    if seconds < 100 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _speed(session: Session, plan: Plan, host: Host) -> Paced:
    is_of_base = ForecastRow.base_model == plan.base_model
    rows = [
        *_measured(session, host.type, is_of_base, limit=MAX_LIKE),
        *_measured(session, host.type, ~is_of_base, limit=MAX_JOBS),
    ]
    rows.sort(key=lambda row: row.ended_at)
    of_kind = [r for r in rows if (r.base_model, r.kind) == (plan.base_model, plan.kind)]
    like = [r for r in of_kind if (r.method, r.precision) == (plan.method, plan.precision)]
    found = speed.guessed(host.num_cores, has_gpu=host.has_gpu)
    found = speed.fit(_done(rows), found)
    before = speed.fit(_done(of_kind), found)
    errors, interval = speed.ratios(_done(like), before), "measured"
    if len(errors) < speed.MIN_RATIOS and of_kind:
        # What forecasts of other jobs, as they were told, were off by on such machines.
        others = [
            max(r.actual_seconds, MIN_SECONDS) / r.seconds_p50
            for r in rows
            if r.interval != "guess"
        ]
        errors, interval = others[-MAX_LIKE:], "of_others"
    if len(errors) < speed.MIN_RATIOS:
        interval = "default" if of_kind else "guess"
    return Paced(
        speed.fit(_done(like), before),
        speed.spread(errors, speed.DEFAULT_SPREAD if of_kind else speed.BLIND_SPREAD),
        {
            "like_jobs": len(like),
            "jobs_of_this_kind": len(of_kind),
            "jobs_on_such_machines": len(rows),
            "interval": interval,
        },
    )


def _measured(session: Session, host_type: str, condition: Any, *, limit: int) -> list[Row[Any]]:
    """The latest jobs of any project that ran through. Numbers alone are read."""
    query = select(
        ForecastRow.base_model,
        ForecastRow.method,
        ForecastRow.kind,
        ForecastRow.precision,
        ForecastRow.work_tokens,
        ForecastRow.num_steps,
        ForecastRow.num_parameters,
        ForecastRow.actual_seconds,
        ForecastRow.seconds_p50,
        ForecastRow.result["seconds", "basis", "interval"].astext.label("interval"),
        ForecastRow.ended_at,
    ).where(ForecastRow.is_counted, ForecastRow.host_type == host_type, condition)
    return list(session.execute(query.order_by(ForecastRow.ended_at.desc()).limit(limit)))


def _done(rows: list[Row[Any]]) -> list[RunThrough]:
    return [
        RunThrough(
            JobWork(row.work_tokens, row.num_steps, row.num_parameters),
            max(row.actual_seconds, MIN_SECONDS),
        )
        for row in rows
    ]


def _memory(plan: Plan, hosts: list[Host]) -> Json:
    """Against the host that has most."""
    known = [host for host in hosts if host.memory_bytes is not None]
    host = max(known, key=lambda each: each.memory_bytes or 0) if known else hosts[0]
    available = host.memory_bytes
    needed = plan.merged_bytes + memory.estimate_bytes(
        plan.shape,
        plan.tuning,
        itemsize=host.itemsize,
        num_tokens=plan.num_tokens_at_a_time,
        available=available,
        has_gpu=host.has_gpu,
    )
    least = plan.merged_bytes + memory.least_bytes(plan.shape, plan.tuning, plan.longest)
    fits = None if available is None else least <= available
    return {
        "bytes": {name: round(needed * memory.SPREAD[name]) for name in QUANTILES},
        "least_bytes": least,
        "available_bytes": available,
        "fits": fits,
        "would_fit": []
        if fits is not False or available is None
        else memory.would_fit(plan.shape, plan.tuning, available, plan.longest),
    }


def _price(plan: Plan, seconds: Mapping[str, float], prices: Prices) -> Json | None:
    if not prices.of_tokens and not prices.of_hour:
        return None
    return {
        "currency": prices.currency,
        **{
            name: round(prices.price(plan.base_model, plan.trained_tokens, value), 6)
            for name, value in seconds.items()
        },
    }
