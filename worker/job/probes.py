"""Probes: prompts that a job's owner wants answered before training and after each epoch, by what serves models.

They are asked beside training, of checkpoints that are published already, through the api as their owner's own
requests are. An answer is an event of the job, so it is there once, and what is missing is known after a crash.
A server that does not answer costs the job its answers, and half a minute at its end.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import structlog
from sqlalchemy.orm import Session

from foundation.headers import PROJECT
from storage.database import Json
from storage.jobs import checkpoints, events, probes
from storage.leases import LostLease
from storage.transactions import OUT_OF_REACH
from worker.lease import Lease
from worker.worker import Worker

from . import control
from .resolve import total_steps

POLL_S = 1.0
ANSWER_S = 60.0
"""For so long an answer is waited for."""
PAUSES_S = (0.0, 2.0, 4.0)
"""Before each of the tries for an answer."""
AT_ONCE = 4
LOOK_S = 0.25
"""How often it looks whether training is over."""
LAST_S = 30.0
"""For so long the end of a job waits for answers of its last epoch."""
_SHOWN_CHARS = 200

log = structlog.get_logger()


@dataclass(frozen=True)
class _Question:
    step: int
    number: int
    """From 1, in the order in which they were asked for."""
    model: str
    prompt: Json

    @property
    def key(self) -> str:
        return probes.key(self.step, self.number)


@contextmanager
def asked(worker: Worker, lease: Lease) -> Iterator[None]:
    """Probes are asked within; at the end of it, if all went well, for the last time."""
    prompts = control.probes(lease.job.hyperparameters)
    if not prompts:
        yield
        return
    asker = _Asker(worker, lease, prompts)
    asker.start()
    try:
        yield
        asker.finish()
    finally:
        asker.leave()


class _Asker:
    """A thread beside the job's own; what goes wrong in it is told in events and logs, and nowhere else."""

    def __init__(self, worker: Worker, lease: Lease, prompts: list[Json]) -> None:
        self._worker = worker
        self._lease = lease
        self._prompts = prompts
        self._is_last = threading.Event()
        """Training is over: what is there now is all that there is to ask."""
        self._is_leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Wait for the last answers, not for long. Raises LostLease and Stopped."""
        self._is_last.set()
        deadline = time.monotonic() + LAST_S
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._lease.check()
            self._worker.check_stopping()
            self._thread.join(timeout=0.1)
        if self._thread.is_alive():
            self.leave()
            self._warn(f"Probes had no answer within {LAST_S:.0f} s of the end of training")

    def leave(self) -> None:
        """Ask nothing more, and break off what is under way."""
        self._is_leaving.set()

    def _run(self) -> None:
        try:
            asyncio.run(self._ask())
        except LostLease:
            return
        except Exception:
            # Answers are missing then; the job does without.
            log.exception("probes.failed", job_id=self._lease.job.id)

    async def _ask(self) -> None:
        """Until training is over and all that is there was asked, or until it is to leave."""
        settings = self._worker.settings
        headers = {
            "authorization": f"Bearer {settings.internal_key}",
            PROJECT: self._lease.job.project_id,
        }
        async with httpx.AsyncClient(
            base_url=settings.api_url,
            headers=headers,
            timeout=httpx.Timeout(ANSWER_S, connect=5.0),
            # A proxy of the environment is meant for the world outside.
            trust_env=False,
        ) as client:
            is_over = False
            while not (is_over or self._is_leaving.is_set()):
                try:
                    is_over = await self._ask_what_is_due(client)
                except OUT_OF_REACH as error:
                    # Training goes on without the database for a while, and so do its probes.
                    log.warning("probes.database_out_of_reach", error=str(error))
                    await asyncio.sleep(LOOK_S)

    async def _ask_what_is_due(self, client: httpx.AsyncClient) -> bool:
        """True when there will be nothing more to ask."""
        settings = self._worker.settings
        is_last = self._is_last.is_set()
        due = self._due()
        if due and not (settings.api_url and settings.internal_key):
            self._warn("Probes are not asked: this worker is not told of LUTHIER_API_URL")
            return True
        await self._ask_all(client, due)
        if is_last:
            self._tell_missed()
            return True
        await self._wait()
        return False

    async def _wait(self) -> None:
        """Until there may be something new."""
        until = time.monotonic() + POLL_S
        while time.monotonic() < until and not self._is_last.is_set():
            await asyncio.sleep(LOOK_S)

    async def _ask_all(self, client: httpx.AsyncClient, due: list[_Question]) -> None:
        turns = asyncio.Semaphore(AT_ONCE)
        asked = {asyncio.create_task(self._answer(client, turns, each)): each for each in due}
        pending = set(asked)
        try:
            while pending and not self._is_leaving.is_set():
                done, pending = await asyncio.wait(
                    pending, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    self._record(asked[task], task.result())
        finally:
            # Breaks them off, so that no model computes for nobody.
            for task in pending:
                task.cancel()

    def _due(self) -> list[_Question]:
        """What has no answer yet, of the models that are there."""
        job = self._lease.job
        config = job.train_config or {}
        if "num_examples" not in config:
            # The files are still being read.
            return []
        steps_per_epoch = self._steps_per_epoch()
        with self._worker.sessions() as session:
            known = checkpoints.all(session, job.id)
            answered = probes.told(session, job.id)
        models = [(0, job.model)]
        # A pause leaves checkpoints in the middle of an epoch, too.
        models += [(c.step, c.model_name) for c in known if c.step % steps_per_epoch == 0]
        questions = [
            _Question(step, number, model, prompt)
            for step, model in models
            for number, prompt in enumerate(self._prompts, start=1)
        ]
        return [question for question in questions if question.key not in answered]

    def _tell_missed(self) -> None:
        """Of epochs that were over so soon that newer checkpoints had replaced theirs."""
        with self._worker.sessions() as session:
            last = events.last_metrics(session, self._lease.job.id) or {"step": 0}
            answered = probes.told(session, self._lease.job.id)
        missed = [
            step
            for step in range(0, last["step"] + 1, self._steps_per_epoch())
            if probes.key(step, 1) not in answered
        ]
        if missed and not self._is_leaving.is_set():
            steps = ", ".join(map(str, missed[:10])) + (", …" if len(missed) > 10 else "")
            text = f"Newer checkpoints had replaced those of step {steps} before their probes were asked"
            self._warn(text)

    def _steps_per_epoch(self) -> int:
        """Once the files are read."""
        config = self._lease.job.train_config or {}
        return total_steps(int(config["num_examples"]), int(config["config"]["batch_size"]), 1)

    async def _answer(
        self, client: httpx.AsyncClient, turns: asyncio.Semaphore, question: _Question
    ) -> Json:
        """The completion's text with its `finish_reason`, or the `problem`."""
        is_chat = "messages" in question.prompt
        path = "/v1/chat/completions" if is_chat else "/v1/completions"
        fixed = {"model": question.model, "temperature": 0, "seed": self._lease.job.seed}
        problem = ""
        async with turns:
            for pause_s in PAUSES_S:
                await asyncio.sleep(pause_s)
                try:
                    response = await client.post(path, json={**question.prompt, **fixed})
                    if response.status_code == 200:
                        return _choice(response.json())
                except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
                    problem = f"it cannot be asked for ({type(error).__name__})"
                    continue
                problem = _problem(response)
                if response.status_code not in (408, 429) and response.status_code < 500:
                    break
        return {"problem": problem}

    def _record(self, question: _Question, found: Json) -> None:
        """An event: the answer, or that there is none and why."""
        data: Json = {"step": question.step, "probe": question.number}
        when = f"after step {question.step}" if question.step else "before training"
        text = f"Probe {question.number} {when}"
        if "problem" in found:
            text = f"{text} has no answer: {found['problem']}"[:1000]
        else:
            asked = {name: question.prompt.get(name) for name in ("messages", "prompt")}
            data |= {"model": question.model, **asked, **found}
            text = f"{text}: {' '.join(found['answer'].split())[:_SHOWN_CHARS]}"

        def write(session: Session) -> None:
            level: events.Level = "warn" if "problem" in found else "info"
            events.add(session, self._lease.job.id, question.key, text, level=level, data=data)

        self._lease.write(write)

    def _warn(self, text: str) -> None:
        self._lease.write(lambda session: events.warn(session, self._lease.job.id, text))


def _choice(completion: Mapping[str, Any]) -> Json:
    choice = completion["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    # PostgreSQL stores every character but this one.
    return {
        "answer": str(text or "").replace("\0", "\N{REPLACEMENT CHARACTER}"),
        "finish_reason": choice["finish_reason"],
    }


def _problem(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return f"the inference server answered {response.status_code}"
