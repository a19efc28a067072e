from __future__ import annotations

import pytest

from foundation.settings import BadSetting
from serving.settings import MAX_DEFAULT_KV_BYTES, ServingSettings


def test_defaults_need_no_environment() -> None:
    settings = ServingSettings.from_env({})
    assert settings == ServingSettings()
    assert 0 < settings.kv_bytes_or_default() <= MAX_DEFAULT_KV_BYTES


def test_environment_is_read() -> None:
    env = {"LUTHIER_SERVING_SLOTS": "3", "LUTHIER_SERVING_KV_BYTES": "1000", "OTHER": "x"}
    settings = ServingSettings.from_env(env)
    assert (settings.slots, settings.kv_bytes_or_default()) == (3, 1000)


def test_small_steps_still_hold_every_running_request() -> None:
    limits = ServingSettings(max_running=32, step_tokens=8).limits
    assert (limits.max_running, limits.step_tokens) == (32, 32)


def test_limits_between_projects_are_settings() -> None:
    env = {"LUTHIER_SERVING_SHARED_TOKENS": "128", "LUTHIER_SERVING_MAX_OPEN_PER_PROJECT": "7"}
    settings = ServingSettings.from_env(env)
    assert (settings.limits.shared_tokens, settings.quotas.max_open_per_project) == (128, 7)


@pytest.mark.parametrize(
    ("name", "value"), [("SLOTS", "0"), ("SLOTS", "many"), ("PRECISION", "fp8"), ("THREADS", "-1")]
)
def test_bad_value_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(BadSetting, match=f"LUTHIER_SERVING_{name}"):
        ServingSettings.from_env({f"LUTHIER_SERVING_{name}": value})
