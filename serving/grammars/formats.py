"""The formats of strings in a JSON schema: what replies are held to."""

from __future__ import annotations

from typing import Any

KNOWN = frozenset({"duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"})
# Stricter than llguidance, which knows no leap years: days that there are, and seconds that programs can read.
_YEAR = "(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP = "(0[48]|[2468][048]|[13579][26])"
_DATE = (
    f"({_YEAR}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    f"|02-(0[1-9]|1[0-9]|2[0-8]))|([0-9]{{2}}{_LEAP}|{_LEAP}00)-02-29)"
)
_HOUR = "([01][0-9]|2[0-3])"
_TIME = f"{_HOUR}:[0-5][0-9]:[0-5][0-9](\\.[0-9]{{1,6}})?(Z|[+-]{_HOUR}:[0-5][0-9])"
_HEX = "[0-9a-f]"
PATTERNS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    # Pydantic's.
    "uuid4": f"^{_HEX}{{8}}-{_HEX}{{4}}-4{_HEX}{{3}}-[89ab]{_HEX}{{3}}-{_HEX}{{12}}$",
}
# Of the others, which say something to people only, none of these.
REFUSED = frozenset(
    {"idn-email", "idn-hostname", "uri-reference", "iri", "iri-reference", "uri-template"}
    | {"json-pointer", "relative-json-pointer", "regex"}
)


def restate(node: dict[str, Any]) -> None:
    """Have a schema say its format as a pattern, if that is what it is, or not at all."""
    named = node.get("format")
    if not isinstance(named, str) or named in KNOWN | REFUSED:
        return
    del node["format"]
    if pattern := PATTERNS.get(named):
        if "pattern" not in node:
            node["pattern"] = pattern
        elif isinstance(node.setdefault("allOf", []), list):
            node["allOf"].append({"pattern": pattern})
