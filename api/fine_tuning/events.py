"""/v1/fine_tuning/jobs/{id}/events: what happened, newest first; or as a stream, oldest first."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy.orm import Session

from api.auth import ProjectCaller, caller_of, of_project
from api.gateway.event_stream import MEDIA_TYPE
from api.pages import After, Page, limit
from api.wiring import Wired, Wiring, of_request
from storage.jobs import jobs
from storage.jobs.events import EventRow

from . import job_stream
from .event import FineTuningJobEvent
from .job_stream import Mark, Place
from .stream_seats import SeatedStream

PLAIN_QUERY = re.compile(rb"(?:after=([\w-]+)(?:&|$))?(?:limit=(\d{1,3}))?")


class Polled(APIRoute):
    """Crowds poll this route: FastAPI's way of finding out what a function wants costs as much as all the
    rest of an answer, so plain polls are answered without it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def poll(request: Request) -> Response:
            plain = PLAIN_QUERY.fullmatch(request.scope["query_string"])
            if plain is None:
                return await handler(request)
            caller = await of_project(await caller_of(request))
            after, limit = plain.groups()
            return await list_events(
                request.path_params["fine_tuning_job_id"],
                caller,
                await of_request(request),
                after=after.decode() if after else None,
                limit=int(limit) if limit else DEFAULT_LIMIT,
            )

        return poll


router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], route_class=Polled)

DEFAULT_LIMIT = 20

STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": (
            "A page, newest first; or, with `stream=true`, server-sent events, oldest first: each has "
            "the event's id as `id`, `message` as `event` and the event as `data`. Lines that begin "
            "with a colon keep the connection alive. When the job is over, `data: [DONE]` ends the "
            "stream; a stream that ends without it goes on where a new one names the last id that came."
        ),
        "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
    }
}

Stream = Annotated[bool, Query(description="Follow the job until it ends, as server-sent events.")]
LastEventId = Annotated[
    str | None,
    Header(description="With `stream`: go on behind this event. It goes before `after`."),
]


@router.get(
    "/{fine_tuning_job_id}/events", response_model=Page[FineTuningJobEvent], responses=STREAM
)
async def list_events(
    fine_tuning_job_id: str,
    caller: ProjectCaller,
    wiring: Wired,
    after: After = None,
    limit: Annotated[int, limit(1000)] = DEFAULT_LIMIT,
    stream: Stream = False,
    last_event_id: LastEventId = None,
) -> Response:
    if not stream:
        page = await wiring.event_pages.get(
            caller.project_id, fine_tuning_job_id, after=after, limit=limit
        )
        return Response(page, media_type="application/json")
    place, seat = await job_stream.begin(
        wiring, caller, _place, caller.project_id, fine_tuning_job_id, last_event_id or after
    )
    return SeatedStream(_chunks(wiring, place), seat)


def _place(session: Session, project_id: str, job_id: str, after: str | None) -> Place:
    return job_stream.place(session, jobs.get(session, project_id, job_id), after)


async def _chunks(wiring: Wiring, place: Place) -> AsyncIterator[bytes]:
    async with aclosing(job_stream.follow(wiring, place)) as followed:
        async for it in followed:
            if isinstance(it, Mark):
                yield job_stream.DONE if it is Mark.END else job_stream.HEARTBEAT
            else:
                for chunk in job_stream.joined(_sse(wiring, row) for row in it):
                    yield chunk


def _sse(wiring: Wiring, row: EventRow) -> bytes:
    # "message" is what a browser's EventSource takes to be the default.
    data = wiring.event_pages.rendered(row)
    return b"id: %b\nevent: message\ndata: %b\n\n" % (row.id.encode(), data)
