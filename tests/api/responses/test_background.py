from __future__ import annotations

import gc
import time
import weakref
from datetime import timedelta
from typing import Any

import openai
import pytest
from openai.types.responses import Response
from sqlalchemy import update

from api.responses import background, turns
from api.responses import responses as routes
from api.responses.turns import Turn
from storage.inference import responses
from storage.inference.responses import ResponseRow
from tests.api.gateway.fake_backend import FakeBackend
from tests.api.gateway.test_inference import gateway
from tests.api.stack import Api, Tenant

from .test_responses import MODEL, TEXT


@pytest.fixture(autouse=True)
def is_hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at every few seconds is looked at at once."""
    monkeypatch.setattr(background, "WRITE_EVERY_S", 0.1)
    monkeypatch.setattr(background, "FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(routes, "FIRST_PAUSE_S", 0.05)


def ended(client: openai.OpenAI, response: Response) -> Response:
    deadline = time.monotonic() + 30
    while response.status in responses.UNFINISHED:
        assert time.monotonic() < deadline, response.status
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
    return response


def age(api: Api, response_id: str) -> None:
    """As if whoever makes the response had said nothing for a long time."""
    with api.sessions.begin() as session:
        seen_at = ResponseRow.seen_at - 2 * responses.SILENT_FOR
        session.execute(
            update(ResponseRow).where(ResponseRow.id == response_id).values(seen_at=seen_at)
        )


def test_it_is_made_without_anybody_waiting(client: openai.OpenAI) -> None:
    begun = client.responses.create(model=MODEL, input="Hello?", background=True)
    assert (begun.status, begun.background, begun.output) == ("queued", True, [])
    response = ended(client, begun)
    assert (response.status, response.output_text) == ("completed", TEXT)
    # One that has ended stays as it is.
    assert client.responses.cancel(response.id) == response
    after = client.responses.create(model=MODEL, input="And?", previous_response_id=response.id)
    with pytest.raises(openai.BadRequestError, match="synchronous"):
        client.responses.cancel(after.id)


def test_its_events_come_when_it_has_ended(client: openai.OpenAI) -> None:
    events = list(
        client.responses.create(model=MODEL, input="Hello?", background=True, stream=True)
    )
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == TEXT


def test_a_cancelled_one_ends_at_the_inference_server_too(api: Api, tenant: Tenant) -> None:
    backend = FakeBackend(is_endless=True)
    with gateway(api, backend) as front, front.client(tenant) as client:
        begun = client.responses.create(model=MODEL, input="Hello?", background=True)
        deadline = time.monotonic() + 30
        while not client.responses.retrieve(begun.id).output:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(openai.BadRequestError, match="still in_progress"):
            client.responses.create(model=MODEL, input="x", previous_response_id=begun.id)
        assert client.responses.cancel(begun.id).status == "cancelled"
        while not backend.num_cancelled:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert client.responses.retrieve(begun.id).status == "cancelled"
        events = list(client.responses.retrieve(begun.id, stream=True))
        assert events[-1].type == "response.incomplete"


def test_it_waits_for_room(client: openai.OpenAI, backend: FakeBackend) -> None:
    from fastapi.responses import JSONResponse

    error = {"message": "Full.", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    backend.answer = JSONResponse({"error": error}, status_code=429)
    begun = client.responses.create(model=MODEL, input="Hello?", background=True)
    deadline = time.monotonic() + 30
    while not backend.requests:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert client.responses.retrieve(begun.id).status == "queued"
    backend.answer = None
    assert ended(client, begun).output_text == TEXT


def test_while_it_waits_what_was_asked_is_in_its_row_alone(
    client: openai.OpenAI, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[weakref.ref[Turn]] = []

    def watched(*fields: Any) -> Turn:
        turn = Turn(*fields)
        seen.append(weakref.ref(turn))
        return turn

    monkeypatch.setattr(turns, "Turn", watched)
    from fastapi.responses import JSONResponse

    error = {"message": "Full.", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    backend.answer = JSONResponse({"error": error}, status_code=429)
    first = client.responses.create(model=MODEL, input="One", store=True, background=True)
    assert client.responses.cancel(first.id).status == "cancelled"
    begun = client.responses.create(
        model=MODEL,
        input="Two",
        previous_response_id=first.id,
        background=True,
        instructions="Brief.",
        extra_body={"seed": 7},
    )
    deadline = time.monotonic() + 30
    while len(backend.requests) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(seen) >= 3
    while any(turn() is not None for turn in [*seen]):
        assert time.monotonic() < deadline
        gc.collect()
    assert "asked" not in client.responses.retrieve(begun.id).to_dict()
    backend.answer = None
    assert ended(client, begun).output_text == TEXT
    sent = backend.requests[-1][0]
    assert [m["content"] for m in sent["messages"]] == ["Brief.", "One", "Two"]
    assert sent["seed"] == 7


def test_what_goes_wrong_is_told(client: openai.OpenAI, backend: FakeBackend) -> None:
    begun = client.responses.create(model="nobody", input="Hello?", background=True)
    response = ended(client, begun)
    assert response.status == "failed"
    assert response.error is not None
    assert "nobody" in response.error.message
    backend.breaks_after = 1
    begun = client.responses.create(model=MODEL, input="Hello?", background=True)
    assert ended(client, begun).status == "failed"


def test_those_of_an_api_that_stops_have_failed(api: Api, tenant: Tenant) -> None:
    with (
        gateway(api, FakeBackend(is_endless=True)) as front,
        front.client(tenant) as client,
    ):
        stopped = client.responses.create(model=MODEL, input="Hello?", background=True)
    with api.client(tenant) as client:
        response = client.responses.retrieve(stopped.id)
        assert response.status == "failed"
        assert response.error is not None
        assert "stopped" in response.error.message


def test_one_that_nobody_is_at_any_more_has_failed(
    api: Api, client: openai.OpenAI, tenant: Tenant
) -> None:
    response = ended(client, client.responses.create(model=MODEL, input="x", background=True))
    body = {**response.to_dict(), "status": "in_progress"}
    with api.sessions.begin() as session:
        session.execute(
            update(ResponseRow).where(ResponseRow.id == response.id).values(status="in_progress")
        )
        assert responses.go_on(session, response.id, body)
        assert responses.count_unfinished(session, tenant.project_id) == 1
    with pytest.raises(openai.BadRequestError, match="still in_progress"):
        client.responses.create(model=MODEL, input="y", previous_response_id=response.id)
    age(api, response.id)
    assert client.responses.retrieve(response.id).status == "failed"
    # As from any other that failed, one can go on from what there is of it.
    client.responses.create(model=MODEL, input="y", previous_response_id=response.id)
    with api.sessions.begin() as session:
        assert responses.count_unfinished(session, tenant.project_id) == 0


def test_expired_ones_are_taken_away(api: Api, client: openai.OpenAI) -> None:
    kept, expired = (client.responses.create(model=MODEL, input="x") for _ in range(2))
    with api.sessions.begin() as session:
        row = session.get_one(ResponseRow, expired.id)
        row.created_at -= responses.KEPT_FOR + timedelta(seconds=1)
        session.flush()
        responses.remove_expired(session)
    client.responses.retrieve(kept.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(expired.id)


def test_who_follows_has_a_seat_and_hears_of_an_end_without_a_response(
    api: Api, tenant: Tenant
) -> None:
    backend = FakeBackend(is_endless=True)
    # One key has half of a project's seats.
    with gateway(api, backend, streams_per_project=2) as front, front.client(tenant) as client:
        begun = client.responses.create(model=MODEL, input="Hello?", background=True)
        with client.responses.retrieve(begun.id, stream=True) as events:
            with pytest.raises(openai.RateLimitError, match="Too many streams of events"):
                client.responses.retrieve(begun.id, stream=True)
            with pytest.raises(openai.RateLimitError, match="Too many streams of events"):
                client.responses.create(model=MODEL, input="x", background=True, stream=True)
            with api.sessions() as session:
                assert responses.count_unfinished(session, tenant.project_id) == 1
            client.responses.delete(begun.id)
            (event,) = events
        assert event.type == "error"
        assert begun.id in event.message
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(begun.id, stream=True)
        # The seat was given back.
        cancelled = client.responses.create(model=MODEL, input="x", background=True)
        client.responses.cancel(cancelled.id)
        assert list(client.responses.retrieve(cancelled.id, stream=True))
