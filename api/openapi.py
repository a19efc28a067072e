"""The OpenAPI document: FastAPI's, with what FastAPI cannot see put in and what is not so taken out."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from api.gateway.event_stream import MEDIA_TYPE

from .auth import API_KEY
from .requests import bodies

Json = dict[str, Any]

_REF = "#/components/schemas/"
_ORGANIZATION = "/v1/organization/"
_ADMIN_KEY = "AdminKey"

_ALWAYS = ("x-request-id", "openai-processing-ms", "openai-version")
_HEADERS: Json = {
    name: {"description": text, "required": True, "schema": schema}
    for name, text, schema in (
        (
            "x-request-id",
            "Names the request in the server's log.",
            {"type": "string", "pattern": "^req_[0-9a-f]{32}$"},
        ),
        ("openai-processing-ms", "Until the reply began.", {"type": "integer", "minimum": 0}),
        ("openai-version", "The version of OpenAI's API.", {"type": "string"}),
        ("retry-after", "Seconds to wait before trying again.", {"type": "integer", "minimum": 1}),
    )
}


def document(app: FastAPI) -> Json:
    """Made once, when first asked for."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
        )
        _remove_422(made)
        _add_bodies(made)
        _tell_keys_apart(made)
        _add_headers(made)
        _tell_of_events(made)
        app.openapi_schema = made
    return app.openapi_schema


def _remove_422(made: Json) -> None:
    """FastAPI documents its own reply to a bad parameter; here that is a 400."""
    for path in made["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        made["components"]["schemas"].pop(name, None)


def _add_bodies(made: Json) -> None:
    """The schemas of the bodies that `bodies` reads, and of all that they hold."""
    schemas: Json = made["components"]["schemas"]
    models = bodies.documented()
    refs, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REF + "{model}"
    )
    found: Json = definitions.get("$defs", {})
    # A name that means something else in a reply gets the suffix that FastAPI gives it, too.
    new_names = {
        name: f"{name}-Input" if schemas.get(name, schema) != schema else name
        for name, schema in found.items()
    }
    schemas |= {new_names[name]: _renamed(schema, new_names) for name, schema in found.items()}
    for model in models:
        meant = _renamed(refs[model, "validation"], new_names)
        for operation in _operations(made):
            _point(operation, {"$ref": bodies.reference(model)}, meant)


def _tell_keys_apart(made: Json) -> None:
    """The organisation's routes want a key of another kind than all the others, sent in the same way."""
    schemes: Json = made["components"]["securitySchemes"]
    schemes[_ADMIN_KEY] = {**schemes[API_KEY], "description": "An admin key."}
    for path, operations in made["paths"].items():
        if path.startswith(_ORGANIZATION):
            for operation in operations.values():
                operation["security"] = [{_ADMIN_KEY: []}]


def _add_headers(made: Json) -> None:
    """Those that `request_id` gives every reply, and `errors` those that ask for patience."""
    made["components"]["headers"] = _HEADERS
    for operation in _operations(made):
        for status, reply in operation["responses"].items():
            # /readyz answers 503, too, and asks for no patience: it has no key.
            is_asking = status == "503" and "security" in operation
            names = [*_ALWAYS, *(["retry-after"] if is_asking else [])]
            reply["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _tell_of_events(made: Json) -> None:
    """A stream's schema is that of each of its events; their data is JSON, or `[DONE]`."""
    fields = {
        "data": "JSON, or `[DONE]` at the end.",
        "event": "Its kind, where there are several.",
        "id": "Where to go on: send it as `last-event-id`.",
    }
    made["components"]["schemas"]["StreamedEvent"] = {
        "type": "object",
        "description": "One event of a stream.",
        "required": ["data"],
        "properties": {
            name: {"type": "string", "description": text} for name, text in fields.items()
        },
    }
    for operation in _operations(made):
        for reply in operation["responses"].values():
            if MEDIA_TYPE in reply.get("content", {}):
                reply["content"][MEDIA_TYPE] = {"schema": {"$ref": f"{_REF}StreamedEvent"}}


def _operations(made: Json) -> list[Json]:
    return [operation for path in made["paths"].values() for operation in path.values()]


def _point(operation: Json, placeholder: Json, meant: Json) -> None:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        if content.get("schema") == placeholder:
            content["schema"] = meant


def _renamed(schema: Any, new_names: dict[str, str]) -> Any:
    """The document with every reference to one of the names turned to its new name."""
    if isinstance(schema, dict):
        return {
            key: _new_reference(value, new_names)
            if key == "$ref" and isinstance(value, str)
            else _renamed(value, new_names)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [_renamed(item, new_names) for item in schema]
    return schema


def _new_reference(reference: str, new_names: dict[str, str]) -> str:
    name = re.sub(f"^{re.escape(_REF)}", "", reference)
    return _REF + new_names.get(name, name)
