"""`Luthier`: `openai.OpenAI` with another default address and more resources."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

from openai import OpenAI

from .adapters import Adapters
from .aliases import Aliases
from .classifications import Classifications
from .exports import Exports
from .forecasts import Forecasts
from .imports import Imports
from .jobs import Jobs
from .reports import Reports
from .reproductions import Reproductions

DEFAULT_BASE_URL = "http://127.0.0.1:8000/v1"


class Luthier(OpenAI):
    """Takes every option of `openai.OpenAI`; what is not given comes from the environment.

    The address is `base_url`, LUTHIER_BASE_URL, OPENAI_BASE_URL or a server on this machine, and the
    key `api_key`, LUTHIER_API_KEY or OPENAI_API_KEY, in that order. Without a key it raises
    `openai.OpenAIError`.
    """

    def __init__(
        self,
        *,
        api_key: Any = None,
        base_url: Any = None,
        # OpenAI's other options differ between its releases, so they are passed on unread.
        **options: Any,
    ) -> None:
        super().__init__(
            api_key=api_key if api_key is not None else os.environ.get("LUTHIER_API_KEY"),
            base_url=base_url if base_url is not None else base_url_from_env(),
            **options,
        )

    @cached_property
    def jobs(self) -> Jobs:
        """Following, pausing and resuming fine-tuning jobs; the rest is in `fine_tuning.jobs`."""
        return Jobs(self)

    @cached_property
    def aliases(self) -> Aliases:
        """The project's own names for its models."""
        return Aliases(self)

    @cached_property
    def adapters(self) -> Adapters:
        """The weights of tuned models."""
        return Adapters(self)

    @cached_property
    def classifications(self) -> Classifications:
        """Labels of texts, with probabilities."""
        return Classifications(self)

    @cached_property
    def exports(self) -> Exports:
        """Tuned models for use elsewhere."""
        return Exports(self)

    @cached_property
    def forecasts(self) -> Forecasts:
        """What jobs would take."""
        return Forecasts(self)

    @cached_property
    def imports(self) -> Imports:
        """Adapters that were trained elsewhere."""
        return Imports(self)

    @cached_property
    def reports(self) -> Reports:
        """What a job's tuning did."""
        return Reports(self)

    @cached_property
    def reproductions(self) -> Reproductions:
        """Training a job again, and comparing the weights."""
        return Reproductions(self)


def base_url_from_env() -> str:
    """Never api.openai.com by default: a client of Luthier must not send its data there by accident."""
    for name in ("LUTHIER_BASE_URL", "OPENAI_BASE_URL"):
        if value := os.environ.get(name):
            return value
    return DEFAULT_BASE_URL
