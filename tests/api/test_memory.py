from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.api.files.test_multipart import CONTENT_TYPE, part
from tests.api.gateway.fake_backend import FakeBackend
from tests.api.stack import Api, Tenant, process, running

MIB = 1 << 20


def peak_rss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


@pytest.mark.slow
def test_400_mb_pass_through_in_little_memory(api: Api, tenant: Tenant, tmp_path: Path) -> None:
    line = b'{"messages": [{"role": "user", "content": "' + b"x" * 4000 + b'"}]}\n'
    chunk = line * 256
    num_chunks = 400 * MIB // len(chunk) + 1

    def body() -> Iterator[bytes]:
        yield part("purpose", b"fine-tune") + part("file", b"", "big.jsonl")[:-2]
        for _ in range(num_chunks):
            yield chunk
        yield b"\r\n--b--\r\n"

    settings = api.settings.replace(blob_url=f"file://{tmp_path}")
    with process(settings) as (url, child):
        http = httpx.Client(base_url=url, headers=tenant.headers, timeout=120, trust_env=False)
        with http:
            small = {"file": ("a.jsonl", line)}
            http.post("/v1/files", files=small, data={"purpose": "fine-tune"}).raise_for_status()
            before = peak_rss_bytes(child.pid)
            reply = http.post("/v1/files", content=body(), headers={"content-type": CONTENT_TYPE})
            file = reply.raise_for_status().json()
            assert file["bytes"] == num_chunks * len(chunk)
            assert peak_rss_bytes(child.pid) - before < 60 * MIB
            num_bytes = 0
            with http.stream("GET", f"/v1/files/{file['id']}/content") as content:
                for piece in content.iter_bytes():
                    num_bytes += len(piece)
            assert num_bytes == file["bytes"]
            assert peak_rss_bytes(child.pid) - before < 60 * MIB


def test_large_bodies_of_a_project_are_in_memory_one_after_the_other(
    api: Api, tenant: Tenant
) -> None:
    """Four of them, each nearly as long as it may be, all sent at once."""
    content = b'{"model": "tiny-random", "messages": [], "user": "%s"}' % (b"x" * 7 * MIB)

    def post(http: httpx.Client) -> int:
        return http.post("/v1/chat/completions", content=content).status_code

    backend = FakeBackend()
    with running(backend.app()) as url:
        settings = api.settings.replace(backends={"tiny-random": (url,)})
        with (
            process(settings) as (api_url, child),
            httpx.Client(base_url=api_url, headers=tenant.headers, timeout=60) as http,
            ThreadPoolExecutor(4) as threads,
        ):
            post(http)
            before = peak_rss_bytes(child.pid)
            assert set(threads.map(post, [http] * 4)) == {200}
            assert peak_rss_bytes(child.pid) - before < 28 * MIB
    assert [len(body["user"]) for body, _ in backend.requests] == [7 * MIB] * 5
