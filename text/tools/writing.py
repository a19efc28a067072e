"""What a base's chat template writes around the parts of calls, to the letter, and such texts in grammars."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# As templates write JSON.
_JSON_OPTIONS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True)
class Writing:
    before: str
    """Up to the name of a turn's first call."""
    between: str
    """Between name and arguments."""
    again: str
    """From arguments to the next call's name; empty where a turn has one call at most."""
    behind: str
    """Behind the last arguments."""


NOTHING = Writing("", "", "", "")


def json_rule(schema: Mapping[str, Any]) -> str:
    """JSON that fits, as templates write it."""
    return "%json " + json.dumps({**schema, "x-guidance": _JSON_OPTIONS}, ensure_ascii=False)


class ArgumentsAsJson:
    """Of forms whose arguments are an object of JSON."""

    @property
    def rules(self) -> tuple[str, ...]:
        return ()

    def arguments_rule(self, schema: Mapping[str, Any]) -> str:
        """Lark: arguments that fit."""
        return json_rule(schema)


def lark_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""
