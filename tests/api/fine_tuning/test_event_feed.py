"""Who follows jobs: their places, the slow among them, and what they hear when the server goes down."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session

from api.fine_tuning import event as fine_tuning_event
from api.fine_tuning import event_feed, job_stream, stream_seats
from foundation.connection_limits import ConnectionLimits
from foundation.settings import Settings
from storage.jobs import events
from storage.jobs.events import EventRow
from storage.organization.api_keys import Caller
from tests.api.stack import Api, Tenant, running_api, wait_until

from .stream_reader import DONE, add, cancel, follow, get, job, messages, polled, read, take

pytestmark = pytest.mark.usefixtures("frequent_looks")


def num_followers(api: Api) -> int:
    """All that follow a job, or are just about to or have just done so."""
    wiring = api.app.state.wiring
    return int(max(wiring.event_feed.num_followers, wiring.stream_seats.num_taken))


def wait_until_alone(api: Api) -> None:
    wait_until(lambda: num_followers(api) == 0)


def test_past_events_do_not_wait_for_the_next_look(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "POLL_S", 3600)
    with running_api(settings) as own:
        tenant = own.tenant()
        job_id = job(own, tenant)
        add(own, job_id, "one", "two")
        with own.http(tenant) as http, follow(http, job_id) as followed:
            assert take(followed, 3) == polled(http, job_id)


def test_a_reader_that_goes_away_frees_its_place(api: Api, http: httpx.Client, job_id: str) -> None:
    wait_until_alone(api)
    with follow(http, job_id) as first:
        take(first, 1)
        with follow(http, job_id) as second:
            take(second, 1)
            assert num_followers(api) == 2
        wait_until(lambda: num_followers(api) == 1)
        # Who stays hears on.
        add(api, job_id, "one")
        assert messages(take(first, 1)) == ["one"]
    wait_until_alone(api)


def test_a_stream_more_than_there_is_room_for_is_told_to_come_back(
    api: Api, http: httpx.Client, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_until_alone(api)
    monkeypatch.setattr(stream_seats, "MAX_STREAMS", 1)
    with follow(http, job_id) as followed:
        take(followed, 1)
        reply = get(http, job_id)
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) > 0
        assert "Too many streams" in reply.json()["error"]["message"]
        # Polling needs no place.
        assert len(polled(http, job_id)) == 1
    wait_until_alone(api)
    with follow(http, job_id) as followed:
        take(followed, 1)


def test_a_server_that_goes_down_ends_its_streams_without_done(settings: Settings) -> None:
    with ExitStack() as stack:
        with running_api(settings) as own:
            tenant = own.tenant()
            job_id = job(own, tenant)
            http = stack.enter_context(own.http(tenant))
            followed = stack.enter_context(follow(http, job_id))
            told = take(followed, 1)
        # Cut off at the end of the server's patience, it would break here.
        assert list(followed) == []
    with running_api(settings) as another:
        add(another, job_id, "one")
        with (
            another.http(tenant) as http,
            follow(http, job_id, last_event_id=told[-1]["id"]) as followed,
        ):
            assert messages(take(followed, 1)) == ["one"]


def test_who_joins_late_is_told_what_others_have_heard(
    api: Api, http: httpx.Client, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "KEPT_ROWS", 2)
    monkeypatch.setattr(event_feed, "PAGE_ROWS", 3)
    with follow(http, job_id) as early:
        told = take(early, 1)
        # One look may bring more than is kept.
        add(api, job_id, *(f"number {n}" for n in range(10)))
        told += take(early, 10)
        with follow(http, job_id) as late:
            assert take(late, 11) == told == polled(http, job_id)
            add(api, job_id, "both")
            assert take(late, 1) == take(early, 1)


def test_a_reader_far_behind_is_told_everything_once(
    api: Api, tenant: Tenant, http: httpx.Client, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "KEPT_ROWS", 2)
    monkeypatch.setattr(event_feed, "PAGE_ROWS", 3)
    with follow(http, job_id) as slow, follow(http, job_id) as quick:
        take(quick, 1)
        # More than the sockets take in, so the slow one's stream stands still.
        for number in range(16):
            add(api, job_id, f"{number} ".ljust(1_000_000, "x"))
            take(quick, 1)
        cancel(api, tenant, job_id)
        take(quick, 1)
        *told, last = slow
    assert messages(read(told)) == messages(polled(http, job_id))
    assert last == DONE


def test_a_reader_that_takes_nothing_is_let_go(settings: Settings) -> None:
    with running_api(settings, ConnectionLimits(write_timeout_s=0.2, sweep_s=0.02)) as own:
        tenant = own.tenant()
        job_id = job(own, tenant)
        add(own, job_id, *(f"{number} ".ljust(1_000_000, "x") for number in range(16)))
        with own.http(tenant) as http, follow(http, job_id) as followed:
            take(followed, 1)
            wait_until_alone(own)
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                list(followed)


def test_one_project_has_not_all_the_streams(settings: Settings) -> None:
    with running_api(settings.replace(streams_per_project=3)) as own, ExitStack() as stack:
        tenant, other = own.tenant(), own.tenant()
        job_id = job(own, tenant)
        http = stack.enter_context(own.http(tenant))
        own_stream = stack.enter_context(follow(http, job_id))
        take(own_stream, 1)
        for path in (f"fine_tuning/jobs/{job_id}", f"fine-tunes/{job_id}"):
            reply = http.get(f"/v1/{path}/events?stream=true")
            assert reply.status_code == 429
            assert int(reply.headers["retry-after"]) > 0
            error = reply.json()["error"]
            assert error["code"] == "rate_limit_exceeded"
            assert "for this API key: at most 1 may be" in error["message"]
        # Polling needs none, and others have their own.
        assert len(polled(http, job_id)) == 1
        with own.http(other) as others, follow(others, job(own, other)) as followed:
            take(followed, 1)
        # A refusal takes no seat.
        assert http.get("/v1/fine_tuning/jobs/ftjob-x/events?stream=true").status_code == 429
        assert num_followers(own) == 1


def test_seats_are_counted_by_key_and_by_project() -> None:
    seats = stream_seats.StreamSeats(3)
    first, second, third = (
        Caller(f"key_{n}", "project", "proj_a", "org", "acme") for n in range(3)
    )
    taken = [seats.take(first), seats.take(second), seats.take(third)]
    with pytest.raises(stream_seats.TooManyStreams, match="this API key: at most 1"):
        seats.take(first)
    with pytest.raises(stream_seats.TooManyStreams, match="this project: at most 3"):
        seats.take(Caller("key_4", "project", "proj_a", "org", "acme"))
    for seat in taken:
        seat.release()
        seat.release()
    assert seats.num_taken == 0
    seats.take(first)


def test_a_crowd_costs_as_many_looks_and_renderings_as_one(
    api: Api, http: httpx.Client, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "KEPT_ROWS", 2)
    monkeypatch.setattr(event_feed, "PAGE_ROWS", 3)
    looks: Counter[int] = Counter()
    rendered: Counter[str] = Counter()
    since, render = events.since, fine_tuning_event.render

    def look(session: Session, job_id: str, seq: int, *, limit: int) -> list[EventRow]:
        looks[seq] += 1
        return since(session, job_id, seq, limit=limit)

    def count(row: EventRow) -> bytes:
        rendered[row.id] += 1
        return render(row)

    monkeypatch.setattr(events, "since", look)
    monkeypatch.setattr(fine_tuning_event, "render", count)
    add(api, job_id, *(f"number {n}" for n in range(11)))
    with ExitStack() as stack:
        followed = [stack.enter_context(follow(http, job_id)) for _ in range(10)]
        told = [take(each, 12) for each in followed]
        assert all(each == told[0] for each in told)
        # Full pages once; the place where all is told is in memory.
        assert len(looks) <= 5
        assert all(looks[seq] == 1 for seq in sorted(looks)[:4])
        add(api, job_id, "news")
        assert {each["message"] for it in followed for each in take(it, 1)} == {"news"}
    assert set(rendered.values()) == {1}


def test_a_stream_that_nobody_reads_costs_nothing(
    api: Api, http: httpx.Client, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "KEPT_ROWS", 2)
    monkeypatch.setattr(event_feed, "PAGE_ROWS", 1)
    num_looks = 0
    since = events.since

    def look(session: Session, job_id: str, seq: int, *, limit: int) -> list[EventRow]:
        nonlocal num_looks
        num_looks += 1
        return since(session, job_id, seq, limit=limit)

    monkeypatch.setattr(events, "since", look)
    add(api, job_id, *(f"{number} ".ljust(1_000_000, "x") for number in range(16)))
    with follow(http, job_id) as unread:
        take(unread, 1)
        with follow(http, job_id) as read_on:
            take(read_on, 17)
            num_before = num_looks
            for number in range(3):
                add(api, job_id, f"more {number}")
                take(read_on, 1)
            # Whoever reads is told from memory, whoever does not is not looked for.
            assert num_looks == num_before


def test_streams_begin_one_after_another(
    api: Api, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_at_once, most = 0, 0
    run = api.app.state.wiring.database.run

    async def watch(function: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal num_at_once, most
        num_at_once += 1
        most = max(most, num_at_once)
        try:
            await asyncio.sleep(0.005)
            return await run(function, *args, **kwargs)
        finally:
            num_at_once -= 1

    monkeypatch.setattr(api.app.state.wiring.database, "run", watch)
    with ThreadPoolExecutor(10) as threads:
        replies = list(threads.map(lambda _: get(http, "ftjob-unknown"), range(20)))
    assert {reply.status_code for reply in replies} == {404}
    assert most == 1
    # Nor is anybody kept waiting for ever.
    monkeypatch.setattr(event_feed, "TURN_TIMEOUT_S", 0.001)
    with ThreadPoolExecutor(10) as threads:
        replies = list(threads.map(lambda _: get(http, "ftjob-unknown"), range(20)))
    assert {reply.status_code for reply in replies} == {404, 503}
    assert num_followers(api) == 0


def test_silence_is_broken_by_comments(
    api: Api, tenant: Tenant, http: httpx.Client, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_stream, "HEARTBEAT_S", 0.05)
    with follow(http, job_id) as followed:
        take(followed, 1)
        # A comment has a colon and no name, so no reader takes it for an event.
        assert [list(next(followed)) for _ in range(2)] == [[""], [""]]
        add(api, job_id, "one")
        cancel(api, tenant, job_id)
        told = [block for block in followed if list(block) != [""]]
    assert messages(read(told[:-1])) == ["one", "The job was cancelled"]
    assert told[-1] == DONE
