"""What an inference server is told by its environment, besides `foundation.settings.Settings`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from foundation import memory
from foundation.settings import EnvironmentSettings
from serving.engine.limits import Limits

from .quotas import Quotas

GIB = 1 << 30
MAX_DEFAULT_KV_BYTES = 2 * GIB
MAX_DEFAULT_ADAPTER_DISK_BYTES = 8 * GIB


class ServingSettings(EnvironmentSettings):
    """Each field is the environment variable LUTHIER_SERVING_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="LUTHIER_SERVING_")

    threads: int = Field(0, ge=0)
    """For the matrix products; 0 leaves the choice to torch."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    slots: int = Field(8, ge=1)
    """Distinct adapters in one batch."""
    max_running: int = Field(64, ge=1)
    """Requests in one batch."""
    step_tokens: int = Field(256, ge=1)
    """Tokens computed in one step; a prompt longer than this is read in chunks."""
    shared_tokens: int = Field(12, ge=1)
    """Tokens of a step that all projects but the one that leads it share; a GPU bears 128."""
    max_open_per_project: int = Field(1024, ge=1)
    """Completions of one project that wait or are being computed; what comes on top is refused."""
    kv_bytes: int = Field(0, ge=0)
    """Memory for keys and values; 0 means an eighth of the machine's, 2 GiB at most."""
    whole_model_bytes: int = Field(0, ge=0)
    """Memory for tuned models that are bases of their own, with their keys and values; 0 means a quarter of the
    machine's."""
    whole_model_kv_bytes: int = Field(256 << 20, ge=1)
    """For keys and values of each of these."""
    adapter_slot_bytes: int = Field(0, ge=0)
    """For the adapters in slots, on the GPU where there is one; 0 means an eighth of the machine's memory. Narrow ones
    beside wider ones take up to as much as these, as far as rank 64."""
    adapter_ram_bytes: int = Field(0, ge=0)
    """For adapters in RAM, ready to be copied into slots; 0 means a sixteenth of the machine's memory."""
    adapter_disk_bytes: int = Field(0, ge=0)
    """For artifacts fetched from the blob store; 0 means 8 GiB, or a quarter of what is free on that disk if that is
    less. One that is larger is there only while it is loaded."""

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
        return min(memory.machine_bytes() // 8, MAX_DEFAULT_KV_BYTES)

    def adapter_slot_bytes_or_default(self) -> int:
        return self.adapter_slot_bytes or memory.machine_bytes() // 8

    def adapter_ram_bytes_or_default(self) -> int:
        return self.adapter_ram_bytes or memory.machine_bytes() // 16

    def adapter_disk_bytes_or_default(self, directory: Path) -> int:
        """Of the disk on which the directory is, or will be."""
        if self.adapter_disk_bytes:
            return self.adapter_disk_bytes
        there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        return min(shutil.disk_usage(there).free // 4, MAX_DEFAULT_ADAPTER_DISK_BYTES)

    def whole_model_bytes_or_default(self) -> int:
        return self.whole_model_bytes or memory.machine_bytes() // 4
