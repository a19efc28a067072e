"""The page's routes: the api adds `routes(app)` to its own, and hands itself in as `app`."""

from __future__ import annotations

from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from . import files, jobs, rendering
from .asking import ApiOfViewer, ApiRefused
from .viewing import View, Viewer, safe_next, see_other, signed_in


def routes(app: ASGIApp) -> list[Route]:
    """`app` answers the public API."""

    async def sign_in(request: Request) -> Response:
        """Works without a script: the form is posted here, and the API's cookie passed on."""
        if request.method == "GET":
            return _sign_in_page(request, request.query_params.get("next", ""), None)
        form = await request.form()
        wanted = safe_next(str(form.get("next", "")))
        asking = ApiOfViewer(app, request)
        try:
            body = {"api_key": str(form.get("api_key", ""))}
            reply = await asking.post("/v1/luthier/sessions", body)
        except ApiRefused as refused:
            return _sign_in_page(request, wanted, refused)
        finally:
            await asking.close()
        response = see_other(request, wanted)
        for cookie in reply.headers.get_list("set-cookie"):
            response.headers.append("set-cookie", cookie)
        return response

    def view(path: str, of: View, *methods: str) -> Route:
        return Route(f"/dashboard/{path}", signed_in(app, of), methods=methods or ("GET",))

    return [
        Route("/dashboard/static/{digest}/{name}", _static),
        Route("/dashboard/sign-in", sign_in, methods=["GET", "POST"]),
        Route("/", _front),
        Route("/dashboard", _to_jobs),
        Route("/dashboard/", _to_jobs),
        view("sign-out", _sign_out, "POST"),
        view("jobs", jobs.listed),
        view("jobs/{job_id}", jobs.one),
        view("jobs/{job_id}/status", jobs.status),
        view("jobs/{job_id}/{action}", jobs.act, "POST"),
        view("new", jobs.new, "GET", "POST"),
        view("new/preview", jobs.preview, "POST"),
        view("playground", _playground),
        view("models", _models),
        view("models/delete", _delete_model, "POST"),
        view("files", _files),
        view("files/{file_id}/delete", _delete_file, "POST"),
        view("system", _system),
        view("sessions/{session_id}/end", _end_session, "POST"),
    ]


def _sign_in_page(request: Request, wanted: str, refused: ApiRefused | None) -> Response:
    problem = None
    if refused is not None:
        problem = {"message": refused.message, "request_id": refused.request_id}
    is_local = request.url.hostname in ("127.0.0.1", "localhost", "::1")
    return rendering.page(
        request,
        "sign_in.html",
        200 if refused is None else refused.status,
        next=safe_next(wanted),
        problem=problem,
        is_secure=request.url.scheme == "https" or is_local,
    )


async def _static(request: Request) -> Response:
    return files.static(request.path_params["digest"], request.path_params["name"])


async def _front(request: Request) -> Response:
    """A browser is shown the page; a client that left `/v1` out of its address is told so, as for every unknown path."""
    if "text/html" not in request.headers.get("accept", ""):
        raise HTTPException(404)
    return await _to_jobs(request)


async def _to_jobs(request: Request) -> Response:
    return RedirectResponse(f"{rendering.root(request)}dashboard/jobs", 303)


async def _sign_out(request: Request, viewer: Viewer) -> Response:
    reply = await viewer.ask.delete("/v1/luthier/sessions/current")
    response = see_other(request, "sign-in")
    for cookie in reply.headers.get_list("set-cookie"):
        response.headers.append("set-cookie", cookie)
    return response


async def _playground(request: Request, viewer: Viewer) -> Response:
    models = (await viewer.ask.get("/v1/models"))["data"]
    asked = request.query_params.get("model", "")
    # A tuned model is looked at beside its base, whose name stands in its own.
    base = asked.split(":")[1] if asked.count(":") >= 2 else ""
    first = asked or (models[-1]["id"] if models else "")
    return viewer.page(
        request, "playground.html", "playground", models=models, chosen=(first, base)
    )


async def _models(request: Request, viewer: Viewer) -> Response:
    models = (await viewer.ask.get("/v1/models"))["data"]
    aliases = (await viewer.ask.get("/v1/luthier/aliases"))["data"]
    return viewer.page(
        request,
        "models.html",
        "models",
        tuned=[model for model in models if model["owned_by"] != "system"],
        bases=[model for model in models if model["owned_by"] == "system"],
        aliases=aliases,
    )


async def _delete_model(request: Request, viewer: Viewer) -> Response:
    name = str((await request.form()).get("model", ""))
    await viewer.ask.delete(f"/v1/models/{quote(name, safe='')}")
    return see_other(request, "models")


async def _files(request: Request, viewer: Viewer) -> Response:
    after = request.query_params.get("after", "")
    page = await viewer.ask.get("/v1/files", {"limit": 25, **({"after": after} if after else {})})
    return viewer.page(request, "files.html", "files", page=page)


async def _delete_file(request: Request, viewer: Viewer) -> Response:
    await viewer.ask.delete(f"/v1/files/{quote(request.path_params['file_id'], safe='')}")
    return see_other(request, "files")


async def _system(request: Request, viewer: Viewer) -> Response:
    try:
        ready = await viewer.ask.get("/readyz")
    except ApiRefused:
        ready = {"status": "not ready", "checks": {}}
    sessions = (await viewer.ask.get("/v1/luthier/sessions"))["data"]
    return viewer.page(request, "system.html", "system", ready=ready, sessions=sessions)


async def _end_session(request: Request, viewer: Viewer) -> Response:
    session_id = quote(request.path_params["session_id"], safe="")
    await viewer.ask.delete(f"/v1/luthier/sessions/{session_id}")
    return see_other(request, "system")
