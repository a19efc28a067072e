"""What an inference server is told by its environment, besides `foundation.settings.Settings`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from foundation import memory
from foundation.settings import EnvironmentSettings
from serving.engine.limits import Limits

from .admission import Quotas

GIB = 1 << 30
MAX_DEFAULT_KV_BYTES = 2 * GIB


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
    adapter_ram_bytes: int = Field(GIB, ge=0)
    adapter_disk_bytes: int = Field(8 * GIB, ge=0)

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

    def whole_model_bytes_or_default(self) -> int:
        return self.whole_model_bytes or memory.machine_bytes() // 4
