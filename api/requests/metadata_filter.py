"""The query parameter `metadata`: `metadata[key]=value`, once for each pair that must be there."""

from __future__ import annotations

from typing import Any

from fastapi import Request


def parameter(description: str) -> dict[str, Any]:
    """`openapi_extra` of a route that reads it; FastAPI knows no such parameters."""
    return {
        "parameters": [
            {
                "name": "metadata",
                "in": "query",
                "style": "deepObject",
                "description": description,
                "schema": {"type": "object", "additionalProperties": {"type": "string"}},
            }
        ]
    }


def pairs(request: Request) -> dict[str, str]:
    return {
        name[len("metadata[") : -1]: value
        for name, value in request.query_params.multi_items()
        if name.startswith("metadata[") and name.endswith("]")
    }
