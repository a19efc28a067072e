"""The body of POST /v1/responses, and the chat completion that it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, field_validator

from api.requests.fields import Metadata, Name
from foundation.errors import InvalidRequest

Json = dict[str, Any]

INCLUDABLE = (
    "message.output_text.logprobs",
    # What is not there needs no showing.
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)
LOGPROBS = INCLUDABLE[0]
MAX_TOOLS = 128
MIN_OUTPUT_TOKENS = 1
NOT_THERE = ("moderation", "context_management", "access_programs")
"""Parameters that ask for what is not done here."""
PASSED_ON = (
    "seed",
    "stop",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "luthier",
    "user",
)
"""Parameters of chats that responses have, or take as an extension, under the same name."""


class ConversationReference(BaseModel):
    id: Name


def _by_id(reference: object) -> object:
    """An id alone stands for the conversation of that id."""
    return {"id": reference} if isinstance(reference, str) else reference


class ReasoningOptions(BaseModel):
    model_config = ConfigDict(extra="allow")
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


class TextFormat(BaseModel):
    model_config = ConfigDict(extra="allow")
    type: Literal["text", "json_object", "json_schema"] = "text"


class TextConfig(BaseModel):
    model_config = ConfigDict(extra="allow")
    format: TextFormat = TextFormat()
    verbosity: Literal["low", "medium", "high"] | None = None


class InputOfResponse(BaseModel):
    """What makes the prompt: all that counting its tokens needs."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    input: Any = None
    """A text or items; `items.taken` says what is wrong with it."""
    instructions: str | None = None
    previous_response_id: Name | None = None
    conversation: Annotated[ConversationReference | None, BeforeValidator(_by_id)] = None
    tools: Annotated[list[Json], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: StrictBool | None = None
    reasoning: ReasoningOptions | None = None
    text: TextConfig | None = None
    truncation: Literal["auto", "disabled"] | None = None

    @property
    def conversation_id(self) -> str | None:
        return self.conversation.id if self.conversation else None

    def check(self) -> None:
        """Raises InvalidRequest."""
        if self.model is None:
            raise _missing("model")
        if self.input is None and not self.previous_response_id and not self.conversation:
            raise _missing("input")
        if self.previous_response_id and self.conversation:
            raise InvalidRequest(
                "Mutually exclusive parameters: 'previous_response_id' and 'conversation'. Ensure you are only "
                "providing one of them.",
                param="conversation",
                code="mutually_exclusive_parameters",
            )
        for index, tool in enumerate(self.tools or ()):
            if tool.get("type") != "function":
                raise InvalidRequest(
                    f"Invalid value for 'tools[{index}].type': tools of type '{tool.get('type')}' are not there on "
                    "this server, which runs no tools itself. Supported values are: 'function'.",
                    param=f"tools[{index}].type",
                    code="unsupported_value",
                )

    def chat(self, messages: Sequence[Json]) -> Json:
        """The body of the chat completion."""
        body: Json = {
            "model": self.model,
            "messages": list(messages),
            "tools": [_tool_of_chat(tool) for tool in self.tools] if self.tools else None,
            "tool_choice": _choice_of_chat(self.tool_choice) if self.tools else None,
            "parallel_tool_calls": self.parallel_tool_calls if self.tools else None,
            "reasoning_effort": self.reasoning.effort if self.reasoning else None,
            "response_format": _format_of_chat(self.text.format) if self.text else None,
        }
        return {name: value for name, value in body.items() if value is not None}


class CreateResponse(InputOfResponse):
    background: StrictBool | None = None
    include: list[str] | None = None
    max_output_tokens: Annotated[int, Field(strict=True, ge=MIN_OUTPUT_TOKENS)] | None = None
    max_tool_calls: Annotated[int, Field(strict=True, ge=0)] | None = None
    """Of tools that the server runs, of which there are none."""
    metadata: Metadata | None = None
    prompt: Json | None = None
    prompt_cache_key: Annotated[str, Field(max_length=64)] | None = None
    safety_identifier: Annotated[str, Field(max_length=64)] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    store: StrictBool | None = None
    stream: StrictBool | None = None
    temperature: Annotated[float, Field(strict=True, ge=0, le=2, allow_inf_nan=False)] | None = None
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=20)] | None = None
    top_p: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] | None = None
    user: str | None = None

    @field_validator("include")
    @classmethod
    def _known(cls, include: list[str] | None) -> list[str] | None:
        for index, name in enumerate(include or ()):
            if name not in INCLUDABLE:
                raise InvalidRequest(
                    f"Invalid value: '{name}'. Supported values are: {', '.join(map(repr, INCLUDABLE))}.",
                    param=f"include[{index}]",
                    code="invalid_value",
                )
        return include

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    @property
    def has_logprobs(self) -> bool:
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())

    def check(self) -> None:
        super().check()
        extra = self.model_extra or {}
        for name in NOT_THERE:
            if extra.get(name) is not None:
                raise _unsupported(name)
        if self.prompt is not None:
            raise _unsupported(
                "prompt", " This server keeps no prompts: send 'input' and 'instructions'."
            )
        if self.background and not self.is_stored:
            raise InvalidRequest(
                "A response in the background must be stored: leave 'store' out, or send true.",
                param="store",
            )

    def chat(self, messages: Sequence[Json]) -> Json:
        extra = self.model_extra or {}
        body = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_completion_tokens": self.max_output_tokens,
            "logprobs": True if self.has_logprobs else None,
            "top_logprobs": self.top_logprobs if self.has_logprobs else None,
            **{name: extra.get(name) for name in PASSED_ON},
            "user": self.user,
        }
        return super().chat(messages) | {k: v for k, v in body.items() if v is not None}

    def told(self, model: str) -> Json:
        """What a response tells of its request."""
        return {
            "background": bool(self.background),
            "conversation": {"id": self.conversation_id} if self.conversation_id else None,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "max_tool_calls": self.max_tool_calls,
            "metadata": self.metadata or {},
            "model": model,
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": self.previous_response_id,
            "prompt_cache_key": self.prompt_cache_key,
            "reasoning": {
                "effort": self.reasoning.effort if self.reasoning else None,
                "summary": None,
            },
            "safety_identifier": self.safety_identifier,
            "service_tier": "default",
            "store": self.is_stored,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "text": {
                "format": self.text.format.model_dump() if self.text else {"type": "text"},
                "verbosity": (self.text.verbosity if self.text else None) or "medium",
            },
            "tool_choice": "auto" if self.tool_choice is None else self.tool_choice,
            "tools": [
                {"strict": False, "description": None, "parameters": None, **t}
                for t in self.tools or ()
            ],
            "top_logprobs": self.top_logprobs or 0,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "truncation": self.truncation or "disabled",
            "user": self.user,
        }


def _tool_of_chat(tool: Json) -> Json:
    """A tool's fields stand beside its type; those of a chat's tool in an object of their own."""
    names = ("name", "description", "parameters", "strict")
    function = {name: tool[name] for name in names if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _choice_of_chat(choice: str | Json | None) -> str | Json | None:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    if choice.get("type") == "allowed_tools":
        tools = choice.get("tools")
        allowed = [
            {"type": "function", "function": {"name": tool.get("name")}}
            for tool in (tools if isinstance(tools, list) else ())
            if isinstance(tool, dict)
        ]
        return {
            "type": "allowed_tools",
            "allowed_tools": {"mode": choice.get("mode"), "tools": allowed},
        }
    raise InvalidRequest(
        f"Invalid value for 'tool_choice.type': '{choice.get('type')}'. Supported values are: 'function' and "
        "'allowed_tools'.",
        param="tool_choice.type",
        code="unsupported_value",
    )


def _format_of_chat(format: TextFormat) -> Json | None:
    if format.type != "json_schema":
        return None if format.type == "text" else {"type": format.type}
    return {"type": "json_schema", "json_schema": format.model_dump(exclude={"type"})}


def _missing(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
    )


def _unsupported(param: str, why: str = "") -> InvalidRequest:
    return InvalidRequest(
        f"Unsupported parameter: '{param}' is not supported by this server.{why}",
        param=param,
        code="unsupported_parameter",
    )
