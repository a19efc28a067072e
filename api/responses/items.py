"""Items: what is said and done in a response, by the user, the model and its tools. Each has a type and an id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from foundation.errors import InvalidRequest
from storage.ids import new_id

Item = dict[str, Any]

MAX_ID_CHARS = 64
_ROLES = ("user", "assistant", "system", "developer")
_TEXT_PARTS = ("input_text", "output_text", "text")


def taken(value: object, where: str = "input") -> list[Item]:
    """A request's items, each whole and with an id. Raises InvalidRequest, which says where."""
    if isinstance(value, str):
        return [_message({"role": "user", "content": value}, where)]
    if not isinstance(value, list):
        raise _invalid(where, "a string or an array of items")
    return [_taken(item, f"{where}[{index}]") for index, item in enumerate(value)]


def _taken(item: object, where: str) -> Item:
    if not isinstance(item, dict):
        raise _invalid(where, "an object")
    kind = item.get("type", "message" if "role" in item else "item_reference")
    read = _READ.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise InvalidRequest(
            f"Invalid value for '{where}.type': items of type '{kind}' are not supported by this server, which knows "
            f"{', '.join(_READ)}. What a referenced item says can be sent instead.",
            param=f"{where}.type",
            code="unsupported_value",
        )
    return read(item, where)


def _message(item: Mapping[str, Any], where: str) -> Item:
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES:
        raise InvalidRequest(
            f"Invalid value: '{role}'. Supported values are: {', '.join(map(repr, _ROLES))}.",
            param=f"{where}.role",
            code="invalid_value",
        )
    kind = "output_text" if role == "assistant" else "input_text"
    if isinstance(content, str):
        content = [{"type": kind, "text": content}]
    if not isinstance(content, list):
        raise _invalid(f"{where}.content", "a string or an array of content parts")
    parts = [_part(part, kind, f"{where}.content[{index}]") for index, part in enumerate(content)]
    return _item("msg", "message", item, where=where, role=role, content=parts)


def _part(part: object, kind: str, where: str) -> Item:
    if not isinstance(part, dict):
        raise _invalid(where, "an object")
    named = part.get("type")
    if named in _TEXT_PARTS:
        text = _text(part, "text", where)
        return {"type": kind, "text": text} | (
            {"annotations": [], "logprobs": []} if kind == "output_text" else {}
        )
    if named == "refusal" and kind == "output_text":
        return {"type": "refusal", "refusal": _text(part, "refusal", where)}
    raise InvalidRequest(
        f"Invalid value for '{where}.type': content of type '{named}' is not supported with this model, which reads "
        "text: send it as 'input_text'.",
        param=f"{where}.type",
        code="unsupported_value",
    )


def _function_call(item: Mapping[str, Any], where: str) -> Item:
    texts = {name: _text(item, name, where) for name in ("call_id", "name", "arguments")}
    return _item("fc", "function_call", item, where=where, **texts)


def _function_call_output(item: Mapping[str, Any], where: str) -> Item:
    output = item.get("output")
    if isinstance(output, list):
        output = [
            _part(part, "input_text", f"{where}.output[{index}]")
            for index, part in enumerate(output)
        ]
    elif not isinstance(output, str):
        raise _invalid(f"{where}.output", "a string or an array of content parts")
    call_id = _text(item, "call_id", where)
    return _item("fc", "function_call_output", item, where=where, call_id=call_id, output=output)


def _reasoning(item: Mapping[str, Any], where: str) -> Item:
    lists: Item = {}
    for name, kind in (("summary", "summary_text"), ("content", "reasoning_text")):
        parts = item.get(name) or []
        if not isinstance(parts, list):
            raise _invalid(f"{where}.{name}", "an array")
        lists[name] = [
            {"type": kind, "text": _text(part, "text", f"{where}.{name}[{index}]")}
            for index, part in enumerate(parts)
        ]
    return _item("rs", "reasoning", item, where=where, **lists)


_READ: dict[str, Callable[[Mapping[str, Any], str], Item]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _function_call_output,
    "reasoning": _reasoning,
}


def _item(
    prefix: str,
    kind: str,
    given: Mapping[str, Any],
    where: str = "",
    status: str = "completed",
    **fields: Any,
) -> Item:
    """With the id that it came with, else a new one."""
    item_id = given.get("id")
    if item_id is None:
        item_id = new_id(f"{prefix}_", 40)
    if not isinstance(item_id, str) or not 1 <= len(item_id) <= MAX_ID_CHARS or "\0" in item_id:
        raise _invalid(f"{where}.id", f"a string of 1 to {MAX_ID_CHARS} characters")
    return {"id": item_id, "type": kind, "status": status, **fields}


def _text(value: object, name: str, where: str) -> str:
    text = value.get(name) if isinstance(value, dict) else None
    if isinstance(text, str):
        return text
    raise _invalid(f"{where}.{name}", "a string")


def _invalid(where: str, expected: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid type for '{where}': expected {expected}.", param=where, code="invalid_type"
    )
