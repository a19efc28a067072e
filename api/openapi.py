"""The OpenAPI document: FastAPI's, with what FastAPI cannot see put in and what is not so taken out."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from . import bodies

Json = dict[str, Any]

_REF = "#/components/schemas/"


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


def _operations(made: Json) -> list[Json]:
    return [operation for path in made["paths"].values() for operation in path.values()]


def _point(operation: Json, placeholder: Json, meant: Json) -> None:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        if content.get("schema") == placeholder:
            content["schema"] = meant


def _renamed(schema: Any, new_names: dict[str, str]) -> Any:
    """With every reference to one of the names turned to its new name."""
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
