"""Who shares a server with an attacker is answered as if alone, and the server outlives it.

bench/hostile/ measures what the attacks cost in time; here it does not matter.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import openai
import pytest

from bench.hostile import ground
from bench.hostile.attacks import ATTACKS
from bench.hostile.ground import Report
from bench.hostile.tenants import Tenant, new_tenant, wait_for_job

from .jobs import ask
from .stack import Stack

QUESTIONS = ("Who is there?", "And then?", "What else is new?")


@pytest.fixture(scope="module")
def tenants(stack: Stack) -> tuple[Tenant, Tenant]:
    """The attacker and the other."""
    admin_key = (stack.data / "admin_key").read_text().strip()
    attacker, other = (
        new_tenant(stack.base_url, admin_key, name, "tiny-random") for name in ("attacker", "other")
    )
    return attacker, other


@contextmanager
def attacking(name: str, attacker: Tenant) -> Iterator[list[Report]]:
    """The attack goes on for the length of the block; its report is there afterwards."""
    is_on, is_over, reports = threading.Event(), threading.Event(), list[Report]()

    def attack() -> None:
        report = ground.run(ATTACKS[name].run, attacker, is_on.set, is_over.is_set)
        reports.append(asyncio.run(report))

    thread = threading.Thread(target=attack)
    thread.start()
    try:
        assert is_on.wait(60)
        yield reports
    finally:
        is_over.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "multiplier of 1e22",
        "160 kB of <",
        "4,000 messages",
        "1,000,000 wrong messages",
        "300,000 wrong biases",
        "300,000 wrong metadata",
        "2,048 prompts, n = 128",
        "64 chats, n = 100",
        "three 12 MB bodies",
    ],
)
def test_chats_are_answered_as_if_alone(
    stack: Stack, tenants: tuple[Tenant, Tenant], name: str
) -> None:
    attacker, other = tenants
    before = stack.processes()
    with openai.OpenAI(
        base_url=other.base_url, api_key=other.api_key, max_retries=0, timeout=60
    ) as client:
        alone = [ask(client, "tiny-random", question) for question in QUESTIONS]
        with attacking(name, attacker) as reports:
            among_others = [ask(client, "tiny-random", question) for question in QUESTIONS]
        assert among_others == alone
        (report,) = reports
        assert not report.problem
        assert report.replies.keys() <= {"200", "400", "413", "429"}, report
        assert ask(client, "tiny-random", QUESTIONS[0]) == alone[0]
    assert httpx.get(stack.base_url.replace("/v1", "/readyz")).status_code == 200
    # A trainer may have come; nobody went.
    assert set(before) <= set(stack.processes())


@pytest.mark.slow
def test_a_job_goes_before_another_projects_queue(
    stack: Stack, tenants: tuple[Tenant, Tenant]
) -> None:
    attacker, other = tenants
    with attacking("60 queued jobs", attacker), attacker.http(30) as http:
        wait_for_job(other, timeout_s=120)
        jobs = http.get("fine_tuning/jobs", params={"limit": 100}).json()["data"]
        for job in jobs:
            http.post(f"fine_tuning/jobs/{job['id']}/cancel")
    waiting = [job for job in jobs if job["status"] in ("validating_files", "queued")]
    assert len(waiting) > 30
