"""Who follows jobs: their places, the slow among them, and what they hear when the server goes down."""

from __future__ import annotations

from contextlib import ExitStack

import httpx
import pytest

from api import event_feed, job_stream
from storage.settings import Settings
from tests.api.stack import Api, Tenant, running_api, wait_until
from tests.api.stream_reader import (
    DONE,
    add,
    cancel,
    follow,
    get,
    job,
    messages,
    polled,
    read,
    take,
)

pytestmark = pytest.mark.usefixtures("frequent_looks")


def num_followers(api: Api) -> int:
    return int(api.app.state.wiring.event_feed.num_followers)


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
    monkeypatch.setattr(job_stream, "MAX_STREAMS", 1)
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
    monkeypatch.setattr(job_stream, "PAGE_ROWS", 3)
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
    monkeypatch.setattr(job_stream, "PAGE_ROWS", 3)
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


def test_a_reader_that_takes_nothing_is_let_go(
    api: Api, http: httpx.Client, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_until_alone(api)
    monkeypatch.setattr(job_stream, "STALL_TIMEOUT_S", 0.2)
    add(api, job_id, *(f"{number} ".ljust(1_000_000, "x") for number in range(16)))
    with follow(http, job_id) as followed:
        take(followed, 1)
        wait_until_alone(api)
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            list(followed)


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
