"""`python -m serving --base ID --host H --port P`: an inference server for one base model.

Everything else comes from the environment: `foundation.settings.Settings` and `serving.settings`.
"""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import sys
from typing import TYPE_CHECKING

from foundation import garbage
from foundation.connection_limits import ConnectionLimits, raise_descriptor_limit
from foundation.errors import LuthierError
from foundation.leash import exit_with_parent
from foundation.settings import BadSetting, Settings
from storage.blobs.blobs import open_store
from storage.models.base_models import BaseModel, Catalogue

from .settings import ServingSettings

if TYPE_CHECKING:
    from .served_base import ServedBase

GRACE_S = 3
"""How long open requests may go on after SIGTERM."""


def main() -> int:
    exit_with_parent()
    parser = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    parser.add_argument("--base", required=True, help="id or alias of a base model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = Settings.from_env()
        catalogue = Catalogue.load(settings.data_dir, settings.aliases)
        base = _find_base(arguments.base, catalogue)
        if not settings.internal_key and not _is_loopback(arguments.host):
            raise BadSetting(
                "without LUTHIER_INTERNAL_KEY this server checks no key, so it listens on loopback only"
            )
        aliases = {alias for alias, base_id in catalogue.aliases.items() if base_id == base.id}
        names = frozenset({base.id, *aliases})
        return _serve(base, names, settings, arguments.host, arguments.port)
    except LuthierError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _find_base(name: str, catalogue: Catalogue) -> BaseModel:
    base = catalogue.get(name)
    if base is None:
        known = ", ".join(b.id for b in catalogue.all())
        raise BadSetting(f"there is no base model {name}; there are: {known}")
    return base


def _serve(base: BaseModel, names: frozenset[str], settings: Settings, host: str, port: int) -> int:
    # A worker thread that finds no work sleeps instead of spinning: where other processes compute on
    # the same cores, spinning costs many times what it saves. The variable is read on torch's import.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    serving_settings = ServingSettings.from_env()

    import uvicorn

    from foundation.http_connection import connections

    from . import served_base
    from .app import create_app

    async def load() -> ServedBase:
        served = await served_base.load(
            base,
            names,
            bases_dir=settings.bases_dir,
            cache_dir=settings.data_dir / "adapters" / base.id,
            blobs=open_store(settings.blob_url) if settings.blob_url else None,
            settings=serving_settings,
        )
        garbage.collect_seldom()
        return served

    has_failed = False

    def stop() -> None:
        nonlocal has_failed
        has_failed = True
        server.should_exit = True

    app = create_app(load, internal_key=settings.internal_key, on_failure=stop)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=connections(ConnectionLimits(max_connections=raise_descriptor_limit())),
            ws="none",
            host=host,
            port=port,
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
        )
    )
    server.run()
    return 1 if has_failed else 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    raise SystemExit(main())
