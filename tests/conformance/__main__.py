"""`make conformance`: run OpenAI's own test suite against a Luthier; further arguments go to pytest."""

from __future__ import annotations

import subprocess
import sys
import time

from storage.blobs import blobs
from storage.database import sessions, sync_engine

from . import seed, server, suite


def main(arguments: list[str]) -> int:
    """pytest's exit status; its last line has the counts."""
    folder = suite.prepare()
    started_at = time.monotonic()
    with server.running() as running:
        sys.stdout.write(f"{running.base_url} is up after {time.monotonic() - started_at:.0f} s\n")
        engine = sync_engine(running.database_url)
        store = blobs.open_store(running.blob_url)

        def reset() -> None:
            with sessions(engine).begin() as session:
                seed.reset(seed.place_of(session, store))

        with server.resetting(reset) as reset_url:
            code = subprocess.run(
                suite.command(folder, *arguments),
                cwd=folder,
                env=suite.environment(running.base_url, reset_url),
                check=False,
            ).returncode
        engine.dispose()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
