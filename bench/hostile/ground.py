"""What an attack stands on: the attacker's connections, and a count of what it was answered."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from .tenants import Tenant

PAUSE_S = 0.5
"""Between two requests of a kind that is not about their number."""
# Another address than the other tenant's, so that a limit for each address does not strike both.
ATTACKER_ADDRESS = "127.0.0.2"
REFUSALS = ("400", "413", "422", "429")


@dataclass
class Report:
    """How the server took it."""

    replies: Counter[str] = field(default_factory=Counter)
    """By status, or by the kind of failure."""
    slowest_s: float = 0.0
    longest_open_s: float = 0.0
    """Of requests that were still without an answer in the end."""
    problem: str = ""

    @property
    def is_refusal(self) -> bool:
        return bool(self.replies) and all(status in REFUSALS for status in self.replies)

    def __str__(self) -> str:
        counts = ", ".join(f"{n} x {status}" for status, n in sorted(self.replies.items()))
        return self.problem or (f"{counts or 'none'}, slowest {self.slowest_s:.1f} s")


class Ground:
    """What an attack stands on."""

    def __init__(self, tenant: Tenant, http: httpx.AsyncClient) -> None:
        self.tenant = tenant
        self.http = http
        self.is_on = asyncio.Event()
        self.report = Report()
        self._open: dict[int, float] = {}
        self._count = 0

    async def post(self, path: str, body: dict[str, Any] | bytes) -> httpx.Response | None:
        """None where nothing comes back."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._count += 1
        number, began = self._count, time.perf_counter()
        self._open[number] = began
        status, reply = "cancelled", None
        try:
            headers = {"content-type": "application/json"}
            reply = await self.http.post(path, content=content, headers=headers)
            status = str(reply.status_code)
        except httpx.HTTPError as error:
            status = type(error).__name__
        finally:
            if status != "cancelled":
                del self._open[number]
                self.report.replies[status] += 1
                self.report.slowest_s = max(self.report.slowest_s, time.perf_counter() - began)
        return reply

    async def repeat(self, path: str, *bodies: bytes) -> None:
        """One after the other, with pauses, again and again."""
        self.is_on.set()
        while True:
            for body in bodies:
                await self.post(path, body)
                await asyncio.sleep(PAUSE_S)

    async def flood(self, path: str, body: Callable[[], bytes], num_parallel: int) -> None:
        """So many at a time, without a pause but after a refusal."""

        async def one() -> None:
            while True:
                reply = await self.post(path, body())
                if reply is None or reply.status_code != 200:
                    await asyncio.sleep(PAUSE_S)

        self.is_on.set()
        await asyncio.gather(*(one() for _ in range(num_parallel)))

    async def upload(self, content: bytes, purpose: str) -> str:
        files = {"file": ("rows.jsonl", content)}
        reply = await self.http.post("files", files=files, data={"purpose": purpose})
        return str(reply.raise_for_status().json()["id"])

    def connect(self, sent: bytes) -> socket.socket:
        place = urlsplit(self.tenant.base_url)
        it = socket.socket()
        it.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        it.bind((ATTACKER_ADDRESS, 0))
        it.settimeout(2.0)
        try:
            it.connect((place.hostname, place.port))
            it.sendall(sent)
            self.report.replies["socket"] += 1
        except OSError as error:
            self.report.replies[type(error).__name__] += 1
        return it

    async def rest(self) -> None:
        self.is_on.set()
        await asyncio.Event().wait()

    def finish(self) -> Report:
        now = time.perf_counter()
        self.report.longest_open_s = max((now - at for at in self._open.values()), default=0.0)
        return self.report


async def run(
    attack: Callable[[Ground], Awaitable[None]],
    tenant: Tenant,
    is_on: Callable[[], None],
    is_over: Callable[[], bool],
) -> Report:
    """Attack until `is_over`, or until the attack ends by itself; `is_on` is called once it has effect."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    transport = httpx.AsyncHTTPTransport(local_address=ATTACKER_ADDRESS, limits=limits)
    async with httpx.AsyncClient(
        base_url=tenant.base_url, headers=tenant.headers, timeout=300.0, transport=transport
    ) as http:
        ground = Ground(tenant, http)
        task = asyncio.ensure_future(attack(ground))
        has_told = False
        while not is_over() and not (task.done() and has_told):
            if not has_told and (ground.is_on.is_set() or task.done()):
                is_on()
                has_told = True
            await asyncio.sleep(0.02)
        report = ground.finish()
        if task.done() and (error := task.exception()) is not None:
            report.problem = f"{type(error).__name__}: {error}"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return report
