"""The page's session in a cookie, and which requests it may speak for.

A browser sends a cookie with every request to this host, whoever wrote the page that asked. So a request that
changes something must come from a page of this very origin: the browser says so itself, in `Sec-Fetch-Site`, or, where
it does not (plain HTTP on another host than this one), by an `Origin` that names this host. It is the rule of Go's
CrossOriginProtection, stricter where a browser says neither.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import Request, Response

from foundation.errors import PermissionDenied

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_CROSS_ORIGIN = (
    "This request came with a session of the page, but not from the page. Send an API key in the "
    "Authorization header instead."
)


def cookie_name(request: Request) -> str:
    """Cookies know no ports, so two servers on one host would overwrite each other's."""
    if request.url.scheme == "https":
        # Kept by browsers only with Secure, Path=/ and no Domain: no neighbouring host can set it.
        return "__Host-luthier"
    return f"luthier_{request.url.port or 80}"


def session_token(request: Request) -> str | None:
    """What the cookie holds. Raises PermissionDenied where it may not be used for this request."""
    token = request.cookies.get(cookie_name(request))
    if token and request.method not in SAFE_METHODS and not is_same_origin(request):
        raise PermissionDenied(_CROSS_ORIGIN, code="cross_origin")
    return token or None


def is_same_origin(request: Request) -> bool:
    """Whether a page of this origin sent the request, as far as the browser says."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("host")


def give(request: Request, response: Response, token: str, max_age_s: int) -> None:
    response.set_cookie(
        cookie_name(request),
        token,
        max_age=max_age_s,
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        # Strict would sign out whoever follows a link from a chat.
        samesite="lax",
    )


def take_back(request: Request, response: Response) -> None:
    give(request, response, "", 0)
