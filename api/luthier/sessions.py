"""/v1/luthier/sessions: how a browser signs in. A key is given once, for a cookie that no script can read.

The cookie stands for the key in every request without an `Authorization` header; what it may be used for, `api.cookies`
says. A session ends after 12 hours without use, after 7 days in any case, and with its key.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, StringConstraints
from sqlalchemy.orm import Session

from api import cookies
from api.auth import AnyCaller, authenticate_key
from api.pages import Page
from api.requests import bodies
from api.wiring import Wired
from foundation.errors import PermissionDenied
from storage.organization import projects, sessions
from storage.organization.api_keys import Caller
from storage.organization.sessions import SessionRow

router = APIRouter(prefix="/v1/luthier/sessions", tags=["luthier"])


class SignIn(BaseModel):
    api_key: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=512)]
    """A project's, or an admin key."""


class WebSession(BaseModel):
    id: str
    object: Literal["luthier.session"] = "luthier.session"
    created_at: int
    last_used_at: int
    expires_at: int

    @classmethod
    def from_row(cls, row: SessionRow) -> WebSession:
        return cls(
            id=row.id,
            created_at=int(row.created_at.timestamp()),
            last_used_at=int(row.last_used_at.timestamp()),
            expires_at=int(row.expires_at.timestamp()),
        )


class SessionEnded(BaseModel):
    id: str
    object: Literal["luthier.session.ended"] = "luthier.session.ended"
    ended: Literal[True] = True


class Identity(BaseModel):
    """Whom a key or a session stands for."""

    object: Literal["luthier.identity"] = "luthier.identity"
    kind: Literal["project", "admin"]
    key_id: str
    project_id: str | None
    project_name: str | None
    organization_id: str | None


async def _nobody() -> None:
    """Who signs in has no session yet."""


@router.post(
    "",
    openapi_extra={**bodies.document(SignIn), "security": []},
    response_model=WebSession,
)
async def sign_in(
    request: Request,
    body: Annotated[SignIn, Depends(bodies.json_body(SignIn, by=_nobody, max_bytes=4096))],
    wiring: Wired,
) -> Response:
    """Sets the cookie. Asked by the page alone: a foreign page must not sign anybody in as somebody else."""
    if not cookies.is_same_origin(request):
        raise PermissionDenied("Only this server's own page signs in.", code="cross_origin")
    caller = await authenticate_key(request, wiring, body.api_key)
    token = sessions.new_token()
    row = await wiring.database.run(sessions.create, caller.key_id, token)
    response = JSONResponse(WebSession.from_row(row).model_dump())
    cookies.give(request, response, token, sessions.MAX_AGE_S)
    return response


@router.get("")
async def list_sessions(caller: AnyCaller, wiring: Wired) -> Page[WebSession]:
    """Of the caller's key, the last used first."""
    rows = await wiring.database.read(sessions.of_key, caller.key_id)
    return Page(data=[WebSession.from_row(row) for row in rows], has_more=False)


@router.get("/identity")
async def identity(caller: AnyCaller, wiring: Wired) -> Identity:
    return await wiring.database.read(_identity, caller)


@router.delete("/current", response_model=SessionEnded)
async def sign_out(request: Request, caller: AnyCaller, wiring: Wired) -> Response:
    """Ends the session whose cookie came with the request."""
    token = cookies.session_token(request)
    ended = "" if token is None else await wiring.database.run(_end_by_token, caller.key_id, token)
    response = JSONResponse(SessionEnded(id=ended).model_dump())
    cookies.take_back(request, response)
    return response


@router.delete("/{session_id}")
async def end_session(session_id: str, caller: AnyCaller, wiring: Wired) -> SessionEnded:
    await wiring.database.run(sessions.end, caller.key_id, session_id)
    return SessionEnded(id=session_id)


def _identity(session: Session, caller: Caller) -> Identity:
    project = projects.get(session, caller.project_id) if caller.project_id else None
    return Identity(
        kind=caller.kind,
        key_id=caller.key_id,
        project_id=project.id if project else None,
        project_name=project.name if project else None,
        organization_id=caller.organization_id or None,
    )


def _end_by_token(session: Session, key_id: str, token: str) -> str:
    row = sessions.find(session, token)
    if row is None or row.key_id != key_id:
        return ""
    sessions.end(session, key_id, row.id)
    return row.id
