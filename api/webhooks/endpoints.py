"""/v1/webhook_endpoints: where a project hears of its jobs and batches. /v1/webhook_event_types: of what."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from api.auth import ProjectCaller
from api.idempotency import CreatesSecretOnce
from api.pages import After, PageWithIds, ends, limit
from api.requests import bodies
from api.requests.fields import Name, NoNul
from api.wiring import Wired
from foundation import outbound
from foundation.errors import InvalidRequest
from foundation.outbound import CannotSend
from foundation.vault import Vault
from storage.ids import new_id
from storage.webhooks import deliveries as webhook_deliveries
from storage.webhooks import post as webhook_post
from storage.webhooks import webhooks
from storage.webhooks.webhooks import EVENT_TYPES, EventType, WebhookEndpointRow

router = APIRouter(prefix="/v1", tags=["webhooks"], route_class=CreatesSecretOnce)

# A name server or a receiver that hangs must not hold up anything else.
_posting = anyio.CapacityLimiter(8)

Url = Annotated[str, Field(min_length=1, max_length=outbound.MAX_URL_CHARS), NoNul]
EventTypes = Annotated[list[EventType], Field(min_length=1, max_length=100)]


class CreateWebhookEndpoint(BaseModel):
    name: Name
    url: Url
    event_types: EventTypes


class UpdateWebhookEndpoint(BaseModel):
    """What is left out stays."""

    name: Name | None = None
    url: Url | None = None
    event_types: EventTypes | None = None


class RotateWebhookSecret(BaseModel):
    keep_old_secret_active_for_24_hours: bool = False


class TestWebhookEndpoint(BaseModel):
    event_type: EventType


class WebhookEndpoint(BaseModel):
    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    created_at: int
    event_types: list[str]
    name: str
    signing_secret_hint: str
    updated_at: int
    url: str

    @classmethod
    def from_row(cls, row: WebhookEndpointRow, vault: Vault) -> WebhookEndpoint:
        return cls(**_fields(row, webhooks.opened(vault, row.id, row.secret)))


class WebhookEndpointWithSecret(WebhookEndpoint):
    """Only these two replies show the secret: to creating the endpoint and to rotating its secret."""

    signing_secret: str

    @classmethod
    def from_row(cls, row: WebhookEndpointRow, vault: Vault) -> WebhookEndpointWithSecret:
        secret = webhooks.opened(vault, row.id, row.secret)
        return cls(signing_secret=secret, **_fields(row, secret))


class WebhookEndpointDeleted(BaseModel):
    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: Literal[True] = True


class WebhookEndpointTested(BaseModel):
    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    event_type: str
    status_code: int
    success: Literal[True] = True
    webhook_endpoint_id: str


class WebhookEventTypes(BaseModel):
    object: Literal["list"] = "list"
    data: list[str]


@router.get("/webhook_event_types")
async def list_event_types(caller: ProjectCaller) -> WebhookEventTypes:  # noqa: ARG001
    return WebhookEventTypes(data=list(EVENT_TYPES))


@router.post("/webhook_endpoints", openapi_extra=bodies.document(CreateWebhookEndpoint))
async def create_endpoint(
    body: Annotated[CreateWebhookEndpoint, Depends(bodies.json_body(CreateWebhookEndpoint))],
    caller: ProjectCaller,
    wiring: Wired,
) -> WebhookEndpointWithSecret:
    await _check_url(body.url, wiring)
    row = await wiring.database.run(
        webhooks.create,
        caller.project_id,
        wiring.vault,
        name=body.name,
        url=body.url,
        event_types=body.event_types,
    )
    return WebhookEndpointWithSecret.from_row(row, wiring.vault)


@router.get("/webhook_endpoints")
async def list_endpoints(
    caller: ProjectCaller,
    wiring: Wired,
    after: After = None,
    limit: Annotated[int, limit(100)] = 20,
) -> PageWithIds[WebhookEndpoint]:
    """Newest first."""
    page = await wiring.database.run(webhooks.page, caller.project_id, after=after, limit=limit)
    data = [WebhookEndpoint.from_row(row, wiring.vault) for row in page.rows]
    return PageWithIds(data=data, has_more=page.has_more, **ends([it.id for it in data]))


@router.get("/webhook_endpoints/{webhook_endpoint_id}")
async def retrieve_endpoint(
    webhook_endpoint_id: str, caller: ProjectCaller, wiring: Wired
) -> WebhookEndpoint:
    row = await wiring.database.run(webhooks.get, caller.project_id, webhook_endpoint_id)
    return WebhookEndpoint.from_row(row, wiring.vault)


@router.post(
    "/webhook_endpoints/{webhook_endpoint_id}",
    openapi_extra=bodies.document(UpdateWebhookEndpoint),
)
async def update_endpoint(
    webhook_endpoint_id: str,
    body: Annotated[UpdateWebhookEndpoint, Depends(bodies.json_body(UpdateWebhookEndpoint))],
    caller: ProjectCaller,
    wiring: Wired,
) -> WebhookEndpoint:
    await wiring.database.run(webhooks.get, caller.project_id, webhook_endpoint_id)
    if body.url is not None:
        await _check_url(body.url, wiring)
    row = await wiring.database.run(
        webhooks.update,
        caller.project_id,
        webhook_endpoint_id,
        name=body.name,
        url=body.url,
        event_types=body.event_types,
    )
    return WebhookEndpoint.from_row(row, wiring.vault)


@router.delete("/webhook_endpoints/{webhook_endpoint_id}")
async def delete_endpoint(
    webhook_endpoint_id: str, caller: ProjectCaller, wiring: Wired
) -> WebhookEndpointDeleted:
    """What was still to be delivered to it is not delivered any more."""
    await wiring.database.run(webhooks.remove, caller.project_id, webhook_endpoint_id)
    return WebhookEndpointDeleted(id=webhook_endpoint_id)


@router.post(
    "/webhook_endpoints/{webhook_endpoint_id}/rotate_secret",
    openapi_extra=bodies.document(RotateWebhookSecret, is_required=False),
)
async def rotate_secret(
    webhook_endpoint_id: str,
    body: Annotated[
        RotateWebhookSecret, Depends(bodies.json_body(RotateWebhookSecret, is_required=False))
    ],
    caller: ProjectCaller,
    wiring: Wired,
) -> WebhookEndpointWithSecret:
    row = await wiring.database.run(
        webhooks.rotate_secret,
        caller.project_id,
        webhook_endpoint_id,
        wiring.vault,
        keep_old=body.keep_old_secret_active_for_24_hours,
    )
    return WebhookEndpointWithSecret.from_row(row, wiring.vault)


@router.post(
    "/webhook_endpoints/{webhook_endpoint_id}/test",
    openapi_extra=bodies.document(TestWebhookEndpoint),
)
async def test_endpoint(
    webhook_endpoint_id: str,
    body: Annotated[TestWebhookEndpoint, Depends(bodies.json_body(TestWebhookEndpoint))],
    caller: ProjectCaller,
    wiring: Wired,
) -> WebhookEndpointTested:
    """Sends an event of a job or batch that does not exist, now and once."""
    row = await wiring.database.run(webhooks.get, caller.project_id, webhook_endpoint_id)
    kept = await wiring.database.run(webhooks.live_secrets, row)
    secrets = [webhooks.opened(wiring.vault, row.id, each) for each in kept]
    send = partial(
        webhook_post.send,
        row.url,
        new_id("wh_"),
        webhook_deliveries.sample_body(body.event_type),
        secrets,
        allow_private=wiring.settings.webhook_allow_private,
    )
    try:
        status = await run_sync(send, limiter=_posting, abandon_on_cancel=True)
    except CannotSend as error:
        raise InvalidRequest(
            f"The test event could not be delivered: {error}", code="webhook_delivery_failed"
        ) from None
    return WebhookEndpointTested(
        event_type=body.event_type, status_code=status, webhook_endpoint_id=row.id
    )


async def _check_url(url: str, wiring: Wired) -> None:
    """Raises InvalidRequest for what would never be posted to."""
    check = partial(outbound.check_url, url, allow_private=wiring.settings.webhook_allow_private)
    await run_sync(check, limiter=_posting, abandon_on_cancel=True)


def _fields(row: WebhookEndpointRow, secret: str) -> dict[str, object]:
    return {
        "id": row.id,
        "created_at": int(row.created_at.timestamp()),
        "event_types": row.event_types,
        "name": row.name,
        "signing_secret_hint": f"whsec_...{secret[-5:]}",
        "updated_at": int(row.updated_at.timestamp()),
        "url": row.url,
    }
