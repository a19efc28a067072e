"""What a request for a chat says of tools: which are shown, which may be called, which must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict

from foundation.errors import InvalidRequest
from serving.requests import (
    Flag,
    Name,
    Text,
    UnsupportedParameter,
    Wire,
    is_object,
    is_text,
    one_of,
)

MAX_TOOLS = 128

Choice = Annotated[str | Wire, one_of("a string or an object", is_text, is_object)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow")


class Function(_Part):
    name: Name
    description: Text | None = None
    parameters: Wire | None = None
    strict: Flag | None = None


class Tool(_Part):
    type: Literal["function", "custom"]
    function: Function | None = None
    custom: Wire | None = None


@dataclass(frozen=True)
class Offer:
    """The tools of one request."""

    tools: tuple[Function, ...] = ()
    """Shown to the model."""
    callable_names: frozenset[str] = frozenset()
    must_call: bool = False
    is_parallel: bool = True
    is_legacy: bool = False
    """Asked for as `functions`, and answered as such."""

    @property
    def param(self) -> str:
        return "functions" if self.is_legacy else "tools"

    @property
    def callable_functions(self) -> list[tuple[int, Function]]:
        """With their places among `tools`."""
        return [
            (index, function)
            for index, function in enumerate(self.tools)
            if function.name in self.callable_names
        ]

    @property
    def callable_schemas(self) -> dict[str, Wire]:
        """By name."""
        return {function.name: function.parameters or {} for _, function in self.callable_functions}

    def where(self, index: int) -> str:
        """The parameters of a function, as a path into the request."""
        function = "" if self.is_legacy else ".function"
        return f"{self.param}[{index}]{function}.parameters"

    @property
    def definitions(self) -> list[Wire] | None:
        """As chat templates and grammars take them."""
        return [_definition(tool) for tool in self.tools] or None


def offer_of(
    tools: Sequence[Tool] | None, choice: str | Wire | None, *, is_parallel: bool | None
) -> Offer:
    """What `tools`, `tool_choice` and `parallel_tool_calls` say together. Raises `InvalidRequest`."""
    wanted = _wanted(choice)
    functions = tuple(_function(tool, f"tools[{i}]") for i, tool in enumerate(tools or ()))
    names = [function.name for function in functions]
    _check_names(names, "tools")
    if wanted.is_choice and not functions:
        raise InvalidRequest(
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.",
            param="tool_choice",
        )
    for name in wanted.names or ():
        if name not in names:
            raise InvalidRequest(
                f"Invalid value for 'tool_choice': the function '{name}' is not in 'tools'.",
                param="tool_choice",
                code="invalid_value",
            )
    if wanted.mode == "none":
        # A model that may not call them answers as if there were none.
        return Offer()
    return Offer(
        functions,
        frozenset(names if wanted.names is None else wanted.names),
        must_call=wanted.mode == "required",
        is_parallel=is_parallel is not False,
    )


def legacy_offer_of(functions: Sequence[Function] | None, choice: str | Wire | None) -> Offer:
    """What the older `functions` and `function_call` say: at most one call. Raises `InvalidRequest`."""
    names = [function.name for function in functions or ()]
    _check_names(names, "functions")
    named = choice.get("name") if isinstance(choice, dict) else None
    is_known = choice in (None, "none", "auto") or (named is not None and isinstance(named, str))
    if not is_known:
        raise _bad_choice("function_call", choice, "'none', 'auto', and {'name': 'my_function'}")
    if isinstance(named, str) and not names:
        raise InvalidRequest(
            "Invalid value for 'function_call': 'function_call' is only allowed when 'functions' are specified.",
            param="function_call",
        )
    if isinstance(named, str) and named not in names:
        raise InvalidRequest(
            f"Invalid value for 'function_call': the function '{named}' is not in 'functions'.",
            param="function_call",
            code="invalid_value",
        )
    if choice == "none" or not functions:
        return Offer()
    callable_names = frozenset(names if named is None else [named])
    return Offer(
        tuple(functions),
        callable_names,
        must_call=named is not None,
        is_parallel=False,
        is_legacy=True,
    )


@dataclass(frozen=True)
class _Wanted:
    mode: Literal["none", "auto", "required"]
    names: list[str] | None = None
    """None: all that there are."""
    is_choice: bool = False
    """Says something that needs tools."""


def _wanted(choice: str | Wire | None) -> _Wanted:
    match choice:
        case None:
            return _Wanted("auto")
        case "none" | "auto":
            return _Wanted("none" if choice == "none" else "auto")
        case "required":
            return _Wanted("required", is_choice=True)
        case {"type": "function", "function": {"name": str(name)}}:
            return _Wanted("required", [name], is_choice=True)
        case {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}:
            return _Wanted(_mode(mode), _allowed(tools), is_choice=True)
        case {"type": "custom"}:
            raise UnsupportedParameter("tool_choice", " Only tools of type 'function' are.")
    raise _bad_choice(
        "tool_choice",
        choice,
        "'none', 'auto', 'required', {'type': 'function', 'function': {'name': 'my_function'}}, and {'type': "
        "'allowed_tools', 'allowed_tools': {'mode': 'auto' or 'required', 'tools': [...]}}",
    )


def _mode(mode: Any) -> Literal["auto", "required"]:
    if mode == "auto" or mode == "required":
        return "required" if mode == "required" else "auto"
    raise InvalidRequest(
        f"Invalid value: '{str(mode)[:100]}'. Supported values are: 'auto' and 'required'.",
        param="tool_choice.allowed_tools.mode",
        code="invalid_value",
    )


def _allowed(tools: list[Any]) -> list[str]:
    names = []
    for index, tool in enumerate(tools):
        match tool:
            case {"type": "function", "function": {"name": str(name)}}:
                names.append(name)
            case _:
                raise InvalidRequest(
                    f"Invalid value for 'tool_choice.allowed_tools.tools[{index}]': expected "
                    "{'type': 'function', 'function': {'name': 'my_function'}}.",
                    param=f"tool_choice.allowed_tools.tools[{index}]",
                    code="invalid_value",
                )
    if not names:
        raise InvalidRequest(
            "Invalid 'tool_choice.allowed_tools.tools': empty array. Expected an array with minimum length 1, but got "
            "an empty array instead.",
            param="tool_choice.allowed_tools.tools",
            code="empty_array",
        )
    return names


def _function(tool: Tool, where: str) -> Function:
    if tool.type == "custom":
        raise UnsupportedParameter(where, " Only tools of type 'function' are.")
    if tool.function is None:
        raise InvalidRequest(
            f"Missing required parameter: '{where}.function'.",
            param=f"{where}.function",
            code="missing_required_parameter",
        )
    return tool.function


def _definition(tool: Function) -> Wire:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }
    return {"type": "function", "function": function}


def _check_names(names: Sequence[str], param: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidRequest(
                f"Invalid '{param}': the function name '{name}' is there more than once.",
                param=param,
                code="invalid_value",
            )
        seen.add(name)


def _bad_choice(param: str, choice: Any, expected: str) -> InvalidRequest:
    shown = f"'{choice[:100]}'" if isinstance(choice, str) else "this object"
    return InvalidRequest(
        f"Invalid value: {shown}. Supported values are: {expected}.",
        param=param,
        code="invalid_value",
    )
