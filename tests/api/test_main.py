"""The api as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.api.gateway.fake_backend import FakeBackend
from tests.api.stack import Api, Tenant, environment, free_port, process, running


def test_sigterm_ends_it_soon_even_while_a_stream_is_open(api: Api, tenant: Tenant) -> None:
    with running(FakeBackend(is_endless=True).app()) as backend:
        settings = api.settings.replace(backends={"tiny-random": (backend,)})
        with process(settings, grace_s=0.5) as (url, child):
            is_open = threading.Event()

            def listen() -> None:
                body = {"model": "tiny-random", "messages": [], "stream": True}
                with (
                    httpx.Client(base_url=url, headers=tenant.headers, trust_env=False) as http,
                    http.stream("POST", "/v1/chat/completions", json=body) as reply,
                ):
                    try:
                        for _ in reply.iter_bytes():
                            is_open.set()
                    except httpx.RemoteProtocolError:
                        return  # broken off, as it must be

            listener = threading.Thread(target=listen)
            listener.start()
            assert is_open.wait(10)
            began = time.monotonic()
            child.send_signal(signal.SIGTERM)
            _, log = child.communicate(timeout=10)
            assert time.monotonic() - began < 8
            listener.join()
    assert tenant.key.encode() not in log
    assert b'"event":"request"' in log


@pytest.mark.slow
def test_a_broker_that_is_down_holds_no_job_up(api: Api, tenant: Tenant) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    with (
        process(api.settings, LUTHIER_BROKER_URL=nowhere) as (url, _),
        httpx.Client(base_url=url, headers=tenant.headers, timeout=10, trust_env=False) as http,
    ):
        checks = http.get("/readyz").json()["checks"]
        assert {name for name, finding in checks.items() if finding != "ok"} == {"broker"}
        file = {"file": ("a.jsonl", b"{}")}
        uploaded = http.post("/v1/files", files=file, data={"purpose": "fine-tune"}).json()
        body = {"model": "tiny-random", "training_file": uploaded["id"]}
        reply = http.post("/v1/fine_tuning/jobs", json=body)
    assert reply.json()["status"] == "validating_files"


def test_it_ends_with_its_parent(api: Api) -> None:
    with process(api.settings, LUTHIER_DEATH_PIPE="1") as (_, child):
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(timeout=5) == 1
        child.stdin = None


@pytest.mark.slow
def test_a_missing_setting_is_named() -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("LUTHIER_")}
    done = subprocess.run(
        [sys.executable, "-m", "api"], env=env, capture_output=True, text=True, timeout=30
    )
    assert done.returncode != 0
    assert "LUTHIER_DATABASE_URL is not set" in done.stderr


@pytest.mark.slow
def test_a_catalogue_that_cannot_be_read_stops_the_start_with_one_line(
    api: Api, tmp_path: Path
) -> None:
    (tmp_path / "base_models.toml").write_text("[a")
    env = environment(api.settings.replace(data_dir=tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "api"], env=env, capture_output=True, text=True, timeout=30
    )
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert "base_models.toml is no catalogue of base models" in line
