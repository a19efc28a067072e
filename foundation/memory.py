"""How much memory there is for this process: the machine's, or less where its control group has a limit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP_V2 = Path("/sys/fs/cgroup")
_CGROUP_V1 = Path("/sys/fs/cgroup/memory")
_OWN_CGROUP = Path("/proc/self/cgroup")


def total_bytes() -> int | None:
    """All that this process could ever have; None where nobody says."""
    return min((limit for limit, _ in _limits()), default=None)


def machine_bytes() -> int:
    """The same as a share of it is wanted: what the system has, where nobody says less."""
    return total_bytes() or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_bytes() -> int | None:
    """What is left of it now, files that are only kept in memory not counted; None where nobody says."""
    return min((max(limit - used, 0) for limit, used in _limits()), default=None)


def has_gpu() -> bool:
    """Whether there is a GPU whose memory counts instead."""
    return Path("/dev/nvidiactl").exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""


def gigabytes(num_bytes: float) -> str:
    """`1.25 GB`"""
    return f"{num_bytes / 1e9:.2f} GB"


def _limits() -> Iterator[tuple[int, int]]:
    """Every limit, and how much of it is used."""
    meminfo = _numbers(_MEMINFO)
    if "MemTotal" in meminfo and "MemAvailable" in meminfo:
        total = meminfo["MemTotal"] * 1024
        yield total, total - meminfo["MemAvailable"] * 1024
    for folder in _cgroups():
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
        statistics = _numbers(folder / "memory.stat")
        cached = statistics.get("total_inactive_file", statistics.get("inactive_file", 0))
        if limit is not None:
            yield limit, max(used - cached, 0)


def _cgroups() -> Iterator[Path]:
    """The folders of this process's control group and of those that it is in."""
    try:
        lines = _OWN_CGROUP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        root = _CGROUP_V1 if controllers else _CGROUP_V2
        # In a container the path may be that of the host, which is not there.
        own = root / path.lstrip("/")
        while True:
            yield own
            if own == root:
                break
            own = own.parent


def _number(file: Path) -> int | None:
    """None where there is none, such as "max"."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _numbers(file: Path) -> dict[str, int]:
    """Of lines of a name and a number."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    words = (line.replace(":", " ").split() for line in lines)
    return {each[0]: int(each[1]) for each in words if len(each) > 1 and each[1].isdecimal()}
