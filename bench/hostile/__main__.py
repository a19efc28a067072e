"""What one tenant's attacks cost another tenant of the same server.

`python -m bench.hostile` starts the embedded stack afresh for each attack, with two projects. It measures
what the one waits for while all is quiet (a chat of one token; a small job's first step; a batch of one
line; a webhook), then the same while the other attacks, and prints a table. An attack lasts seconds, a
wait that has no end is cut off, and everything goes to loopback addresses.

The worst wait counts. It should stay under twice the worst quiet one and one step of the engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
import openai

from examples.server import ServerError, log_tail, running

from . import ground
from .attacks import ATTACKS, Attack
from .ground import Report
from .tenants import (
    NotServed,
    Tenant,
    new_tenant,
    wait_for_batch,
    wait_for_chat,
    wait_for_full_step,
    wait_for_job,
    wait_for_webhook,
)

BASE = "tiny-random"
QUIET_S = 4.0
WINDOW_S = 12.0
"""Of chats under attack."""
PAUSE_S = 0.1
"""Between two of them."""
CHAT_TIMEOUT_S = 60.0
TIMEOUT_S = 120.0
"""Of the other waits."""
PREPARE_S = 60.0
"""An attack must have effect by then."""
HUNG_S = 10.0
"""Allowed requests of the attacker's own that are still open after this long count as lost."""
SENT_MB = 36
"""Of bodies, where the api's memory is measured: it may grow by three times as much."""
MAX_FILES = 1024
"""For the server's processes: what most systems allow a process."""

FAILURES = (NotServed, httpx.HTTPError)
WAITS: Mapping[str, Callable[[Tenant, float], float]] = {
    "chat": wait_for_chat,
    "job": wait_for_job,
    "batch": wait_for_batch,
    "webhook": wait_for_webhook,
}


@dataclass(frozen=True)
class Result:
    attack: str
    measured: str
    quiet: float
    """The worst, in seconds; for memory, the api's in MB."""
    attacked: float
    attacked_median: float
    engine_step_s: float
    to_attacker: str
    verdict: str

    @property
    def ratio(self) -> float:
        return self.attacked / self.quiet if self.quiet else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.hostile", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--only", metavar="TEXT", default="", help="attacks whose name holds this")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    arguments = parser.parse_args()
    chosen = {name: attack for name, attack in ATTACKS.items() if arguments.only in name}
    if not chosen:
        parser.error(f"there is no such attack; there are: {'; '.join(ATTACKS)}")
    # So that a bench that is told to end takes its server along.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(MAX_FILES, most), most))
    results = []
    if not arguments.json:
        _print_row(
            "attack",
            "measured",
            "quiet",
            "attacked",
            "median",
            "ratio",
            "verdict",
            "to the attacker",
        )
        _print_row(*["---"] * 8)
    with tempfile.TemporaryDirectory(prefix="bench-hostile-") as folder:
        for name, attack in chosen.items():
            result = _try(name, attack, Path(folder))
            results.append(result)
            if not arguments.json:
                _print(result)
    if arguments.json:
        print(json.dumps([{**asdict(r), "ratio": round(r.ratio, 1)} for r in results], indent=1))


def _print(result: Result) -> None:
    unit = "MB" if result.measured == "memory" else "s"
    numbers = [f"{x:.3g} {unit}" for x in (result.quiet, result.attacked, result.attacked_median)]
    _print_row(
        result.attack,
        result.measured,
        *numbers,
        f"{result.ratio:.1f}",
        result.verdict,
        result.to_attacker,
    )


def _print_row(*cells: str) -> None:
    print("|", " | ".join(cells), "|", flush=True)


def _try(name: str, attack: Attack, folder: Path) -> Result:
    base = attack.base or BASE
    # More threads would only wait for each other where the model is tiny.
    environment = {**attack.env, **({"OMP_NUM_THREADS": "1"} if base == BASE else {})}
    try:
        with _environment(environment), running(folder, "--base", base) as client:
            return _measure(name, attack, client, base, folder)
    except (ServerError, *FAILURES) as error:
        return Result(name, attack.harms, 0, 0, 0, 0, "", f"not measured: {error}")


def _measure(name: str, attack: Attack, client: openai.OpenAI, base: str, folder: Path) -> Result:
    base_url = str(client.base_url)
    admin_key = (folder / "admin_key").read_text().strip()
    attacker, other = (new_tenant(base_url, admin_key, n, base) for n in ("attacker", "other"))
    wait = WAITS.get(attack.harms, wait_for_chat)
    _warm_up(other, wait)
    step_s = statistics.median(wait_for_full_step(other, CHAT_TIMEOUT_S) for _ in range(5))
    quiet_s, problems = _waits(wait, other, QUIET_S)
    if problems:
        raise NotServed(problems[0])
    api_pid = _pid_of_api(folder)
    quiet_mb = _start_of_peak(api_pid)
    with _attacking(name, attacker) as attacking:
        waits_s, problems = _waits(wait, other, WINDOW_S, attacking.is_running)
        report = attacking.stop()
    peak_mb = _peak_mb(api_pid)
    quiet, attacked = max(quiet_s), max(waits_s, default=float("nan"))
    bound = 2 * quiet + step_s
    if attack.harms == "memory":
        quiet, attacked, bound = quiet_mb, peak_mb, quiet_mb + 3 * SENT_MB
    if problems:
        num_tried = len(problems) + len(waits_s)
        verdict = f"HARMED: {len(problems)} of {num_tried} failed, such as {problems[-1]}"
    elif attacked > bound:
        verdict = "HARMED"
    elif attack.is_allowed and report.longest_open_s > HUNG_S:
        verdict = f"HUNG: a request of its own is open for {report.longest_open_s:.0f} s"
    else:
        verdict = "refused" if report.is_refusal else "ok"
    verdict += _aftermath(other)
    return Result(
        name,
        attack.harms,
        round(quiet, 4),
        round(attacked, 4),
        round(statistics.median(waits_s or [float("nan")]), 4),
        round(step_s, 4),
        str(report),
        verdict,
    )


def _warm_up(other: Tenant, wait: Callable[[Tenant, float], float]) -> None:
    for _ in range(3):
        wait_for_chat(other, CHAT_TIMEOUT_S)
    if wait is not wait_for_chat:
        wait(other, TIMEOUT_S)


def _waits(
    wait: Callable[[Tenant, float], float],
    other: Tenant,
    window_s: float,
    is_worth_it: Callable[[], bool] = lambda: True,
) -> tuple[list[float], list[str]]:
    """How long each took, and what failed: chats for so long; of what takes longer, one, or three in quiet."""
    waits_s: list[float] = []
    problems: list[str] = []
    is_short = wait is wait_for_chat
    num_wanted = 3 if window_s == QUIET_S else 1
    end = time.perf_counter() + window_s
    while not (waits_s or problems) or (
        time.perf_counter() < end and is_worth_it()
        if is_short
        else len(waits_s) + len(problems) < num_wanted
    ):
        try:
            waits_s.append(wait(other, CHAT_TIMEOUT_S if is_short else TIMEOUT_S))
        except FAILURES as problem:
            problems.append(str(problem) or type(problem).__name__)
        time.sleep(PAUSE_S)
    return waits_s, problems


def _aftermath(other: Tenant) -> str:
    try:
        wait_for_chat(other, CHAT_TIMEOUT_S)
    except FAILURES as error:
        return f"; afterwards, too: {error}"
    return ""


class _Attacking:
    """An attack under way, in a process of its own."""

    def __init__(self, process: multiprocessing.context.SpawnProcess, told: Connection) -> None:
        self._process, self._told = process, told

    def wait_until_on(self) -> None:
        if self._told.poll(PREPARE_S):
            self._told.recv()

    def is_running(self) -> bool:
        return self._process.is_alive() and not self._told.poll()

    def stop(self) -> Report:
        try:
            self._told.send("over")
            if self._told.poll(5.0):
                report = self._told.recv()
                assert isinstance(report, Report)
                return report
        except (EOFError, OSError):
            pass  # It ended without a word.
        return Report(problem="the attack's process was lost")


@contextmanager
def _attacking(name: str, attacker: Tenant) -> Iterator[_Attacking]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_attack, args=(name, attacker, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        attacking = _Attacking(process, ours)
        attacking.wait_until_on()
        yield attacking
    finally:
        process.kill()
        process.join()


def _attack(name: str, attacker: Tenant, told: Connection) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    report = asyncio.run(
        ground.run(ATTACKS[name].run, attacker, is_on=lambda: told.send("on"), is_over=told.poll)
    )
    told.send(report)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _pid_of_api(data_dir: Path) -> int:
    marker = f"LUTHIER_DATA_DIR={data_dir}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"api" in arguments and marker in environment:
            return int(entry.name)
    raise ServerError(f"there is no api:\n{log_tail(data_dir / 'server.log')}")


def _start_of_peak(pid: int) -> float:
    """What it has now, in MB; its peak is counted anew from here."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _peak_mb(pid)


def _peak_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return float("nan")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
