"""What an inference server is told by its environment, besides `foundation.settings.Settings`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from foundation.settings import BadSetting
from serving.engine.schedule import Limits

from .admission import Quotas

GIB = 1 << 30
MAX_DEFAULT_KV_BYTES = 2 * GIB


@dataclass(frozen=True)
class ServingSettings:
    """Each field is the environment variable LUTHIER_SERVING_<FIELD>."""

    threads: int = 0
    """For the matrix products; 0 leaves the choice to torch."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    slots: int = 8
    """Distinct adapters in one batch."""
    max_running: int = 64
    """Requests in one batch."""
    step_tokens: int = 256
    """Tokens computed in one step; a prompt longer than this is read in chunks."""
    shared_tokens: int = 12
    """Tokens of a step that all projects but the one that leads it share; a GPU bears 128."""
    max_open_per_project: int = 1024
    """Completions of one project that wait or are being computed; what comes on top is refused."""
    kv_bytes: int = 0
    """Memory for keys and values; 0 means an eighth of the machine's, 2 GiB at most."""
    adapter_ram_bytes: int = GIB
    adapter_disk_bytes: int = 8 * GIB

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> ServingSettings:
        """Raises `BadSetting`."""
        precision = env.get("LUTHIER_SERVING_PRECISION", "auto")
        if precision not in ("auto", "fp32", "bf16"):
            raise BadSetting(
                f"LUTHIER_SERVING_PRECISION is {precision!r}; it must be auto, fp32 or bf16"
            )
        numbers = {
            name: _number(env, f"LUTHIER_SERVING_{name.upper()}", least)
            for name, least in (
                ("threads", 0),
                ("slots", 1),
                ("max_running", 1),
                ("step_tokens", 1),
                ("shared_tokens", 1),
                ("max_open_per_project", 1),
                ("kv_bytes", 0),
                ("adapter_ram_bytes", 0),
                ("adapter_disk_bytes", 0),
            )
        }
        given = {name: number for name, number in numbers.items() if number is not None}
        return cls(precision=cast(Literal["auto", "fp32", "bf16"], precision), **given)

    @property
    def limits(self) -> Limits:
        return Limits(
            max_running=self.max_running,
            step_tokens=max(self.step_tokens, self.max_running),
            shared_tokens=self.shared_tokens,
        )

    @property
    def quotas(self) -> Quotas:
        return Quotas(max_open_per_project=self.max_open_per_project)

    def kv_bytes_or_default(self) -> int:
        if self.kv_bytes:
            return self.kv_bytes
        machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return min(machine_bytes // 8, MAX_DEFAULT_KV_BYTES)


def _number(env: Mapping[str, str], name: str, least: int) -> int | None:
    text = env.get(name)
    if text is None:
        return None
    if not text.isdecimal() or int(text) < least:
        raise BadSetting(f"{name} is {text!r}; it must be a whole number, {least} or more")
    return int(text)
