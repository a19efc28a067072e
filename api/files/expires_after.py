"""`expires_after`: how long a file is kept, as an object of JSON or as fields of a form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from foundation.errors import InvalidRequest

MIN_S, MAX_S = 3600, 2592000


class ExpiresAfter(BaseModel):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(strict=True, ge=MIN_S, le=MAX_S)]


def of_form(fields: Mapping[str, str]) -> int | None:
    """The seconds in `expires_after[anchor]` and `expires_after[seconds]`. Raises InvalidRequest."""
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest(
            f"{anchor!r} is not one of ['created_at'] - 'expires_after.anchor'",
            param="expires_after.anchor",
        )
    is_number = seconds is not None and re.fullmatch(r"[0-9]{1,10}", seconds)
    if not is_number or not MIN_S <= int(seconds or "") <= MAX_S:
        raise InvalidRequest(
            f"Invalid 'expires_after.seconds': expected an integer between {MIN_S} and "
            f"{MAX_S}, but got {seconds!r} instead.",
            param="expires_after.seconds",
        )
    return int(seconds or "")
