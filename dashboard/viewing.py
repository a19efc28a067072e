"""What all views share: who looks, what the API said, and what is shown where it refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp

from . import rendering
from .asking import ApiOfViewer, ApiRefused, Json

View = Callable[[Request, "Viewer"], Awaitable[Response]]

HEADINGS = {
    403: "This is not for your key",
    404: "There is nothing here",
    503: "The server cannot answer right now",
}
ADVICE = {
    403: "Sign in with another key, or ask the operator of this server.",
    404: "It was deleted, or it is another project's.",
    503: "Nothing is lost. Try again in a few seconds.",
}


class Viewer:
    """A browser that is signed in."""

    def __init__(self, asking: ApiOfViewer, identity: Json) -> None:
        self.ask = asking
        self.identity = identity

    def page(self, request: Request, template: str, view: str, **values: Any) -> HTMLResponse:
        return rendering.page(request, template, view=view, identity=self.identity, **values)


def signed_in(app: ASGIApp, view: View) -> Callable[[Request], Awaitable[Response]]:
    """The view as an endpoint. Whoever is not signed in is asked to, and comes back to where they wanted to go."""

    async def endpoint(request: Request) -> Response:
        asking = ApiOfViewer(app, request)
        viewer = None
        try:
            viewer = Viewer(asking, await asking.get("/v1/luthier/sessions/identity"))
            return await view(request, viewer)
        except ApiRefused as refused:
            return _refusal(request, refused, viewer)
        finally:
            await asking.close()

    return endpoint


def see_other(request: Request, path: str) -> Response:
    """To another view, behind whatever path prefix: `path` is below `dashboard/`."""
    return RedirectResponse(f"{rendering.root(request)}dashboard/{path}", 303, rendering.HEADERS)


def safe_next(path: str) -> str:
    """Where to go after signing in: a view of ours, else the jobs. Never another host."""
    parts = urlsplit(path)
    is_ours = (
        not parts.scheme and not parts.netloc and "\\" not in path and not path.startswith("/")
    )
    return path if is_ours and path and ".." not in path else "jobs"


def _refusal(request: Request, refused: ApiRefused, viewer: Viewer | None) -> Response:
    is_part = "x-part" in request.headers
    if refused.is_sign_in_needed and not is_part:
        here = request.url.path.partition("/dashboard/")[2]
        return see_other(request, f"sign-in?next={quote(here)}")
    if is_part:
        # A script asked, which tells the reader itself.
        return Response(refused.message, refused.status, media_type="text/plain")
    return rendering.page(
        request,
        "error.html",
        refused.status,
        view="",
        identity=viewer.identity if viewer else None,
        problem={"message": refused.message, "request_id": refused.request_id},
        heading=HEADINGS.get(refused.status, "That did not work"),
        advice=ADVICE.get(refused.status, "Go back, mend it, and try again."),
    )
