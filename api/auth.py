"""Who a request comes from: `Authorization: Bearer <key>`, looked up anew at each request.

There is no cache, so a revoked key stops working at once. The look-up's transaction ends before the
route begins: an upload of minutes holds no connection to the database.

Luthier's own processes know each other by one internal key. With it the header `x-luthier-project` says
whose project a request is for: so a batch's lines go the way that its owner's own requests go.

A request of the page's has no key but a session's cookie (`api.cookies`), which stands for one.
"""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from foundation.errors import PermissionDenied, Unauthenticated
from foundation.headers import PROJECT
from storage.organization import api_keys, sessions
from storage.organization.api_keys import Caller

from . import cookies
from .wiring import Wired, Wiring, of_request

API_KEY = "ApiKey"
"""What the OpenAPI document calls a key in the `Authorization` header."""

_bearer = HTTPBearer(auto_error=False, scheme_name=API_KEY, description="A project's API key.")

_NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header "
    "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY). An operator of this server can give "
    "you one."
)


async def authenticate(
    request: Request,
    wiring: Wired,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    """The caller, by a key of either kind or by a session. Raises Unauthenticated, PermissionDenied."""
    if credentials is None and "authorization" not in request.headers:
        return await _by_session(request, wiring)
    if credentials is None or credentials.scheme.lower() != "bearer":
        raise Unauthenticated(_NO_KEY)
    # A header's bytes come as Latin-1; keys are hashed as UTF-8. A key may hold spaces.
    key = credentials.credentials.encode("latin-1").decode("utf-8", "surrogateescape")
    if _is_internal(key, wiring.settings.internal_key):
        project_id = request.headers.get(PROJECT, "")
        caller = await wiring.database.read(api_keys.internal_caller, project_id)
        if caller is None:
            raise _unknown(key)
        request.state.caller = caller
        return caller
    return await authenticate_key(request, wiring, key)


async def authenticate_key(request: Request, wiring: Wiring, key: str) -> Caller:
    """The caller by a key that stands in a row. Raises Unauthenticated."""
    caller = await wiring.callers.ask(key)
    if caller is None:
        raise _unknown(key)
    request.state.caller = caller
    return caller


async def _by_session(request: Request, wiring: Wiring) -> Caller:
    token = cookies.session_token(request)
    if token is None:
        raise Unauthenticated(_NO_KEY)
    caller = await wiring.database.read(sessions.find_caller, token)
    if caller is None:
        raise Unauthenticated("Your session is over. Sign in again.", code="session_over")
    request.state.caller = caller
    return caller


async def caller_of(request: Request) -> Caller:
    """`authenticate` for those whom FastAPI does not call. Raises Unauthenticated."""
    return await authenticate(request, await of_request(request), await _bearer(request))


async def of_project(caller: Annotated[Caller, Depends(authenticate)]) -> Caller:
    """Raises PermissionDenied."""
    if caller.kind != "project":
        raise PermissionDenied(
            "You have insufficient permissions for this operation: an admin key belongs to no "
            "project. Use a project's key."
        )
    return caller


async def of_organization(caller: Annotated[Caller, Depends(authenticate)]) -> Caller:
    """Raises PermissionDenied."""
    if caller.kind != "admin":
        raise PermissionDenied(
            "You have insufficient permissions for this operation: it needs an admin key."
        )
    return caller


def check_owner(caller: Caller, what: str) -> None:
    """Raises PermissionDenied: `what` is not for everybody who has a key of the project."""
    if not caller.is_owner:
        raise PermissionDenied(
            f"You have insufficient permissions for this operation: {what} needs a key of a service account with the "
            "role 'owner' (an admin key gives it: POST /v1/organization/projects/{project_id}/service_accounts/{id}), "
            "or one that the operator made."
        )


AnyCaller = Annotated[Caller, Depends(authenticate)]
"""The caller by a key of either kind."""

ProjectCaller = Annotated[Caller, Depends(of_project)]
"""The caller by a project's key; everything that the request touches is this project's."""

AdminCaller = Annotated[Caller, Depends(of_organization)]
"""The caller by an admin key, who may look after every project of the organisation."""


def _is_internal(key: str, internal_key: str) -> bool:
    return bool(internal_key) and hmac.compare_digest(
        key.encode("utf-8", "surrogateescape"), internal_key.encode()
    )


def _unknown(key: str) -> Unauthenticated:
    return Unauthenticated(
        f"Incorrect API key provided: {_masked(key)}. You can find your API key with the "
        "operator of this server.",
        code="invalid_api_key",
    )


def _masked(key: str) -> str:
    """Enough to recognise one's own key by, and no more."""
    shown = key[-4:] if len(key) >= 16 else ""
    return f"{key[:3] if shown else ''}***{shown}".encode("ascii", "replace").decode()
