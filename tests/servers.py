"""The real servers that tests run on: PostgreSQL, Valkey and SeaweedFS, each with its own clients."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import socketserver
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import psycopg
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from psycopg import sql

from embedded import ports, process
from embedded.postgres import Postgres
from embedded.valkey import Valkey
from foundation.settings import Settings
from migrations.upgrade import upgrade

S3_BUCKET = "luthier-tests"
S3_ACCESS_KEY = "testaccesskey"
S3_SECRET_KEY = "testsecretkey0123456789"  # of a server that lives as long as the test run
_TEMPLATE = "luthier_template"
_START_DEADLINE_S = 30.0


def make_template(postgres: Postgres) -> str:
    """Migrate one database that the tests' databases are copied from; returns its name."""
    _execute(postgres, "CREATE DATABASE {}", _TEMPLATE)
    upgrade(postgres.url(_TEMPLATE))
    return _TEMPLATE


@contextmanager
def fresh_database(postgres: Postgres, template: str) -> Iterator[str]:
    """The URL of a migrated, empty database that is dropped at the end."""
    name = f"test_{uuid.uuid4().hex}"
    _execute(postgres, "CREATE DATABASE {} TEMPLATE {}", name, template)
    try:
        yield postgres.url(name)
    finally:
        _execute(postgres, "DROP DATABASE {} WITH (FORCE)", name)


@contextmanager
def fresh_settings(
    postgres: Postgres, template: str, valkey: Valkey, folder: Path, **more: Any
) -> Iterator[Settings]:
    """Of a deployment of its own: a fresh database, and blobs and data under `folder`."""
    with fresh_database(postgres, template) as database_url:
        yield Settings(
            database_url=database_url,
            broker_url=valkey.url(),
            blob_url=f"file://{folder / 'blobs'}",
            data_dir=folder / "data",
            **more,
        )


@contextmanager
def frozen(postgres: Postgres, *, is_server_too: bool) -> Iterator[None]:
    """Its processes neither answer nor refuse; without the server itself only those of connections."""
    pids = process_ids(postgres)
    stopped = pids if is_server_too else pids[1:]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def process_ids(postgres: Postgres) -> list[int]:
    """The server's, and then those of the connections to it."""
    server_pid = int((postgres.directory / "postmaster.pid").read_text().split()[0])
    with psycopg.connect(postgres.url("postgres")) as connection:
        query = (
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> %s"
        )
        rows = connection.execute(query, [connection.info.backend_pid]).fetchall()
    return [server_pid, *(pid for (pid,) in rows)]


def _execute(postgres: Postgres, statement: str, *names: str) -> None:
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@contextmanager
def seaweedfs(directory: Path) -> Iterator[str]:
    """`weed mini` in `directory`; gives the endpoint's URL once it takes a write."""
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": S3_ACCESS_KEY, "secretKey": S3_SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    identities = directory / "s3.json"
    identities.write_text(json.dumps({"identities": [identity]}))
    data = directory / "data"
    data.mkdir()
    port = ports.free()
    endpoint = f"http://127.0.0.1:{port}"
    with (directory / "weed.log").open("ab") as log:
        child = process.spawn(_weed(directory, data, identities, port), log)
    try:
        _wait_for_write(endpoint, directory / "weed.log")
        yield endpoint
    finally:
        process.stop(child)


def _weed(directory: Path, data: Path, identities: Path, port: int) -> process.Command:
    argv = [str(Path(sys.executable).with_name("weed")), "-logtostderr=true", "mini"]
    # Without -ip.bind it listens everywhere, and by default it reports to its makers.
    argv += [f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]
    argv += ["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    for server in ("master", "volume", "filer"):
        argv += [f"-{server}.port={ports.free()}", f"-{server}.port.grpc={ports.free()}"]
    argv += [f"-s3.port={port}", f"-s3.port.grpc={ports.free()}", f"-s3.config={identities}"]
    argv += ["-s3.autoCreateBucket=false"]
    # Nothing of its data outlives the run: no reason to wait seconds for a clean stop.
    return process.supervised(
        "seaweedfs",
        argv,
        cwd=directory,
        stop_signal=signal.SIGKILL,
        orphan_signal=signal.SIGKILL,
    )


def _wait_for_write(endpoint: str, log: Path) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=S3_ACCESS_KEY,
        aws_secret_access_key=S3_SECRET_KEY,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            connect_timeout=2,
            read_timeout=5,
            retries={"total_max_attempts": 1},
        ),
    )
    deadline = time.monotonic() + _START_DEADLINE_S
    # The health check says OK seconds before volumes accept writes, so only a write will do.
    while True:
        try:
            client.create_bucket(Bucket=S3_BUCKET)
            client.put_object(Bucket=S3_BUCKET, Key="ready", Body=b"ready")
            break
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no S3 server: {error}; {log.read_text()[-2000:]}") from error
        time.sleep(0.05)
    client.close()


def s3_environment() -> dict[str, str]:
    """The credentials as boto3 finds them."""
    return {"AWS_ACCESS_KEY_ID": S3_ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": S3_SECRET_KEY}


def s3_url(endpoint: str) -> str:
    """A blob URL with a prefix of its own."""
    return f"s3://{S3_BUCKET}/{uuid.uuid4().hex}?endpoint={endpoint}&region=us-east-1"


@contextmanager
def cutting_proxy(target_url: str, cut_after_bytes: int, num_cuts: int) -> Iterator[str]:
    """A TCP proxy whose first `num_cuts` long replies break off after `cut_after_bytes`."""
    target = urlsplit(target_url)
    cuts_left = [num_cuts]

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            upstream = socket.create_connection((target.hostname, target.port))
            with upstream, closing(selectors.DefaultSelector()) as selector:
                selector.register(self.request, selectors.EVENT_READ, upstream)
                selector.register(upstream, selectors.EVENT_READ, self.request)
                num_bytes = 0
                while True:
                    for ready, _ in selector.select():
                        data = ready.fileobj.recv(65536)  # type: ignore[union-attr]
                        if not data:
                            return
                        if ready.fileobj is upstream:
                            num_bytes += len(data)
                        if num_bytes > cut_after_bytes and cuts_left[0]:
                            cuts_left[0] -= 1
                            return
                        ready.data.sendall(data)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}"
        finally:
            proxy.shutdown()


def is_running(pid: int) -> bool:
    """Whether `pid` is a live process (a zombie is not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def environment(settings: Settings) -> dict[str, str]:
    """What any process is told to work on what these settings name."""
    return {
        **os.environ,
        "LUTHIER_DATABASE_URL": settings.database_url,
        "LUTHIER_BROKER_URL": settings.broker_url,
        "LUTHIER_BLOB_URL": settings.blob_url,
        "LUTHIER_DATA_DIR": str(settings.data_dir),
    }
