"""The post of one webhook: signed as standardwebhooks.com has it, and as `client.webhooks.unwrap()` checks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Sequence

from foundation import outbound
from foundation.outbound import TIMEOUT_S

USER_AGENT = "Luthier-Webhooks/1"


def send(
    url: str,
    webhook_id: str,
    body: bytes,
    secrets: Sequence[str],
    *,
    allow_private: bool,
    timeout_s: float = TIMEOUT_S,
) -> int:
    """The status that the receiver answers with. Raises outbound.CannotSend."""
    headers = {
        "content-type": "application/json",
        "user-agent": USER_AGENT,
        **signed_headers(webhook_id, int(time.time()), body, secrets),
    }
    return outbound.post(url, headers, body, allow_private=allow_private, timeout_s=timeout_s)


def signed_headers(
    webhook_id: str, timestamp: int, body: bytes, secrets: Sequence[str]
) -> dict[str, str]:
    """One signature for each secret; `timestamp` in seconds, which receivers hold against their clocks."""
    content = f"{webhook_id}.{timestamp}.".encode() + body
    signatures = [f"v1,{_signature(secret, content)}" for secret in secrets]
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }


def _signature(secret: str, content: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
