"""The trainer's end of the pipes, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from training.messages import (
    Answer,
    Command,
    Exit,
    Finished,
    Heartbeat,
    Ping,
    Pong,
    Report,
    Request,
    Stop,
    decode_report,
    encode,
)

# Asks twice for each of two jobs, and says how that went.
ASKING = """
from training.messages import Finished, Ping
from training.pipes import JobStopped, Link

link = Link(beat_s=0.02, stuck_s=0.05)
for job_id in "a", "b":
    try:
        for _ in range(2):
            link.ask(job_id, Ping())
        outcome = "succeeded"
    except JobStopped as stopped:
        outcome = "stopped"
    link.send(Finished(job_id=job_id, outcome=outcome, step=0, trained_tokens=0))
link.next()
"""


class Asking:
    def __init__(self, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self._stdin = stdin
        self._stdout = stdout

    def say(self, command: Command) -> None:
        self._stdin.write(encode(command))
        self._stdin.flush()

    def hear(self) -> Report:
        """The next that is no heartbeat."""
        while isinstance(report := decode_report(self._stdout.readline()), Heartbeat):
            pass
        return report

    def hear_beats(self, number: int) -> None:
        for _ in range(number):
            assert decode_report(self._stdout.readline()) == Heartbeat()


@contextmanager
def asking() -> Iterator[Asking]:
    process = subprocess.Popen(
        [sys.executable, "-c", ASKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            yield Asking(process.stdin, process.stdout)
        finally:
            process.kill()


def request(number: int, job_id: str) -> Request:
    return Request(id=number, job_id=job_id, question=Ping())


def finished(job_id: str, outcome: str) -> Finished:
    return Finished.model_validate(
        {"job_id": job_id, "outcome": outcome, "step": 0, "trained_tokens": 0}
    )


def test_each_request_gets_the_answer_of_its_id() -> None:
    with asking() as it:
        assert it.hear() == request(1, "a")
        it.say(Answer(id=7, reply=Pong()))  # nobody asked that
        # It waits for longer than anybody may be stuck, and beats.
        it.hear_beats(10)
        it.say(Answer(id=1, reply=Pong()))
        assert it.hear() == request(2, "a")
        it.say(Answer(id=2, reply=Pong()))
        assert it.hear() == finished("a", "succeeded")


def test_stop_reaches_who_waits_for_an_answer_and_a_late_answer_is_nobody_s() -> None:
    with asking() as it:
        assert it.hear() == request(1, "a")
        it.say(Stop(job_id="b", reason="cancel"))
        it.hear_beats(5)
        it.say(Stop(job_id="a", reason="checkpoint"))
        assert it.hear() == finished("a", "stopped")
        # The other one was stopped before it asked.
        assert it.hear() == request(2, "b")
        assert it.hear() == finished("b", "stopped")
        it.say(Answer(id=1, reply=Pong()))
        it.say(Exit())
