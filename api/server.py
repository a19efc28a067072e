"""The HTTP server: uvicorn, whose connections nobody holds for nothing, and which sends those home first who
would otherwise stay.
"""

from __future__ import annotations

import socket
from typing import Any

import uvicorn
from fastapi import FastAPI

from foundation.connection_limits import ConnectionLimits
from foundation.http_connection import connections


class Server(uvicorn.Server):
    """Ends the streams of jobs when it begins to stop: they have no end of their own to wait for."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app = self.config.app
        wiring = getattr(app.state, "wiring", None) if isinstance(app, FastAPI) else None
        if wiring is not None:
            wiring.event_feed.say_goodbye()
        await super().shutdown(sockets)


def configured(app: Any, limits: ConnectionLimits, **options: Any) -> Server:
    """A server of `app`; `options` are uvicorn's."""
    config = uvicorn.Config(
        app,
        http=connections(limits),
        ws="none",
        # The app writes a better one.
        access_log=False,
        log_config=None,
        server_header=False,
        **options,
    )
    return Server(config)
