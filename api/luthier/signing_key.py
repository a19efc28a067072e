"""/v1/luthier/signing_key: the public half of the key with which this installation signs its exports' manifests."""

from __future__ import annotations

import base64
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from api.auth import ProjectCaller
from api.wiring import Wired
from storage.models import signing_keys

router = APIRouter(prefix="/v1/luthier/signing_key", tags=["luthier"])


class SigningKey(BaseModel):
    object: Literal["luthier.signing_key"] = "luthier.signing_key"
    algorithm: Literal["ed25519"] = "ed25519"
    public_key: str
    """32 bytes in base64."""


@router.get("")
async def retrieve_signing_key(_: ProjectCaller, wiring: Wired) -> SigningKey:
    """The same for ever, so that it can be kept where exports are checked."""
    key = await wiring.database.run(signing_keys.of_installation, wiring.vault)
    return SigningKey(public_key=base64.b64encode(signing_keys.public_key(key)).decode())
