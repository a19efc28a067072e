"""`python -m api --host H --port P`: the api's process. Everything else comes from the environment."""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import suppress

from foundation import garbage, logs
from foundation.connection_limits import ConnectionLimits, raise_descriptor_limit
from foundation.errors import LuthierError
from foundation.leash import exit_with_parent
from foundation.settings import Settings
from storage.database import check_schema, sync_engine

from .app import create_app
from .server import configured

GRACE_S = 3
"""How long open requests may go on after SIGTERM."""
COULD_NOT_START = 3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m api", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    exit_with_parent()
    logs.configure()
    logging.getLogger("uvicorn").setLevel(logging.INFO)
    try:
        settings = Settings.from_env().require("database_url", "broker_url", "blob_url")
        _check_schema(settings.database_url)
        app = create_app(settings)
    except LuthierError as error:
        sys.exit(str(error))
    garbage.collect_seldom()
    max_connections = raise_descriptor_limit()
    limits = ConnectionLimits(
        max_connections=max_connections,
        max_unknown_per_address=min(settings.connections_per_address, max_connections // 2 or 1),
        trusted_proxies=settings.trusted_proxies,
    )
    server = configured(
        app,
        limits,
        host=arguments.host,
        port=arguments.port,
        timeout_graceful_shutdown=GRACE_S,
    )
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(COULD_NOT_START)


def _check_schema(database_url: str) -> None:
    engine = sync_engine(database_url, pool_size=1)
    try:
        check_schema(engine)
    finally:
        engine.dispose()


if __name__ == "__main__":
    main()
