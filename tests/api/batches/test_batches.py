from __future__ import annotations

import re
from typing import Any

import openai
import pytest
from openai.types import Batch

from storage import leases, queue
from storage.inference import batches
from storage.inference.batches import BatchRow
from tests.api.stack import Api, Tenant

CHAT = "/v1/chat/completions"


def create(client: openai.OpenAI, **values: Any) -> Batch:
    return client.batches.create(
        **{
            "input_file_id": "file-any",
            "endpoint": CHAT,
            "completion_window": "24h",
            **values,
        }
    )


def refusal(client: openai.OpenAI, **values: Any) -> tuple[str | None, str | None]:
    """Param and code of the 400."""
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, **values)
    return caught.value.param, caught.value.code


def test_new_batch_is_validating_and_the_errands_are_told(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, ...]] = []
    monkeypatch.setattr(queue, "run_errand", lambda *message: told.append(message))
    batch = create(
        client,
        metadata={"team": "paint"},
        output_expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert re.fullmatch(r"batch_[0-9a-f]{32}", batch.id)
    assert told == [(queue.RUN_BATCH, batch.id)]
    assert batch.object == "batch"
    assert batch.status == "validating"
    assert (batch.endpoint, batch.input_file_id) == (CHAT, "file-any")
    assert batch.completion_window == "24h"
    assert batch.expires_at == batch.created_at + 86400
    assert batch.metadata == {"team": "paint"}
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 0, "completed": 0, "failed": 0}
    assert batch.usage is not None
    assert batch.usage.total_tokens == 0
    for name in ("errors", "model", "output_file_id", "error_file_id", "in_progress_at"):
        assert getattr(batch, name) is None
    assert client.batches.retrieve(batch.id) == batch


def test_what_cannot_be_a_batch_is_refused(client: openai.OpenAI) -> None:
    assert refusal(client, endpoint="/v1/audio") == ("endpoint", "invalid_value")
    assert refusal(client, completion_window="1h") == ("completion_window", "invalid_value")
    assert refusal(client, input_file_id=7) == ("input_file_id", "invalid_type")
    assert refusal(client, metadata={"a": 1}) == ("metadata.a", "invalid_type")
    param, _ = refusal(client, output_expires_after={"anchor": "created_at", "seconds": 60})
    assert param == "output_expires_after.seconds"


def test_endpoint_that_this_server_does_not_run_is_told_by_the_batch(
    client: openai.OpenAI,
) -> None:
    assert create(client, endpoint="/v1/responses").status == "validating"


def test_list_pages_newest_first(client: openai.OpenAI) -> None:
    made = [create(client).id for _ in range(3)]
    page = client.batches.list(limit=2)
    assert [batch.id for batch in page.data] == [made[2], made[1]]
    assert page.has_more
    assert [batch.id for batch in page.get_next_page().data] == [made[0]]
    assert [batch.id for batch in client.batches.list(limit=1)] == made[::-1]
    assert client.batches.list(limit=0).data == []
    assert client.batches.list(after="batch_unknown").data == []


def test_cancel_is_asked_for_and_may_be_repeated(client: openai.OpenAI) -> None:
    batch = create(client)
    for _ in range(2):
        cancelled = client.batches.cancel(batch.id)
        assert cancelled.status == "cancelling"
        assert cancelled.cancelling_at is not None


def test_batch_that_has_ended_cannot_be_cancelled(
    api: Api, client: openai.OpenAI, tenant: Tenant
) -> None:
    batch = create(client)
    with api.sessions.begin() as session:
        claim = leases.claim(session, BatchRow, batch.id, "test")
        assert claim is not None
        problem = {"code": "empty_file", "message": "Nothing", "param": None, "line": None}
        batches.end(session, claim, "failed", errors=[problem])
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a batch with status 'failed'"):
        client.batches.cancel(batch.id)
    failed = client.batches.retrieve(batch.id)
    assert failed.failed_at is not None
    assert failed.errors is not None
    assert failed.errors.object == "list"
    assert failed.errors.data is not None
    assert failed.errors.data[0].to_dict() == problem


def test_batch_of_another_project_is_an_unknown_one(api: Api, client: openai.OpenAI) -> None:
    batch = create(client)
    with api.client(api.tenant()) as stranger:
        for call in (stranger.batches.retrieve, stranger.batches.cancel):
            replies = []
            for batch_id in (batch.id, "batch_unknown"):
                with pytest.raises(openai.NotFoundError) as caught:
                    call(batch_id)
                replies.append(caught.value.message.replace(batch_id, "ID"))
            assert replies[0] == replies[1]
        assert stranger.batches.list(after=batch.id).data == []
        assert stranger.batches.list().data == []
    assert client.batches.retrieve(batch.id).status == "validating"
