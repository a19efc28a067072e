"""What exports and imports have in common on the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class TransferError(BaseModel):
    code: str
    message: str
    param: str | None
