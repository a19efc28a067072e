"""The api as tests meet it: a real server on a loopback port, real projects, the unmodified client."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
from fastapi import FastAPI
from sqlalchemy.orm import Session, sessionmaker

from api.app import create_app
from api.server import configured
from foundation.connection_limits import ConnectionLimits
from foundation.settings import Settings
from storage.blobs import artifact_keys, blobs
from storage.blobs.blobs import BlobStore
from storage.database import sessions, sync_engine
from storage.ids import new_id
from storage.models import artifacts, models
from storage.organization import api_keys, projects
from tests import servers


@dataclass(frozen=True)
class Tenant:
    project_id: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}


@dataclass(frozen=True)
class Api:
    """A running api, and its database and blobs for looking inside."""

    url: str
    settings: Settings
    app: FastAPI
    sessions: sessionmaker[Session]
    blobs: BlobStore

    def tenant(self, *, organization_slug: str = "acme") -> Tenant:
        """A new project with a key."""
        key = api_keys.new_key("project")
        with self.sessions.begin() as session:
            project = projects.create(session, "Tests", organization_slug=organization_slug)
            api_keys.create(session, key, kind="project", name="Tests", project_id=project.id)
            return Tenant(project.id, key)

    def admin_key(self) -> str:
        key = api_keys.new_key("admin")
        with self.sessions.begin() as session:
            api_keys.create(session, key, kind="admin", name="Tests", project_id=None)
        return key

    def client(self, tenant: Tenant, *, admin_key: str | None = None) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key=tenant.key,
            admin_api_key=admin_key,
            max_retries=0,
        )

    def http(self, tenant: Tenant | None = None) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, headers=tenant.headers if tenant else {}, trust_env=False
        )

    def tuned_model(
        self,
        tenant: Tenant,
        content: bytes = b"weights",
        base_model: str = "tiny-random",
        kind: str = "lora",
    ) -> models.ModelRow:
        """A model as a worker would publish it; `content` stands for the artifact's tar."""
        artifact_id = new_id(artifact_keys.ID_PREFIX)
        with self.blobs.writer(artifact_keys.key(artifact_id)) as writer:
            writer.write(content)
            blob = writer.commit()
        with self.sessions.begin() as session:
            artifacts.create(
                session,
                artifact_id,
                project_id=tenant.project_id,
                base_model=base_model,
                kind=kind,
                spec={"rank": 8},
                tensors=None,
                blob=blob,
            )
            return models.create(
                session,
                models.new_name(base_model, "acme", "tests"),
                project_id=tenant.project_id,
                artifact_id=artifact_id,
                base_model=base_model,
                job_id=new_id("ftjob-"),
                owned_by="acme",
            )


@contextmanager
def running_api(settings: Settings, limits: ConnectionLimits = ConnectionLimits()) -> Iterator[Api]:
    app = create_app(settings)
    engine = sync_engine(settings.database_url)
    with running(app, limits) as url:
        yield Api(url, settings, app, sessions(engine), blobs.open_store(settings.blob_url))
    engine.dispose()


@contextmanager
def running(app: Any, limits: ConnectionLimits = ConnectionLimits()) -> Iterator[str]:
    """Any ASGI app on a free port; gives its URL."""
    server = configured(app, limits, port=0, timeout_graceful_shutdown=2)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        assert time.monotonic() < deadline, "the server did not start in time"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


def environment(settings: Settings) -> dict[str, str]:
    """Of a process with these settings."""
    return {
        **servers.environment(settings),
        "LUTHIER_BACKENDS": ",".join(f"{b}={u}" for b, us in settings.backends.items() for u in us),
        "LUTHIER_TRAIN_UNSERVED": "1" if settings.train_unserved else "",
    }


@contextmanager
def process(
    settings: Settings, *, grace_s: float | None = None, **env: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`python -m api`, up and answering. `grace_s` is how long it lets requests go on that are open when it ends."""
    port = free_port()
    program = ["-m", "api"]
    if grace_s is not None:
        code = "import sys; import api.__main__ as api; api.GRACE_S = float(sys.argv.pop(1)); api.main()"
        program = ["-c", code, str(grace_s)]
    child = subprocess.Popen(
        [sys.executable, *program, "--port", str(port)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**environment(settings), **env},
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    try:
        while True:
            try:
                httpx.get(f"{url}/healthz", trust_env=False)
                break
            except httpx.TransportError:
                assert child.poll() is None, child.communicate()[1].decode()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield url, child
    finally:
        child.kill()
        child.communicate()


def wait_until(is_so: Any, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
