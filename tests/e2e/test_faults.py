"""Parts of the embedded stack are killed, and the work goes on."""

from __future__ import annotations

import io
import os
import signal
import socket
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from embedded.liveness import SILENT_AFTER_S
from tests.e2e import jobs
from tests.e2e.stack import Stack, free_port, serving, start, wait_for, wait_until_ready
from tests.factories import colour_rows

# Some seconds of work, with several checkpoints on the way.
# What dies here dies in tests/worker, too, in seconds; this is the whole stack.
pytestmark = pytest.mark.slow

LONG = jobs.hyperparameters(n_epochs=5, batch_size=2)
ROWS = colour_rows(80)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    data = tmp_path_factory.mktemp("faults") / "data"
    with serving(data, "--base", "tiny-random") as running:
        yield running


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with stack.client() as client:
        yield client


@pytest.fixture(scope="module")
def unbroken(stack: Stack) -> tuple[list[object], bytes]:
    """The metrics and the weights of the job when nothing is killed."""
    with stack.client() as client:
        job = jobs.create(client, ROWS, method=LONG)
        assert jobs.wait(client, job.id, timeout_s=120).status == "succeeded"
        return jobs.steps(client, job.id), weights(stack, client, job.id)


def weights(stack: Stack, client: openai.OpenAI, job_id: str) -> bytes:
    model = client.fine_tuning.jobs.retrieve(job_id).fine_tuned_model
    reply = httpx.get(
        f"{stack.base_url}/luthier/models/{model}/adapter",
        headers={"authorization": f"Bearer {stack.api_key}"},
    )
    with tarfile.open(fileobj=io.BytesIO(reply.raise_for_status().content)) as tar:
        member = tar.extractfile("adapter_model.safetensors")
        assert member is not None
        return member.read()


@pytest.mark.parametrize("part", ["training", "worker"])
def test_a_job_survives_kill_9(
    stack: Stack, client: openai.OpenAI, unbroken: tuple[list[object], bytes], part: str
) -> None:
    job = jobs.create(client, ROWS, method=LONG)
    jobs.wait_for_step(client, job.id, 90)
    for pid in stack.processes(f"-m {part}"):
        os.kill(pid, signal.SIGKILL)
    done = jobs.wait(client, job.id, timeout_s=120)
    assert done.status == "succeeded", done.error
    events = jobs.events(client, job.id)
    assert len({e.message for e in events}) == len(events), "an event was told twice"
    metrics, adapter = unbroken
    assert jobs.steps(client, job.id) == metrics
    assert weights(stack, client, job.id) == adapter


def test_a_paused_job_is_a_model_and_ends_as_if_it_had_run_through(
    stack: Stack, client: openai.OpenAI, unbroken: tuple[list[object], bytes]
) -> None:
    job = jobs.create(client, ROWS, method=LONG)
    jobs.wait_for_step(client, job.id, 60)
    assert client.fine_tuning.jobs.pause(job.id).status == "running"

    def status() -> str:
        return client.fine_tuning.jobs.retrieve(job.id).status

    wait_for(lambda: status() == "paused", 30, status)
    snapshot = client.fine_tuning.jobs.checkpoints.list(job.id).data[0]
    # The trainer is free, and what it left can be tried out.
    assert jobs.ask(client, snapshot.fine_tuned_model_checkpoint, "Question number 1?") is not None
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    assert jobs.wait(client, job.id, timeout_s=120).status == "succeeded"
    assert jobs.steps(client, job.id) == unbroken[0]
    assert weights(stack, client, job.id) == unbroken[1]


def test_the_api_and_serving_come_back(stack: Stack, client: openai.OpenAI) -> None:
    for part in ("api", "serving"):
        for pid in stack.processes(f"-m {part}"):
            os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    wait_until_ready(stack)
    assert jobs.ask(client, "tiny-random", "Hello?") is not None


def test_serving_that_is_frozen_is_started_again(stack: Stack, client: openai.OpenAI) -> None:
    (frozen,) = stack.processes("-m serving --")
    # Whoever was started just now is given minutes until it has answered for the first time; it is asked every 2 s.
    time.sleep(10)
    os.kill(frozen, signal.SIGSTOP)
    # Once it is known to be silent, chats are told so at once instead of waiting with it.
    wait_for(lambda: is_told_at_once(client), SILENT_AFTER_S, stack.tail)
    wait_for(lambda: stack.processes("-m serving --") not in ([], [frozen]), 120, stack.tail)
    wait_until_ready(stack)
    assert jobs.ask(client, "tiny-random", "Hello?") is not None
    assert "did not answer GET /readyz for 3" in stack.tail()


def is_told_at_once(client: openai.OpenAI) -> bool:
    try:
        jobs.ask(client.with_options(timeout=1), "tiny-random", "Hello?")
    except openai.InternalServerError as error:
        return error.status_code == 503
    except openai.APITimeoutError:
        return False
    raise AssertionError("it answered")


def test_kill_9_of_the_parent_in_the_middle_of_a_job_then_start_goes_on(
    tmp_path: Path, unbroken: tuple[list[object], bytes]
) -> None:
    data = tmp_path / "data"
    with serving(data, "--base", "tiny-random") as first, first.client() as client:
        job = jobs.create(client, ROWS, method=LONG)
        jobs.wait_for_step(client, job.id, 60)
        first.process.send_signal(signal.SIGKILL)
        wait_for(lambda: not first.processes(), 8, lambda: f"left: {first.processes()}")
    with serving(data, "--base", "tiny-random") as second, second.client() as client:
        assert jobs.wait(client, job.id, timeout_s=120).status == "succeeded"
        assert jobs.steps(client, job.id) == unbroken[0]
        assert weights(second, client, job.id) == unbroken[1]
        # And SIGTERM in the middle of another one ends everything, in time.
        job = jobs.create(client, ROWS, method=LONG)
        jobs.wait_for_step(client, job.id, 10)
        began = time.monotonic()
        assert second.stop() == 0
        assert time.monotonic() - began < 10
        wait_for(lambda: not second.processes(), 1, lambda: f"left: {second.processes()}")


def test_a_second_server_on_the_same_data_is_refused(stack: Stack) -> None:
    second = start(stack.data, port=free_port())
    assert second.process.wait(timeout=20) != 0
    assert "already" in second.tail() or "in use" in second.tail()


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = start(tmp_path / "data", port=port)
        assert refused.process.wait(timeout=20) != 0
    assert str(port) in refused.tail()
    assert "Traceback" not in refused.tail()
    assert not refused.processes()
