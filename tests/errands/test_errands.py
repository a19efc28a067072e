"""The errands process as it is started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from errands.errands import Errands
from errands.sweep import BatchCleanup, of_batches
from foundation import leash
from foundation.settings import Settings
from storage import leases, queue
from storage.rounds import Rounds
from tests import servers
from tests.worker.scene import wait_for

PROGRAM = [sys.executable, "-m", "errands"]


def environment(settings: Settings) -> dict[str, str]:
    return {
        **servers.environment(settings),
        "LUTHIER_API_URL": settings.api_url,
        "LUTHIER_INTERNAL_KEY": settings.internal_key,
        leash.ENV: "1",
    }


@contextmanager
def running(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(PROGRAM, env=environment(settings), stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def settings(
    tmp_path: Path,
    database_url: str,
    broker_url: str,
    blob_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    monkeypatch.setattr(queue.app.conf, "broker_url", broker_url)
    return Settings(
        database_url=database_url,
        broker_url=broker_url,
        blob_url=blob_url,
        data_dir=tmp_path,
        api_url="http://127.0.0.1:1",
        internal_key="internal",
    )


def test_process_takes_messages_ends_at_sigterm_and_leaves_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    assert queue.run_errand(queue.RUN_BATCH, "batch_unknown")
    assert queue.depth(queue.ERRANDS_QUEUE) == 1
    with running(settings) as process:
        wait_for(lambda: queue.depth(queue.ERRANDS_QUEUE) == 0, what="the message's end")
        assert len(list((tmp_path / "errands").iterdir())) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    assert list((tmp_path / "errands").iterdir()) == []


def test_sweep_rings_for_what_is_due_as_far_as_no_message_waits(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    errands = Errands(settings)
    monkeypatch.setattr(leases, "runnable", lambda *_: ["one", "two"])
    assert queue.run_errand(queue.RUN_BATCH, "three")
    for _ in range(2):
        of_batches(errands).once()
        assert queue.depth(queue.ERRANDS_QUEUE) == 2
    errands.close()


def test_sweep_rings_on_while_the_blob_store_does_not_answer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    errands = Errands(settings)
    with errands.blobs.writer("batches/batch_gone/1-1") as writer:
        writer.commit()
    is_deleting, is_over = threading.Event(), threading.Event()

    def delete(_key: str) -> None:
        is_deleting.set()
        is_over.wait()

    monkeypatch.setattr(errands.blobs, "delete", delete)
    monkeypatch.setattr(leases, "runnable", lambda *_: ["one"])
    rounds: list[Rounds] = [BatchCleanup(errands), of_batches(errands)]
    for each in rounds:
        each.interval_s = 0.05
        each.start()
    assert is_deleting.wait(10)
    for _ in range(3):
        wait_for(lambda: queue.depth(queue.ERRANDS_QUEUE) == 1, what="the message")
        with queue.app.connection_or_acquire() as connection:
            connection.default_channel.queue_purge(queue.ERRANDS_QUEUE)
    for each in rounds:
        each.stop()
    is_over.set()
    wait_for(lambda: not any(each._thread.is_alive() for each in rounds), what="the threads' end")
    errands.close()


def test_missing_setting_is_one_clear_line() -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("LUTHIER_")}
    env |= {f"LUTHIER_{name}_URL": "x" for name in ("DATABASE", "BROKER", "BLOB")}
    done = subprocess.run(PROGRAM, env=env, capture_output=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == ["LUTHIER_API_URL is not set"]


def test_process_imports_no_trainer() -> None:
    """Its image holds none."""
    program = (
        "import sys, errands.tasks; print([m for m in sys.modules"
        " if m.partition('.')[0] in ('torch', 'training', 'modeling', 'transformers')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"
