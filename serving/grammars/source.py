"""What a reply shall look like, before it is compiled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import orjson

from foundation.errors import InvalidRequest

MAX_SOURCE_BYTES = 256 * 1024

Kind = Literal["json_schema", "regex", "lark"]


@dataclass(frozen=True)
class GrammarSource:
    """A JSON schema, a regular expression or a grammar in llguidance's dialect of Lark, which may hold `%json {…}`."""

    kind: Kind
    text: str
    param: str = "response_format"
    """The request's parameter that it comes from."""
    what: str = "response_format"
    """What errors call it."""
    is_ours: bool = False
    """It is made of schemas, not written by somebody."""
    shows_special: bool = False
    """Special tokens that it spells are part of the text."""

    def __post_init__(self) -> None:
        """Raises `InvalidRequest` for what is too long to be looked at."""
        num_bytes = len(self.text.encode("utf-8", "replace"))
        if num_bytes > MAX_SOURCE_BYTES:
            raise InvalidRequest(
                f"Invalid {self.noun} for {self.what}: it has {num_bytes} bytes; at most "
                f"{MAX_SOURCE_BYTES} are taken.",
                param=self.param,
                code="grammar_too_large",
            )

    @classmethod
    def json_object(cls, **told: Any) -> GrammarSource:
        """Any JSON object."""
        return cls.json_schema({"type": "object"}, **told)

    @classmethod
    def json_schema(cls, schema: dict[str, Any], **told: Any) -> GrammarSource:
        return cls("json_schema", orjson.dumps(schema).decode(), **told)

    @property
    def noun(self) -> str:
        return {"json_schema": "schema", "regex": "regular expression", "lark": "grammar"}[
            self.kind
        ]

    def refusal(self, reason: object) -> InvalidRequest:
        """What a request hears of a source that cannot be compiled."""
        return InvalidRequest(
            f"Invalid {self.noun} for {self.what}: {reason}",
            param=self.param,
            code="invalid_json_schema" if self.kind == "json_schema" else "invalid_grammar",
        )

    @cached_property
    def digest(self) -> bytes:
        return hashlib.sha256(f"{self.kind} {self.is_ours}\n{self.text}".encode()).digest()
