"""Questions of a section to models: asked through the gateway a few at a time, and answered once each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

import orjson

from errands.batches.gateway import ApiReply, TimedOut
from errands.errands import Errands
from storage.leases import Stopped

from .lease import ReportLease
from .parts import MAX_TEXT_CHARS, Answered, ReportParts

POLL_S = 0.5
FIRST_CHUNK_S, CHUNK_GROWTH_S, MAX_CHUNK_S = 1.0, 0.2, 20.0
"""How long answers wait to be kept: a young report loses little, and a long one must not fall to pieces."""
CHAT_PATH, TEXT_PATH = "/v1/chat/completions", "/v1/completions"

Json = dict[str, Any]


@dataclass(frozen=True)
class ReportQuestion:
    key: str
    """Within the section: what a kept answer is found by."""
    path: str
    body: Json
    num_logprobs: int = 0
    """Of the last tokens read: what a question that scores its prompt is about."""
    read: Callable[[Json], str] | None = None
    """What of the reply is kept as its text, if not what the model wrote."""


@dataclass(frozen=True)
class _Pending:
    question: ReportQuestion
    began_at: float


class Asking:
    def __init__(
        self, errands: Errands, lease: ReportLease, parts: ReportParts, *, concurrency: int
    ) -> None:
        self._errands = errands
        self._lease = lease
        self._parts = parts
        self.concurrency = concurrency
        """Questions under way at a time."""

    def ask(
        self, section: str, questions: Iterable[ReportQuestion], *, alone: bool = False
    ) -> dict[str, Answered]:
        """The answers by the keys, those of earlier attempts among them; `alone`: one after the other.

        In the order of the questions, but for how long an answer takes. Raises LostLease and Stopped; what is there by
        then is kept.
        """
        answers = self._parts.answers(section)
        rest = (question for question in questions if question.key not in answers)
        fresh: list[Answered] = []
        pending: dict[Future[ApiReply], _Pending] = {}
        kept_at, patience_s = time.monotonic(), FIRST_CHUNK_S
        try:
            while self._fill(pending, rest, 1 if alone else self.concurrency):
                done, _ = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
                for future in done:
                    answered = _answered(future, pending.pop(future))
                    answers[answered.key] = answered
                    fresh.append(answered)
                if fresh and time.monotonic() - kept_at >= patience_s:
                    self._parts.keep_answers(section, fresh)
                    kept_at, fresh = time.monotonic(), []
                    patience_s = min(MAX_CHUNK_S, patience_s + CHUNK_GROWTH_S)
                self._lease.check()
        except Stopped:
            if fresh:
                self._parts.keep_answers(section, fresh)
            raise
        finally:
            for future in pending:
                future.cancel()
        if fresh:
            self._parts.keep_answers(section, fresh)
        return answers

    def _fill(
        self, pending: dict[Future[ApiReply], _Pending], rest: Iterator[ReportQuestion], limit: int
    ) -> bool:
        """Have as many under way as may be; False when none is left."""
        report = self._lease.report
        while len(pending) < limit:
            question = next(rest, None)
            if question is None:
                break
            body = orjson.dumps(question.body)
            sent = self._errands.gateway.ask(report.project_id, report.id, question.path, body)
            pending[sent] = _Pending(question, time.monotonic())
        return bool(pending)


def _answered(future: Future[ApiReply], asked: _Pending) -> Answered:
    key, seconds = asked.question.key, round(time.monotonic() - asked.began_at, 4)
    try:
        reply = future.result()
    except TimedOut:
        return Answered(key, seconds=seconds, error="The model did not answer in time.")
    if reply.status != 200:
        return Answered(key, seconds=seconds, error=_message(reply))
    try:
        if asked.question.read is not None:
            return Answered(key, text=asked.question.read(reply.body), seconds=seconds)
        return _read(asked.question, reply.body, seconds)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        text = f"The inference server's reply cannot be read ({type(error).__name__})."
        return Answered(key, seconds=seconds, error=text)


def _read(question: ReportQuestion, body: Json, seconds: float) -> Answered:
    choice, usage = body["choices"][0], body.get("usage") or {}
    message = choice.get("message") or {}
    text = message.get("content") if "message" in choice else choice["text"]
    details = usage.get("prompt_tokens_details") or {}
    logprobs: list[float] = []
    if question.num_logprobs:
        logprobs = [
            float(p) for p in choice["logprobs"]["token_logprobs"][-question.num_logprobs :]
        ]
    return Answered(
        question.key,
        text=str(text or message.get("refusal") or "")[:MAX_TEXT_CHARS],
        tool_calls=list(message.get("tool_calls") or ()),
        finish_reason=choice.get("finish_reason"),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        cached_tokens=int(details.get("cached_tokens") or 0),
        output_tokens=int(usage.get("completion_tokens") or 0),
        seconds=seconds,
        logprobs=logprobs,
    )


def _message(reply: ApiReply) -> str:
    error = reply.body.get("error") if isinstance(reply.body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return str(message or f"The api answered {reply.status}.")[:1000]
