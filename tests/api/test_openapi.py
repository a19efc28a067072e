"""The OpenAPI document is complete, and the api keeps to it whatever it is sent (schemathesis)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from api.app import create_app
from foundation.settings import Settings

Json = dict[str, Any]
APP: FastAPI = create_app(Settings())
DOCUMENT: Json = APP.openapi()
OPERATIONS: list[tuple[str, str]] = [
    (method, path) for path, operations in DOCUMENT["paths"].items() for method in operations
]


def operation(method: str, path: str) -> Json:
    found: Json = DOCUMENT["paths"][path][method]
    return found


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "$ref":
                yield item
            else:
                yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_every_reference_leads_somewhere() -> None:
    for reference in references(DOCUMENT):
        found: Any = DOCUMENT
        assert reference.startswith("#/"), reference
        for part in reference[2:].split("/"):
            found = found[part]


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [operation(*it)["operationId"] for it in OPERATIONS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z_0-9]+", name) for name in names)


@pytest.mark.parametrize("it", [it for it in OPERATIONS if it[1].startswith("/v1/")], ids=" ".join)
def test_operation_tells_its_key_its_errors_and_what_it_gives(it: tuple[str, str]) -> None:
    told = operation(*it)
    key = "AdminKey" if it[1].startswith("/v1/organization/") else "ApiKey"
    # Who signs in gives the key in the body.
    assert told["security"] == ([] if told["operationId"] == "sign_in" else [{key: []}])
    assert {"400", "401", "403", "404", "500", "503"} <= set(told["responses"])
    # Two where what was asked for may still be under way.
    given = [reply for status, reply in told["responses"].items() if status < "300"]
    assert given
    assert all(content["schema"] for reply in given for content in reply["content"].values())
    for reply in told["responses"].values():
        assert "x-request-id" in reply["headers"]


def test_what_may_be_left_out_is_not_required() -> None:
    body = operation("post", "/v1/webhook_endpoints/{webhook_endpoint_id}/rotate_secret")
    assert body["requestBody"]["required"] is False
    body = operation("post", "/v1/fine_tuning/jobs")
    assert body["requestBody"]["required"] is True
