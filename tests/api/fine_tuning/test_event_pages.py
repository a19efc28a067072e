"""Pages of events, asked for by many at the same moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from storage.jobs import events
from tests.api.stack import Api, Tenant, wait_until
from tests.storage.rows import add_job

Asked = tuple[Tenant, str, dict[str, str]]
"""Who asks, for which job, and how."""


def job(api: Api, tenant: Tenant, *messages: str) -> str:
    with api.sessions.begin() as session:
        job_id = add_job(session, tenant.project_id).id
        for message in messages:
            events.add(session, job_id, message, message)
    return job_id


@pytest.fixture(scope="module")
def http(api: Api) -> Iterator[httpx.Client]:
    """Of everybody who asks; each names its own key."""
    with httpx.Client(base_url=api.url, trust_env=False, timeout=30) as http:
        yield http


def get(http: httpx.Client, asked: Asked) -> httpx.Response:
    tenant, job_id, params = asked
    url = f"/v1/fine_tuning/jobs/{job_id}/events"
    return http.get(url, params=params, headers=tenant.headers)


@contextmanager
def events_locked(api: Api) -> Iterator[None]:
    """Nobody reads an event meanwhile."""
    with api.sessions.begin() as session:
        session.execute(text("LOCK TABLE events IN ACCESS EXCLUSIVE MODE"))
        yield


def in_one_look(api: Api, http: httpx.Client, asked: Sequence[Asked]) -> list[httpx.Response]:
    """The replies to questions that a single look at the database answers."""
    waiting = api.app.state.wiring.event_pages._gather._waiting
    with ThreadPoolExecutor(len(asked) + 1) as askers:
        with events_locked(api):
            # While this look waits for the lock, all others gather.
            first = askers.submit(get, http, asked[0])
            wait_until(lambda: is_somebody_waiting(api))
            replies: list[Future[httpx.Response]] = [
                askers.submit(get, http, question) for question in asked
            ]
            wait_until(lambda: len(waiting) == len(asked))
        assert first.result().status_code == 200
        return [reply.result() for reply in replies]


def is_somebody_waiting(api: Api) -> bool:
    waiting = text(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'events'::regclass"
    )
    with api.sessions() as session:
        return bool(session.scalar(waiting))


def messages(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [event["message"] for event in reply.json()["data"]]


def test_each_project_gets_its_own_job_s_pages(api: Api, http: httpx.Client) -> None:
    mine, theirs = api.tenant(), api.tenant()
    my_job, their_job = job(api, mine, "a", "b", "c"), job(api, theirs, "x", "y")
    replies = in_one_look(
        api,
        http,
        [
            (mine, my_job, {}),
            (theirs, their_job, {}),
            (mine, my_job, {"limit": "2"}),
            (theirs, their_job, {"limit": "1"}),
            (mine, my_job, {"limit": "0"}),
            (mine, my_job, {"after": "ftevent-unknown"}),
        ],
    )
    created = "Created fine-tuning job: {}".format
    assert [messages(reply) for reply in replies] == [
        ["c", "b", "a", created(my_job)],
        ["y", "x", created(their_job)],
        ["c", "b"],
        ["y"],
        [],
        [],
    ]
    assert [reply.json()["has_more"] for reply in replies] == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]


def test_a_foreign_job_is_not_there_even_beside_its_owner_s_question(
    api: Api, http: httpx.Client
) -> None:
    mine, theirs = api.tenant(), api.tenant()
    my_job, their_job = job(api, mine, "a"), job(api, theirs, "x")
    (their_newest, _) = get(http, (theirs, their_job, {})).json()["data"]
    good, foreign, unknown, own, foreign_cursor = in_one_look(
        api,
        http,
        [
            (theirs, their_job, {}),
            (mine, their_job, {}),
            (mine, "ftjob-unknown", {}),
            (mine, my_job, {}),
            (mine, my_job, {"after": their_newest["id"]}),
        ],
    )
    assert messages(good)[0] == "x"
    assert messages(own)[0] == "a"
    assert messages(foreign_cursor) == []
    told: list[Any] = [reply.json()["error"] for reply in (foreign, unknown)]
    assert (foreign.status_code, unknown.status_code) == (404, 404)
    # Nothing tells a foreign job from one that never was.
    assert told[0] == {**told[1], "message": told[1]["message"].replace("ftjob-unknown", their_job)}


@pytest.mark.parametrize("unfit", ["ftevent-\0", "\0"])
def test_a_value_that_no_database_takes_spoils_nobody_else_s_page(
    api: Api, http: httpx.Client, unfit: str
) -> None:
    mine, theirs = api.tenant(), api.tenant()
    my_job, their_job = job(api, mine, "a"), job(api, theirs, "x")
    good, bad, own = in_one_look(
        api,
        http,
        [(theirs, their_job, {}), (theirs, their_job, {"after": unfit}), (mine, my_job, {})],
    )
    assert (messages(good)[0], messages(own)[0]) == ("x", "a")
    assert bad.status_code == 400
    assert "cannot be stored or looked up" in bad.json()["error"]["message"]


def test_a_crowd_of_pollers_is_told_what_it_asked_for(api: Api, http: httpx.Client) -> None:
    tenants = [api.tenant() for _ in range(3)]
    owned = [(tenant, job(api, tenant, f"event of {tenant.project_id}")) for tenant in tenants]

    def poll(number: int) -> None:
        tenant, job_id = owned[number % 3]
        assert messages(get(http, (tenant, job_id, {"limit": "1"}))) == [
            f"event of {tenant.project_id}"
        ]
        other = owned[(number + 1) % 3][1]
        assert get(http, (tenant, other, {"limit": "1"})).status_code == 404

    with ThreadPoolExecutor(12) as pollers:
        list(pollers.map(poll, range(60)))
