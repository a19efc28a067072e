"""What pollers and streams of events cost the api.

`python -m bench.poll` starts PostgreSQL, Valkey and one api process, lets 20 jobs report a step a second,
and has 500 clients poll the events of these jobs once a second each while 200 others stream them. The
load comes from this process, so it takes its share of the machine, too. The same polls of `/healthz`,
which does nothing, show what the framework and the machine cost by themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvloop
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from embedded import ports
from embedded.postgres import Postgres
from embedded.valkey import Valkey
from migrations.upgrade import upgrade
from storage.database import sessions, sync_engine
from storage.ids import new_id
from storage.jobs import events, jobs
from storage.jobs.jobs import JobRow
from storage.organization import api_keys, projects

NUM_JOBS = 20
NUM_PAST_EVENTS = 60
START_TIMEOUT_S = 30.0
WARM_UP_S = 10.0


@dataclass(frozen=True)
class Load:
    pollers: int
    streams: int
    seconds: int


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.poll", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--pollers", type=int, default=500)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=20)
    load = Load(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="bench-poll-") as name:
        folder = Path(name)
        with (
            Postgres(folder / "postgres", fsync=False).running(folder / "postgres.log") as postgres,
            Valkey(folder / "valkey", fsync=False).running(folder / "valkey.log") as valkey,
        ):
            results = _measure(folder, postgres.url(), valkey.url(), load)
    machine = {"cpu_count": os.cpu_count(), "processor": platform.processor()}
    print(json.dumps({**machine, **vars(load), **results}, indent=1))


def _measure(folder: Path, database_url: str, broker_url: str, load: Load) -> dict[str, object]:
    upgrade(database_url)
    engine = sync_engine(database_url)
    opened = sessions(engine)
    key = api_keys.new_key("project")
    with opened.begin() as session:
        job_ids = _prepare(session, key)
    settings = {
        "LUTHIER_DATABASE_URL": database_url,
        "LUTHIER_BROKER_URL": broker_url,
        "LUTHIER_BLOB_URL": f"file://{folder / 'blobs'}",
        "LUTHIER_DATA_DIR": str(folder / "data"),
    }
    paths = [f"/v1/fine_tuning/jobs/{job_id}/events" for job_id in job_ids]
    with _api(folder, settings) as (port, pid), _reporting(opened, job_ids):
        floor = uvloop.run(_run(port, key, ["/healthz"], [], Load(load.pollers, 0, 5), pid))
        busy = uvloop.run(_run(port, key, paths, paths, load, pid))
        with opened() as session:
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'luthier'"
            # One of them is this session's.
            num_connections = session.scalar(text(query)) - 1
    engine.dispose()
    return {"events": busy, "database_connections": num_connections, "healthz": floor}


def _prepare(session: Session, key: str) -> list[str]:
    """A project with running jobs that have a past."""
    project = projects.create(session, "bench")
    api_keys.create(session, key, kind="project", name="bench", project_id=project.id)
    job_ids = []
    for _ in range(NUM_JOBS):
        row = JobRow(
            id=new_id("ftjob-"),
            project_id=project.id,
            organization_id=project.organization_id,
            organization_slug=project.organization_slug,
            model="tiny-random",
            base_model="tiny-random",
            training_file="file-bench",
            method="supervised",
            hyperparameters={"n_epochs": 1},
            seed=1,
        )
        jobs.create(session, row)
        job_ids.append(row.id)
        for step in range(NUM_PAST_EVENTS):
            _report(session, row.id, step)
    return job_ids


def _report(session: Session, job_id: str, step: int) -> None:
    metrics = {"step": step, "total_steps": 1000, "train_loss": 1.4, "num_tokens": 500 * step}
    message = f"Step {step}/1000: training loss=1.40"
    events.add(session, job_id, f"step:{step}", message, type="metrics", data=metrics)


@contextmanager
def _reporting(opened: sessionmaker[Session], job_ids: Sequence[str]) -> Iterator[None]:
    """Every job gets on by a step a second."""
    is_over = threading.Event()

    def report() -> None:
        step = NUM_PAST_EVENTS
        while not is_over.wait(1.0):
            with opened.begin() as session:
                for job_id in job_ids:
                    _report(session, job_id, step)
            step += 1

    thread = threading.Thread(target=report)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextmanager
def _api(folder: Path, settings: dict[str, str]) -> Iterator[tuple[int, int]]:
    """Its port and its process's id."""
    port = ports.free()
    with (folder / "api.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "api", "--port", str(port)],
            env={**os.environ, **settings},
            stdin=subprocess.PIPE,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit((folder / "api.log").read_text())
            time.sleep(0.1)
        yield port, process.pid
    finally:
        process.kill()
        process.communicate()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).is_success
    except httpx.TransportError:
        return False


async def _run(
    port: int, key: str, polled: Sequence[str], streamed: Sequence[str], load: Load, pid: int
) -> dict[str, float]:
    counts = [0]
    streams = [
        asyncio.create_task(_stream(port, key, streamed[i % len(streamed)], counts))
        for i in range(load.streams)
    ]
    await asyncio.sleep(WARM_UP_S)
    latencies_s: list[float] = []
    begin, begin_cpu_s, begin_count = time.perf_counter(), _cpu_s(pid), counts[0]
    await asyncio.gather(
        *(
            _poll(
                port,
                key,
                polled[i % len(polled)],
                begin + i / load.pollers,
                load.seconds,
                latencies_s,
            )
            for i in range(load.pollers)
        )
    )
    elapsed_s, cpu_s = time.perf_counter() - begin, _cpu_s(pid) - begin_cpu_s
    for each in streams:
        each.cancel()
    percentiles = statistics.quantiles(latencies_s, n=100)
    return {
        "polls": len(latencies_s),
        "p50_ms": round(percentiles[49] * 1e3, 1),
        "p99_ms": round(percentiles[98] * 1e3, 1),
        "max_ms": round(max(latencies_s) * 1e3, 1),
        "streamed_events_per_s": round((counts[0] - begin_count) / elapsed_s, 1),
        "api_cpu_cores": round(cpu_s / elapsed_s, 2),
    }


async def _poll(
    port: int, key: str, path: str, first_at: float, num_polls: int, latencies_s: list[float]
) -> None:
    """Once a second on one connection, whatever the answers take. By hand: a client library would cost
    more than what is measured."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = _request(path, key)
    for number in range(num_polls):
        await asyncio.sleep(max(0.0, first_at + number - time.perf_counter()))
        began = time.perf_counter()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200"):
            raise SystemExit(f"The api answered {head.decode()}")
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        latencies_s.append(time.perf_counter() - began)
    writer.close()


async def _stream(port: int, key: str, path: str, counts: list[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_request(f"{path}?stream=true", key))
    try:
        while line := await reader.readline():
            counts[0] += line.startswith(b"data:")
    finally:
        writer.close()


def _request(path: str, key: str) -> bytes:
    head = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n\r\n"
    return head.encode()


def _cpu_s(pid: int) -> float:
    """Of the process so far, on Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
