"""A plugin of the suite's own pytest: before each test, the server's seeded rows are as they should be.

It stands alone, and in a folder of its own, because the suite brings a package `tests` as well.
"""

from __future__ import annotations

import os
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

_open = build_opener(ProxyHandler({})).open
# A tenth of a second is what it takes; this is for a machine that does other things for a while.
_DEADLINE_S = 180


def pytest_runtest_setup() -> None:
    try:
        _open(os.environ["LUTHIER_RESET_URL"], data=b"", timeout=_DEADLINE_S).close()
    except HTTPError as error:
        raise RuntimeError(f"the rows could not be seeded:\n{error.read().decode()}") from None
