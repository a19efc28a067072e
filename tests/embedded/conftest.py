from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from embedded.postgres import Postgres


@pytest.fixture(scope="session")
def new_cluster(server_dir: Path) -> Callable[[Path], Path]:
    """Copies a fresh cluster to a path: much faster than another initdb."""
    first = Postgres(server_dir / "first-cluster", fsync=False)
    first.prepare()
    first.clean_up()

    def copy(target: Path) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", first.directory, target], check=True)
        return target

    return copy
