"""Who speaks when: what the roles of a conversation say about it, found once for each order of roles there is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from dataset.formats.row_format import Row

from .findings import LintFindings

_INSTRUCTING = ("system", "developer")
_ROLES = frozenset({"system", "developer", "user", "assistant"})
PLACEHOLDER = re.compile(
    r"\s*(?:ok(?:ay)?|n/?a|none|null|nil|todo|tbd|placeholder|response|answer|\.{2,}|…|-+|_+|\?+|x{2,}|\[[^\]]*\]|<[^>]*>)?"
    r"[\s.!…]*",
    re.IGNORECASE,
)
"""What stands for an answer that nobody wrote."""


@dataclass(frozen=True, slots=True)
class RoleOrder:
    """What one order of roles means."""

    last: int
    """The index of the assistant's last message."""
    system: int
    """Of the first system message; -1 without one."""
    early: tuple[int, ...]
    """Of the assistant's other messages."""
    is_plain: bool
    """Nothing of what follows is so."""
    ends_with_user: bool = False
    repeated: int = -1
    """The first message of the role that the one before it has."""
    late_system: int = -1
    is_swapped: bool = False

    @classmethod
    def of(cls, roles: Sequence[str]) -> RoleOrder | None:
        """None if nobody answers."""
        answers = [i for i, role in enumerate(roles) if role == "assistant"]
        if not answers:
            return None
        systems = [i for i, role in enumerate(roles) if role in _INSTRUCTING]
        said = [role for role in roles if role not in _INSTRUCTING]
        is_swapped = len(said) > 1 and said[0] == "assistant" and said[-1] == "user"
        late = next((i for place, i in enumerate(systems) if i != place), -1)
        repeated = next(
            (i for i in range(1, len(roles)) if roles[i] == roles[i - 1] and roles[i] in ("user", "assistant")),
            -1,
        )  # fmt: skip
        ends = roles[-1] == "user" and not is_swapped
        return cls(
            last=answers[-1],
            system=systems[0] if systems else -1,
            early=tuple(answers[:-1]),
            is_plain=not ends and repeated < 0 and late < 0 and not is_swapped,
            ends_with_user=ends,
            repeated=repeated,
            late_system=late,
            is_swapped=is_swapped,
        )


def look_at_roles(
    turns: RoleOrder, roles: Sequence[str], number: int, findings: LintFindings
) -> None:
    if turns.ends_with_user:
        findings.add(
            "W111", number, "the user has the last word, and nothing is learnt of it", f"messages[{len(roles) - 1}]"
        )  # fmt: skip
    if turns.is_swapped:
        findings.add("W123", number, "the assistant begins and the user ends the conversation")
    elif turns.repeated >= 0:
        findings.add(
            "W121",
            number,
            f"another message of the {roles[turns.repeated]}, which some chat templates refuse",
            f"messages[{turns.repeated}]",
        )
    if turns.late_system >= 0:
        findings.add(
            "W122", number, f"a {roles[turns.late_system]} message behind others", f"messages[{turns.late_system}]"
        )  # fmt: skip


def look_at_calls(
    row: Row, messages: Sequence[Mapping[str, Any]], number: int, findings: LintFindings
) -> None:
    """Of a row that may call tools: whether calls are declared, answered, and readable."""
    declared = _names(row)
    open_ids: dict[str, int] = {}
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        role = message["role"]
        if role == "tool":
            found = open_ids.pop(str(message.get("tool_call_id")), None)
            if found is None:
                findings.add(
                    "W114", number, "the result of a call that no message before it makes", path
                )
            continue
        if role in ("user", "assistant") and open_ids:
            _tell_open(open_ids, number, findings)
            open_ids = {}
        for place, call in enumerate(message.get("tool_calls") or ()):
            function = call["function"]
            where = f"{path}.tool_calls[{place}]"
            if not call.get("id"):
                findings.add(
                    "W114", number, "the call has no id, by which its result is found", where
                )
            else:
                open_ids[str(call["id"])] = index
            _look_at_call(function, declared, where, number, findings)
        if message.get("function_call"):
            where = f"{path}.function_call"
            _look_at_call(message["function_call"], declared, where, number, findings)
    # The last turn may be a call: that is what is learnt.
    last = len(messages) - 1
    _tell_open({i: at for i, at in open_ids.items() if at != last}, number, findings)


def _tell_open(open_ids: Mapping[str, int], number: int, findings: LintFindings) -> None:
    for index in open_ids.values():
        findings.add(
            "W114", number, "a call is made, and its result does not follow", f"messages[{index}]"
        )


def _look_at_call(
    function: Mapping[str, Any], declared: frozenset[str] | None, path: str, number: int, findings: LintFindings
) -> None:  # fmt: skip
    name = str(function["name"])
    if declared is None:
        findings.add("W116", number, f"it calls {name[:60]!r}, and the row declares no tools", path)
    elif name not in declared:
        findings.add(
            "W116", number, f"it calls {name[:60]!r}, which the row's tools have not", path
        )
    if not arguments_are_read(function):
        findings.add("W115", number, f"the arguments of {name[:60]!r} are no JSON object", path)


def arguments_are_read(function: Mapping[str, Any]) -> bool:
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return False
    try:
        return isinstance(orjson.loads(arguments), dict)
    except orjson.JSONDecodeError:
        return False


def _names(row: Row) -> frozenset[str] | None:
    tools = [tool["function"] for tool in row.get("tools") or ()]
    functions = [*tools, *(row.get("functions") or ())]
    return frozenset(str(f["name"]) for f in functions) if functions else None


def is_placeholder(text: str) -> bool:
    return len(text) <= 40 and PLACEHOLDER.fullmatch(text) is not None


def is_quick(roles: Sequence[str]) -> bool:
    """Whether these are roles whose messages need nothing but a text."""
    return _ROLES.issuperset(roles)
