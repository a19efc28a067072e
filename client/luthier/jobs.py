"""Fine-tuning jobs: following one's events, each once, oldest first; pausing and resuming it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote

import openai
from openai.types.fine_tuning import FineTuningJob

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.fine_tuning import FineTuningJobEvent

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
PAGE_EVENTS = 100
# Two writers can commit in another order than their events have in the list, so an event may appear
# a little below ones that were read before. Reading this far into the known ones finds it.
OVERLAP_EVENTS = 20
BACKOFF = 1.5
TRANSIENT = (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError)


class Jobs:
    def __init__(self, client: OpenAI) -> None:
        self._client = client
        self._api = client.fine_tuning.jobs

    def pause(self, job_id: str) -> FineTuningJob:
        """Ask for a pause; gives the job as it is until then. Its status becomes `paused`.

        Raises `openai.BadRequestError` for a job that has ended or is paused already.
        """
        # Older releases of OpenAI's client lack these two.
        return self._client.post(_path(job_id, "pause"), cast_to=FineTuningJob)

    def resume(self, job_id: str) -> FineTuningJob:
        """Let a paused job go on exactly where it stopped.

        Raises `openai.BadRequestError` for a job that is not paused.
        """
        return self._client.post(_path(job_id, "resume"), cast_to=FineTuningJob)

    def follow(
        self,
        job_id: str,
        *,
        after: str | None = None,
        poll_interval_s: float = 0.5,
        max_poll_interval_s: float = 5.0,
        patience_s: float = 120.0,
    ) -> Iterator[FineTuningJobEvent]:
        """Yield the job's events, oldest first, until it has succeeded, failed or been cancelled.

        `after` is the id of the last event already known; without it the job's first event comes
        first. While nothing happens the server is asked less and less often, at least every
        `max_poll_interval_s`. A server that cannot be reached or fails is asked again for
        `patience_s`; then the last error is raised, as is every other error at once.
        """
        seen: set[str] = set()
        interval_s = poll_interval_s
        failing_since: float | None = None
        while True:
            try:
                # The state is read before the events: the list then holds all that led to it.
                is_terminal = self._api.retrieve(job_id).status in TERMINAL
                unseen = self._unseen(job_id, seen, after)
            except TRANSIENT:
                now = time.monotonic()
                failing_since = now if failing_since is None else failing_since
                if now - failing_since >= patience_s:
                    raise
                unseen, is_terminal = [], False
            else:
                failing_since = None
                after = None
            yield from unseen
            if is_terminal:
                return
            if unseen:
                interval_s = poll_interval_s
            time.sleep(interval_s)
            interval_s = min(interval_s * BACKOFF, max_poll_interval_s)

    def _unseen(self, job_id: str, seen: set[str], after: str | None) -> list[FineTuningJobEvent]:
        """Events not in `seen`, oldest first, and add them to it; with `after` only newer ones."""
        unseen: list[FineTuningJobEvent] = []
        known: list[str] = []
        # The list is newest first, and its cursor is an event, so what is added meanwhile moves nothing.
        for event in self._api.list_events(job_id, limit=PAGE_EVENTS):
            if known and after is not None:
                known.append(event.id)  # older than `after`: the caller has it
            elif event.id in seen or event.id == after:
                known.append(event.id)
            else:
                unseen.append(event)
            if len(known) == OVERLAP_EVENTS:
                break
        if after is not None and not known:
            raise openai.OpenAIError(f"the job {job_id} has no event {after}")
        seen.update(known, (event.id for event in unseen))
        return unseen[::-1]


def _path(job_id: str, action: str) -> str:
    return f"/fine_tuning/jobs/{quote(job_id, safe='')}/{action}"
