"""Templates into replies. Everything that a template shows is escaped, and a name that it does not get is an error.

Links are relative, told by the depth of the page's own path, so the page works behind any path prefix without knowing it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from . import files, wording

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types luthier",
    ]
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}
THEMES = ("light", "dark")
THEME_COOKIE = "luthier_theme"

_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
for _word in ("number", "size", "duration", "iso", "utc", "name", "state", "icon"):
    _environment.filters[_word] = getattr(wording, _word)


def root(request: Request) -> str:
    """From the page's address to the server's, as a relative one."""
    return "../" * (request.url.path.count("/") - 1) or "./"


def page(request: Request, template: str, status_code: int = 200, **values: Any) -> HTMLResponse:
    """`values` are the template's."""
    theme = request.cookies.get(THEME_COOKIE, "")
    above = root(request)
    html = _environment.get_template(template).render(
        root=above,
        dashboard=f"{above}dashboard",
        static=f"{above}dashboard/static/{files.DIGEST}",
        theme=theme if theme in THEMES else "",
        path=request.url.path,
        **values,
    )
    return HTMLResponse(html, status_code, HEADERS)
