"""JSON bodies as request models: read once the caller is known, long ones parsed off the event loop."""

from __future__ import annotations

from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from foundation.errors import InvalidRequest
from foundation.invalid_parameters import explain

T = TypeVar("T", bound=BaseModel)


def parse(content: bytes, model: type[T]) -> T:
    """Standard JSON only: no NaN, no lone surrogates, bounded depth. Raises `InvalidRequest`."""
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"We could not parse the JSON body of your request: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The JSON body of your request must be an object.")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise explain(error.errors(include_url=False)) from None
