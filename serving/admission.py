"""How many sequences each project may have open, waiting or being computed, and which adapters these use; and how much
each project weighs.

Used on the event loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from foundation.errors import InvalidRequest, LuthierError
from serving.engine.kv.prefix import KvPrefix
from serving.engine.sequence import Sequence
from serving.engine.slots.lora import Adapter

from .quotas import Quotas


class Overloaded(LuthierError):
    """More sequences are waiting than are taken."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=429, type="requests", code="rate_limit_exceeded")


class Admission:
    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas
        self._num_open: Counter[str] = Counter()
        self._num_users: Counter[str] = Counter()
        self.adapters: dict[str, Adapter | KvPrefix] = {}
        """Those in use, by their ids."""
        self._weights: dict[str, int] = {}
        self.when_freed: Callable[[], None] = lambda: None
        """Called when one is in use no longer."""

    def weigh(self, project: str, weight: int) -> None:
        """From the next request of the project on."""
        if weight == 1:
            self._weights.pop(project, None)
        else:
            self._weights[project] = weight

    def weight(self, project: str) -> int:
        """The project's share of the engine in proportion to others'."""
        return self._weights.get(project, 1)

    def enter(self, sequence: Sequence) -> None:
        self._num_open[sequence.project] += 1
        if (adapter := sequence.request.adapter) is not None:
            self._num_users[adapter.id] += 1
            self.adapters[adapter.id] = adapter

    def leave(self, sequence: Sequence) -> None:
        project, adapter = sequence.project, sequence.request.adapter
        self._num_open[project] -= 1
        if not self._num_open[project]:
            del self._num_open[project]
        if adapter is not None:
            self._num_users[adapter.id] -= 1
            if not self._num_users[adapter.id]:
                del self._num_users[adapter.id], self.adapters[adapter.id]
                self.when_freed()

    def check(self, project: str, num_more: int) -> None:
        """Whether so many more sequences of the project can be taken.

        Nobody below an equal share of the whole is refused for what others do. Raises `InvalidRequest`
        for more than one request may ask for, and `Overloaded`.
        """
        most, num_open = self._quotas.max_open_per_project, self._num_open[project]
        if num_more > most:
            raise InvalidRequest(
                f"This request asks for {num_more} completions (prompts times choices). At most {most} "
                "are computed for one request; please send several.",
                param="n",
                code="too_many_completions",
            )
        if num_open + num_more > most:
            raise Overloaded(
                f"{num_open} completions of this project are waiting or being computed, and {num_more} "
                f"more would be above the limit of {most}. Please try again later."
            )
        is_full = self._num_open.total() + num_more > self._quotas.max_open
        num_projects = len(self._num_open.keys() | {project})
        if is_full and num_open + num_more > self._quotas.max_open // num_projects:
            raise Overloaded("Too many requests are waiting. Please try again later.")
