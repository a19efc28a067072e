from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.worker.scene import FAKE_TRAINER, wait_for
from training.messages import Exit, Ready, Stop, encode
from worker import trainer
from worker.trainer import Trainer, TrainerDied


@contextmanager
def started(folder: Path, *command: str) -> Iterator[Trainer]:
    it = Trainer(folder / "logs" / "trainer.log", command=command or FAKE_TRAINER)
    try:
        yield it
    finally:
        it.close()
        assert not it.is_alive


def hear_to_the_end(it: Trainer) -> None:
    while True:
        it.receive(0.1)


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_trainer_reports_and_leaves_in_good_order(tmp_path: Path) -> None:
    with started(tmp_path) as it:
        assert it.receive(10) == [Ready(pid=it.pid)]
        assert it.receive(0.01) == []
        # In a session of its own, no signal to the worker's group reaches it.
        assert os.getsid(it.pid) == it.pid
        it.send(Exit())
        with pytest.raises(TrainerDied, match="ended with exit status 0"):
            it.receive(10)


def test_what_was_said_before_death_is_heard_first(tmp_path: Path) -> None:
    line = encode(Ready(pid=1)).decode()
    code = f"import os; os.write(1, {line!r}.encode()); os.kill(os.getpid(), 11)"
    with started(tmp_path, *python(code)) as it:
        wait_for(lambda: not it.is_alive, what="its death")
        assert it.receive(10) == [Ready(pid=1)]
        for _ in range(2):
            with pytest.raises(TrainerDied, match="died of SIGSEGV"):
                it.receive(10)
        with pytest.raises(TrainerDied, match="died of SIGSEGV"):
            it.send(Stop(job_id="x", reason="cancel"))


def test_jobs_that_come_and_go_at_a_time_do_not_lose_each_other_s_reports(tmp_path: Path) -> None:
    lost: list[str] = []

    def come_and_go(name: str) -> None:
        for _ in range(300):
            with it.listening(name):
                if name not in it._channels:
                    lost.append(name)

    interval_s = sys.getswitchinterval()
    with started(tmp_path) as it:
        sys.setswitchinterval(1e-6)
        try:
            threads = [threading.Thread(target=come_and_go, args=(f"job-{n}",)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval_s)
        assert lost == []
        assert it.num_jobs == 0


def test_trainer_that_speaks_nonsense_is_ended(tmp_path: Path) -> None:
    with (
        started(tmp_path, *python("import time; print('hello', flush=True); time.sleep(60)")) as it,
        pytest.raises(TrainerDied),
    ):
        it.receive(10)


def test_trainer_that_closes_its_pipe_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_EXIT_S", 0.1)
    with (
        started(tmp_path, *python("import os, time; os.close(1); time.sleep(60)")) as it,
        pytest.raises(TrainerDied, match="closed its pipe"),
    ):
        it.receive(10)


def test_kill_ends_all_that_it_started(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "sys.stderr.write(f'{child.pid}\\n'); sys.stderr.flush(); child.wait()"
    )
    with started(tmp_path, *python(code)) as it:
        wait_for(lambda: it.log_file.read_text().endswith("\n"), what="the grandchild")
        grandchild = int(it.log_file.read_text())
        it.kill()

        def is_gone() -> bool:
            try:
                return Path(f"/proc/{grandchild}/stat").read_text().split()[2] == "Z"
            except FileNotFoundError:
                return True

        wait_for(is_gone, what="the grandchild's end")


LINK = "from training.pipes import Link; import threading; link = Link(beat_s=0.05, stuck_s={}); "


def hear_nothing(it: Trainer, num_beats: int) -> None:
    """For so many heartbeats, however long they take."""
    heard = [it._heard_at]
    while len(heard) <= num_beats:
        assert it.receive(0.01) == []
        if it._heard_at != heard[-1]:
            heard.append(it._heard_at)


@pytest.mark.parametrize(
    ("stuck_s", "does"),
    [(0.1, "link.next()"), (60, "threading.Event().wait()"), (60, "while True: pass")],
    ids=["waits for a job", "takes a long step", "computes a long step"],
)
def test_trainer_that_works_or_waits_is_left_alone_until_it_is_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stuck_s: float, does: str
) -> None:
    with started(tmp_path, *python(LINK.format(stuck_s) + "\n" + does)) as it:
        # That is longer than the first one may be stuck.
        hear_nothing(it, 8)
        monkeypatch.setattr(trainer, "FROZEN_S", 0.3)
        os.kill(it.pid, signal.SIGSTOP)
        with pytest.raises(TrainerDied, match="The trainer hung"):
            hear_to_the_end(it)


@pytest.mark.parametrize("does", ["threading.Event().wait()", "while True: pass"])
def test_trainer_whose_main_thread_is_stuck_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    monkeypatch.setattr(trainer, "FROZEN_S", 1)
    with started(tmp_path, *python(LINK.format(0.2) + "\n" + does)) as it:
        with pytest.raises(TrainerDied, match="no sign of life"):
            hear_to_the_end(it)
        # Where it was stuck is in the log.
        assert 'File "<string>", line 2' in it.log_file.read_text()


def test_silence_is_counted_anew_by_who_was_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "FROZEN_S", 0.3)
    monkeypatch.setattr(trainer, "AWAY_S", 0.3)
    with started(tmp_path) as it:
        assert it.receive(10) == [Ready(pid=it.pid)]
        os.kill(it.pid, signal.SIGSTOP)
        time.sleep(1)
        assert it.receive(0.01) == []
        with pytest.raises(TrainerDied, match="no sign of life"):
            hear_to_the_end(it)


def test_trainer_that_never_says_a_word_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "FROZEN_S", 0)
    monkeypatch.setattr(trainer, "START_S", 0.3)
    with (
        started(tmp_path, *python("while True: pass")) as it,
        pytest.raises(TrainerDied, match="no sign of life"),
    ):
        hear_to_the_end(it)


@pytest.mark.slow
def test_log_is_kept_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "MAX_LOG_BYTES", 10)
    log_file = tmp_path / "logs" / "trainer.log"
    log_file.parent.mkdir()
    log_file.write_text("a line of an earlier trainer\n")
    with started(tmp_path):
        assert log_file.read_text() == ""
        assert (tmp_path / "logs" / "trainer.log.1").read_text() == "a line of an earlier trainer\n"
