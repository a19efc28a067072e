"""The worker tells now and then what machine it is on."""

from __future__ import annotations

from sqlalchemy.orm import Session, sessionmaker

from storage.forecasts import hosts
from storage.forecasts.hosts import Host
from storage.rounds import Rounds


class Presence(Rounds):
    name = "presence"
    interval_s = hosts.REPORT_S

    def __init__(self, sessions: sessionmaker[Session], worker_name: str) -> None:
        super().__init__()
        self._sessions = sessions
        self._worker_name = worker_name

    def once(self) -> None:
        with self._sessions.begin() as session:
            hosts.report(session, self._worker_name, Host.here())
