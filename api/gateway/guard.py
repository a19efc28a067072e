"""A guard before a project's inference, where its settings say so: what users write, and what models answer, is judged first.

Judged are the messages of the role `user` of a chat and the prompts of completions, and of replies all that is shown. A
request that is not safe is refused; a reply that is not becomes OpenAI's: a refusal, with the `finish_reason`
content_filter. Nothing of a streamed one is shown before all of it has been judged. Without a classifier to go by nothing
is let through.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx

from api.wiring import Wiring
from foundation.errors import InvalidRequest
from storage.organization.api_keys import Caller

from . import event_stream, moderation
from .exchange import CHAT_PATH, TEXT_PATH, Exchange
from .judged_stream import JudgedStream
from .moderation import Judge, Judgement
from .targets import Target

CODE = "content_policy_violation"
MAX_JUDGED = 256
"""Texts of one request: as many as are classified in one."""
WITHHELD = "The reply was withheld by this project's guard."

Json = dict[str, Any]


class GuardedExchange(Exchange):
    """A request for inference, as its project lets it go in and come out."""

    def __init__(
        self,
        wiring: Wiring,
        caller: Caller,
        target: Target,
        body: Json,
        *,
        path: str,
        request_id: str = "",
        is_batch: bool = False,
    ) -> None:
        """Raises InvalidRequest for what cannot be judged."""
        super().__init__(
            wiring, caller, target, body, path=path, request_id=request_id, is_batch=is_batch
        )
        is_guarded = caller.guards_input and path in _READ_OF
        self._asked = dict(_READ_OF[path](body)) if is_guarded else {}
        if len(self._asked) > MAX_JUDGED:
            raise InvalidRequest(
                f"This project's guard judges {MAX_JUDGED} messages or prompts of a request at most, and there are "
                f"{len(self._asked)}.",
                param="messages" if path == CHAT_PATH else "prompt",
                code=CODE,
            )

    async def send(self) -> httpx.Response:
        upstream = await super().send()
        if self.is_streaming and self._judges_output and event_stream.is_stream(upstream):
            judged = JudgedStream(upstream, self._unassembled(), self._note, self._shown)
            return httpx.Response(
                200, headers={"content-type": event_stream.MEDIA_TYPE}, stream=judged
            )
        return upstream

    @property
    def _judges_output(self) -> bool:
        return self._caller.guards_output and self._path in _READ_OF

    async def _admit(self) -> None:
        asked, self._asked = self._asked, {}
        if not asked:
            return
        judge = await _judge(self._wiring, self._caller)
        judgements = await self._judgements(judge, [*asked.values()])
        for place, judgement in zip(asked, judgements, strict=True):
            if flagged := judgement.flagged:
                raise InvalidRequest(
                    f"This project's guard refused your request: '{place}' was flagged as "
                    f"{_told(flagged, judgement)}.",
                    param=place,
                    code=CODE,
                )

    async def _shown(self, value: Json) -> Json:
        if not self._judges_output:
            return value
        choices = [choice for choice in value.get("choices", ()) if _shown_of(choice)]
        if not choices:
            return value
        judge = await _judge(self._wiring, self._caller)
        for start in range(0, len(choices), MAX_JUDGED):
            part = choices[start : start + MAX_JUDGED]
            judgements = await self._judgements(judge, [_shown_of(choice) for choice in part])
            for choice, judgement in zip(part, judgements, strict=True):
                if judgement.flagged:
                    _withhold(choice)
        return value

    async def _judgements(self, judge: Judge, texts: list[str]) -> list[Judgement]:
        judgements, _ = await moderation.judge(
            self._wiring,
            self._caller,
            judge,
            texts,
            request_id=self._request_id,
            is_batch=self._is_batch,
            # What is judged has taken its share, and a reply that is there must not be lost for want of another.
            is_limited=False,
        )
        return judgements


async def _judge(wiring: Wiring, caller: Caller) -> Judge:
    try:
        return await moderation.find(wiring, caller)
    except InvalidRequest as error:
        raise InvalidRequest(
            f"This project's guard has no classifier to go by, so nothing is answered. {error.message}",
            code="guard_without_classifier",
        ) from error


def _of_chat(body: Json) -> Iterator[tuple[str, str]]:
    """Texts by where they stand. What is malformed the inference server refuses."""
    messages = body.get("messages")
    for number, message in enumerate(messages if isinstance(messages, list) else ()):
        if not isinstance(message, dict) or message.get("role") != "user":
            continue
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = [part.get("text") for part in parts if isinstance(part, dict)]
        if text := "\n".join(text for text in texts if isinstance(text, str)):
            yield f"messages[{number}]", text


def _of_prompts(body: Json) -> Iterator[tuple[str, str]]:
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        yield "prompt", prompt
    elif isinstance(prompt, list):
        for number, each in enumerate(prompt):
            if not isinstance(each, str):
                raise InvalidRequest(
                    "This project's guard reads texts: expected 'prompt' to be a string or an array of strings, not "
                    "token ids.",
                    param="prompt",
                    code=CODE,
                )
            yield f"prompt[{number}]", each


_READ_OF = {CHAT_PATH: _of_chat, TEXT_PATH: _of_prompts}
"""What is judged of a request."""


def _shown_of(choice: Json) -> str:
    """All of a choice that somebody would read."""
    message = choice.get("message")
    if not isinstance(message, dict):
        return str(choice.get("text") or "")
    calls = [call.get("function") or {} for call in message.get("tool_calls") or ()]
    calls.append(message.get("function_call") or {})
    texts = [message.get("reasoning_content"), message.get("content")]
    return "\n".join(filter(None, [*texts, *(call.get("arguments") for call in calls)]))


def _withhold(choice: Json) -> None:
    choice["finish_reason"], choice["logprobs"] = "content_filter", None
    if "message" in choice:
        choice["message"] = {"role": "assistant", "content": None, "refusal": WITHHELD}
    else:
        choice["text"] = ""


def _told(flagged: list[str], judgement: Judgement) -> str:
    return ", ".join(f"{name} ({judgement.scores[name]:.2f})" for name in flagged)
