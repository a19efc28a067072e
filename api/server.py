"""The HTTP server: uvicorn, which sends those home first who would otherwise stay."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI


class Server(uvicorn.Server):
    """Ends the streams of jobs when it begins to stop: they have no end of their own to wait for."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app = self.config.app
        wiring = getattr(app.state, "wiring", None) if isinstance(app, FastAPI) else None
        if wiring is not None:
            wiring.event_feed.say_goodbye()
        await super().shutdown(sockets)
