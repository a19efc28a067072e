"""Delivers webhooks: looks for what is due, signs and posts it, and notes how that went.

Its threads are its own, so that batches of hours never keep a delivery waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import structlog
from sqlalchemy.orm import Session, sessionmaker

from foundation import outbound
from foundation.outbound import CannotSend
from foundation.vault import Vault
from storage.webhooks import deliveries as webhook_deliveries
from storage.webhooks import post as webhook_post
from storage.webhooks import turns as webhook_turns
from storage.webhooks import webhooks
from storage.webhooks.deliveries import WebhookDeliveryRow

POLL_S = 1.0
SLOTS = 64
"""Deliveries at a time; `webhook_turns` shares them out among the projects."""

log = structlog.get_logger()


class Webhooks:
    """Runs on threads of its own between `start` and `stop`; one that is cut off is made again."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        vault: Vault,
        *,
        allow_private: bool,
        timeout_s: float = outbound.TIMEOUT_S,
    ) -> None:
        self._sessions = sessions
        self._vault = vault
        self._allow_private = allow_private
        self._timeout_s = timeout_s
        self._is_over = threading.Event()
        self._has_changed = threading.Event()
        self._under_way: dict[str, str] = {}
        """Endpoints that something is being delivered to, and their projects."""
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """May be called in a signal handler: only raises flags."""
        self._is_over.set()
        self._has_changed.set()

    def _run(self) -> None:
        while not self._is_over.is_set():
            self._has_changed.clear()
            try:
                self.once()
            except Exception as error:
                # The database is away: the next round finds the same work.
                log.warning("webhooks.failed", error=repr(error))
            self._has_changed.wait(POLL_S)

    def once(self) -> None:
        """Begin what is due, as far as it is its turn."""
        with self._sessions.begin() as session:
            taken = webhook_turns.take(session, SLOTS, dict(self._under_way))
            secrets = [webhooks.live_secrets(session, endpoint) for _, endpoint in taken]
        for (row, endpoint), live in zip(taken, secrets, strict=True):
            self._under_way[endpoint.id] = endpoint.project_id
            threading.Thread(
                target=self._deliver, args=(row, endpoint.url, live), name="webhook", daemon=True
            ).start()

    def _deliver(self, row: WebhookDeliveryRow, url: str, kept: Sequence[str]) -> None:
        try:
            secrets = [webhooks.opened(self._vault, row.endpoint_id, each) for each in kept]
            problem = self._post(row, url, secrets)
            with self._sessions.begin() as session:
                if problem is None:
                    webhook_deliveries.delivered(session, row)
                    is_over = True
                else:
                    is_over = not webhook_deliveries.failed(session, row)
        except Exception as error:
            # It is still in its row, and will be due again.
            log.warning("webhook.lost", delivery=row.id, error=repr(error))
        else:
            self._tell(row, problem, is_over)
        finally:
            del self._under_way[row.endpoint_id]
            self._has_changed.set()

    def _post(self, row: WebhookDeliveryRow, url: str, secrets: Sequence[str]) -> str | None:
        """What went wrong, or None."""
        try:
            status = webhook_post.send(
                url,
                row.id,
                row.body(),
                secrets,
                allow_private=self._allow_private,
                timeout_s=self._timeout_s,
            )
        except CannotSend as error:
            return str(error)
        return None if 200 <= status < 300 else f"It answered {status}."

    def _tell(self, row: WebhookDeliveryRow, problem: str | None, is_over: bool) -> None:
        told = {"delivery": row.id, "endpoint": row.endpoint_id, "attempt": row.attempts}
        if problem is None:
            log.info("webhook.delivered", **told)
        elif is_over:
            log.error("webhook.given_up", problem=problem, **told)
        else:
            log.warning("webhook.failed", problem=problem, **told)
