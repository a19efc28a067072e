"""`GET /v1/fine_tuning/jobs/{id}/events?stream=true`: server-sent events until the job ends."""

from __future__ import annotations

import httpx
import pytest

from tests.api.stack import Api, Tenant

from .stream_reader import DONE, add, blocks, cancel, follow, get, job, polled, read, take

pytestmark = pytest.mark.usefixtures("frequent_looks")


def test_a_job_that_is_over_is_told_from_its_first_event_to_the_end(
    api: Api, tenant: Tenant, http: httpx.Client, job_id: str
) -> None:
    # U+2028 ends a line for some, and so does a lone carriage return.
    add(api, job_id, "one", "two lines\nand \u2028 ü \r more\n\n", "data: [DONE]")
    cancel(api, tenant, job_id)
    reply = get(http, job_id)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-cache"
    *told, last = blocks(iter([reply.content]))
    assert read(told) == polled(http, job_id)
    assert len(told) == 5
    assert last == DONE


def test_what_happens_meanwhile_arrives_until_the_job_ends(
    api: Api, tenant: Tenant, http: httpx.Client, job_id: str
) -> None:
    with follow(http, job_id) as followed:
        told = take(followed, 1)
        for message in ("one", "two", "three"):
            add(api, job_id, message)
            told += take(followed, 1)
            assert told[-1]["message"] == message
        cancel(api, tenant, job_id)
        told += take(followed, 1)
        assert list(followed) == [DONE]
    assert told == polled(http, job_id)


def test_a_paused_job_has_not_ended(
    api: Api, tenant: Tenant, http: httpx.Client, job_id: str
) -> None:
    assert http.post(f"/v1/fine_tuning/jobs/{job_id}/pause").status_code == 200
    with follow(http, job_id) as followed:
        told = take(followed, 2)
        assert http.post(f"/v1/fine_tuning/jobs/{job_id}/resume").status_code == 200
        cancel(api, tenant, job_id)
        *more, last = followed
    assert told + read(more) == polled(http, job_id)
    assert last == DONE


def test_a_reader_goes_on_behind_the_last_event_that_it_has(
    api: Api, tenant: Tenant, http: httpx.Client, job_id: str
) -> None:
    add(api, job_id, "one", "two", "three")
    cancel(api, tenant, job_id)
    told = polled(http, job_id)
    for number, event in enumerate(told):
        for reply in (
            get(http, job_id, last_event_id=event["id"]),
            get(http, job_id, after=event["id"]),
        ):
            *found, last = blocks(iter([reply.content]))
            assert read(found) == told[number + 1 :]
            assert last == DONE


def test_nothing_is_lost_or_doubled_where_a_stream_broke_off(
    api: Api, tenant: Tenant, http: httpx.Client, job_id: str
) -> None:
    add(api, job_id, *(f"before {n}" for n in range(5)))
    with follow(http, job_id) as followed:
        told = take(followed, 3)
    add(api, job_id, "between")
    with follow(http, job_id, last_event_id=told[-1]["id"]) as followed:
        told += take(followed, 4)
        add(api, job_id, "after")
        told += take(followed, 1)
    cancel(api, tenant, job_id)
    with follow(http, job_id, last_event_id=told[-1]["id"]) as followed:
        told += take(followed, 1)
        assert list(followed) == [DONE]
    assert told == polled(http, job_id)
    assert len(told) == 9


def test_the_header_goes_before_the_parameter(
    api: Api, tenant: Tenant, http: httpx.Client, job_id: str
) -> None:
    add(api, job_id, "one", "two")
    cancel(api, tenant, job_id)
    told = polled(http, job_id)
    for header, parameter in ((2, 0), (0, 2)):
        ids = told[header]["id"], told[parameter]["id"]
        reply = get(http, job_id, last_event_id=ids[0], after=ids[1])
        *found, _ = blocks(iter([reply.content]))
        assert read(found) == told[header + 1 :]


def test_an_event_that_the_job_lacks_is_no_place_to_go_on_from(
    api: Api, tenant: Tenant, http: httpx.Client, job_id: str
) -> None:
    (of_another,) = polled(http, job(api, tenant))
    for event_id in ("ftevent-unknown", of_another["id"]):
        for reply in (
            get(http, job_id, last_event_id=event_id),
            get(http, job_id, after=event_id),
        ):
            assert reply.status_code == 400
            error = reply.json()["error"]
            assert (error["type"], error["param"]) == ("invalid_request_error", "after")
            assert event_id in error["message"]


def test_another_project_s_job_is_not_there(api: Api, http: httpx.Client) -> None:
    for job_id in (job(api, api.tenant()), "ftjob-unknown"):
        reply = get(http, job_id)
        assert reply.status_code == 404
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
