"""Bodies whose arrays and objects are nested as deeply as may be, on their way through and into rows and replies."""

from __future__ import annotations

from typing import Any

from api.requests.bodies import MAX_NESTED
from tests.api.stack import Api, Tenant

from .fake_backend import FakeBackend
from .test_inference import gateway

MESSAGE = {"role": "user", "content": "x"}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def bodies(deep: Any) -> list[tuple[str, dict[str, Any]]]:
    """Wherever a request may hold any JSON."""
    tool = {"type": "function", "name": "f", "parameters": deep}
    format = {"type": "json_schema", "name": "x", "schema": deep}
    response = {"input": "x", "tools": [tool], "text": {"format": format}, "tool_choice": "auto"}
    chat = {"messages": [MESSAGE], "tools": [{"type": "function", "function": tool}]}
    return [
        ("responses", response),
        ("responses", {**response, "stream": True}),
        ("responses", {**response, "background": True}),
        ("responses", {"input": [{**MESSAGE, "of": deep}], "luthier": deep}),
        ("chat/completions", {**chat, "store": True}),
        ("chat/completions", {**chat, "stream": True}),
        ("completions", {"prompt": "x", "luthier": deep}),
    ]


def test_what_is_put_around_what_is_just_not_too_deep_has_room(api: Api, tenant: Tenant) -> None:
    with gateway(api, FakeBackend()) as front, front.http(tenant) as http:
        for number in range(len(bodies(1))):
            seen = set()
            for depth in range(MAX_NESTED - 5, MAX_NESTED + 1):
                path, body = bodies(nested(depth))[number]
                reply = http.post(f"/v1/{path}", json={"model": "tiny-random", **body})
                assert reply.status_code in (200, 400), (number, depth, reply.text)
                assert "response.failed" not in reply.text
                seen.add(reply.status_code)
            assert seen == {200, 400}, number
