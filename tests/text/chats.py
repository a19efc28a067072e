"""Messages of a chat, as clients write them."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def user(text: str) -> Json:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> Json:
    return {"role": "assistant", "content": text, **more}
