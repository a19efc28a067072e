from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from foundation.settings import Settings
from storage.webhooks.webhooks import EVENT_TYPES
from tests.api.stack import Api, Tenant, running_api
from tests.receiver import receiver

URL = "https://1.1.1.1/hook"


@pytest.fixture
def open_client(settings: Settings) -> Iterator[openai.OpenAI]:
    """Of an api that posts to addresses of the inside, too."""
    with running_api(settings.replace(webhook_allow_private=True)) as api:
        yield api.client(api.tenant())


def test_endpoint_is_created_listed_changed_and_deleted(client: openai.OpenAI) -> None:
    assert client.webhooks.event_types.list().data == list(EVENT_TYPES)
    made = client.webhooks.create(
        name="Mine", url=URL, event_types=["batch.failed", "fine_tuning.job.failed"]
    )
    assert made.signing_secret.startswith("whsec_")
    assert made.signing_secret_hint == f"whsec_...{made.signing_secret[-5:]}"
    assert made.updated_at == made.created_at
    second = client.webhooks.create(name="Second", url=URL, event_types=["batch.failed"])

    page = client.webhooks.list(limit=1)
    assert [it.id for it in page.data] == [second.id]
    assert [it.id for it in client.webhooks.list(limit=1)] == [second.id, made.id]
    assert [it.id for it in client.webhooks.list(after=second.id)] == [made.id]

    changed = client.webhooks.update(made.id, name="Renamed", event_types=["batch.completed"])
    assert (changed.name, changed.url, changed.event_types) == ("Renamed", URL, ["batch.completed"])
    retrieved = client.webhooks.retrieve(made.id)
    assert retrieved == changed
    assert made.signing_secret not in retrieved.to_json()

    deleted = client.webhooks.delete(made.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (
        made.id,
        True,
        "webhook_endpoint.deleted",
    )
    with pytest.raises(openai.NotFoundError):
        client.webhooks.retrieve(made.id)


@pytest.mark.parametrize(
    "url",
    [
        "http://1.1.1.1/", "https://127.0.0.1/", "https://169.254.169.254/", "https://localhost/",
        "https://[::1]:8000/", "https://no-such-name.invalid/", "file:///etc/passwd", "x",
    ],
)  # fmt: skip
def test_url_of_the_inside_is_refused(client: openai.OpenAI, url: str) -> None:
    kept = client.webhooks.create(name="Mine", url=URL, event_types=["batch.failed"])
    with pytest.raises(openai.BadRequestError) as refused:
        client.webhooks.create(name="Mine", url=url, event_types=["batch.failed"])
    assert (refused.value.param, refused.value.code) == ("url", "invalid_value")
    with pytest.raises(openai.BadRequestError):
        client.webhooks.update(kept.id, url=url)
    assert client.webhooks.retrieve(kept.id).url == URL


def test_event_that_is_never_sent_cannot_be_asked_for(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.webhooks.create(name="Mine", url=URL, event_types=["video.completed"])
    assert refused.value.param == "event_types.0"
    with pytest.raises(openai.BadRequestError):
        client.webhooks.create(name="Mine", url=URL, event_types=[])


def test_rotated_secret_is_shown_once_and_the_body_may_be_missing(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    made = client.webhooks.create(name="Mine", url=URL, event_types=["batch.failed"])
    rotated = client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
    assert rotated.signing_secret != made.signing_secret
    with api.http(tenant) as http:
        again = http.post(f"/v1/webhook_endpoints/{made.id}/rotate_secret")
    assert again.json()["signing_secret"] not in (made.signing_secret, rotated.signing_secret)


def test_test_event_is_delivered_and_its_answer_told(open_client: openai.OpenAI) -> None:
    with receiver() as it:
        made = open_client.webhooks.create(
            name="Mine", url=f"{it.url}/in", event_types=["batch.failed"]
        )
        it.answers = [200, 503]
        statuses = [
            open_client.webhooks.test(made.id, event_type=type).status_code
            for type in ("fine_tuning.job.succeeded", "batch.failed")
        ]
    assert statuses == [200, 503]
    events = [
        open_client.webhooks.unwrap(got.body, got.headers, secret=made.signing_secret)
        for got in it.received
    ]
    assert [event.type for event in events] == ["fine_tuning.job.succeeded", "batch.failed"]


def test_test_event_that_nobody_takes_is_an_error_in_words(open_client: openai.OpenAI) -> None:
    with receiver() as it:
        made = open_client.webhooks.create(name="Mine", url=it.url, event_types=["batch.failed"])
    with pytest.raises(openai.BadRequestError) as refused:
        open_client.webhooks.test(made.id, event_type="batch.failed")
    assert refused.value.code == "webhook_delivery_failed"
