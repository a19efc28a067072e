"""What can be said of docker-compose.yml without a container engine."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import pytest

from foundation.settings import Settings
from serving.settings import ServingSettings
from storage.models.base_models import Catalogue

from .compose import ENV, FILE, ROOT, SECRETS, MissingVariable, load, services, yaml

OWN = ("bucket", "migrate", "bases", "api", "worker", "errands", "serving")
LONG_RUNNING = ("postgres", "valkey", "s3", "api", "worker", "errands", "serving")


def every(kind: tuple[str, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("service", [services()[name] for name in kind], ids=kind)


def is_once(service: dict[str, Any]) -> bool:
    return bool(service["restart"] == "no")


def test_every_service_is_known_to_these_tests() -> None:
    assert set(services()) == set(OWN) | set(LONG_RUNNING)


@every(LONG_RUNNING)
def test_long_running_service_has_a_health_check_and_restarts(service: dict[str, Any]) -> None:
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


def test_dependencies_wait_for_health_or_for_the_end() -> None:
    found = services()
    for service in found.values():
        for name, how in service.get("depends_on", {}).items():
            ends = "service_completed_successfully" if is_once(found[name]) else "service_healthy"
            assert how == {"condition": ends}, name


def test_only_the_api_is_published_and_only_on_loopback() -> None:
    published = {
        name: service["ports"] for name, service in services().items() if "ports" in service
    }
    assert published == {"api": ["127.0.0.1:8000:8000"]}


def test_internal_services_have_no_way_out() -> None:
    assert load()["networks"]["internal"] == {"internal": True}
    beyond = {name for name, service in services().items() if service["networks"] != ["internal"]}
    # One must be reachable, one may have to download weights, one delivers webhooks.
    assert beyond == {"api", "bases", "errands"}


def test_images_are_pinned() -> None:
    for name, service in services().items():
        tag = service["image"].partition(":")[2]
        assert re.fullmatch(r"\d+(\.\d+)+(-\w+)?", tag), name


@every(OWN)
def test_own_service_is_confined(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["user"] == "10001:10001"
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert (ROOT / service["build"]["dockerfile"]).is_file()


@every(LONG_RUNNING)
def test_no_service_gains_privileges(service: dict[str, Any]) -> None:
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_commands_name_modules_that_exist() -> None:
    modules = set()
    for service in services().values():
        words = " ".join(service.get("command", [])).split()
        modules |= {
            words[n + 2] for n, word in enumerate(words) if words[n : n + 2] == ["python", "-m"]
        }
        modules |= set(
            re.findall(
                r"from (\S+) import", " ".join(service.get("healthcheck", {}).get("test", []))
            )
        )
    assert {"api", "worker", "serving", "migrations", "storage.queue"} <= modules
    for module in modules:
        assert importlib.util.find_spec(module) is not None, module


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_has_a_default(secret: str) -> None:
    for value in ("", None):
        env = {name: given for name, given in ENV.items() if name != secret}
        with pytest.raises(MissingVariable, match=secret):
            load(env if value is None else {**env, secret: value})


def test_example_of_the_environment_names_every_variable_and_no_secret() -> None:
    text = "".join(file.read_text() for file in (FILE, ROOT / "deploy/docker-compose.gpu.yml"))
    lines = (ROOT / "deploy/env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert set(example) == set(re.findall(r"\$\{(\w+)", text))
    assert {name: example[name] for name in SECRETS} == dict.fromkeys(SECRETS, "")


def test_variables_of_our_processes_are_ones_they_read() -> None:
    known = {f"LUTHIER_{name.upper()}" for name in Settings.model_fields}
    known |= {f"LUTHIER_SERVING_{name.upper()}" for name in ServingSettings.model_fields}
    known |= {"LUTHIER_API_KEY", "LUTHIER_ADMIN_KEY"}
    known |= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "HF_HOME"}
    for name in OWN:
        assert set(services()[name].get("environment", {})) <= known, name


@pytest.mark.parametrize(
    ("name", "required"),
    [
        ("api", ("database_url", "broker_url", "blob_url", "internal_key", "backends")),
        ("worker", ("database_url", "broker_url", "blob_url", "api_url", "internal_key")),
        ("errands", ("database_url", "broker_url", "blob_url", "api_url", "internal_key")),
        ("serving", ("blob_url", "internal_key")),
        ("migrate", ("database_url",)),
    ],
)
def test_process_gets_the_settings_it_needs(name: str, required: tuple[str, ...]) -> None:
    Settings.from_env(services()[name]["environment"]).require(*required)


def test_first_keys_are_told_to_nobody_but_the_one_who_writes_them() -> None:
    for name, service in services().items():
        if name != "migrate":
            assert not {"LUTHIER_API_KEY", "LUTHIER_ADMIN_KEY"} & set(
                service.get("environment", {})
            )


def test_gateway_knows_the_inference_server_by_its_name_and_base() -> None:
    found = services()
    backends = Settings.from_env(found["api"]["environment"]).backends
    command = found["serving"]["command"]
    base, port = command[command.index("--base") + 1], command[command.index("--port") + 1]
    assert backends == {base: (f"http://serving:{port}",)}
    assert base in found["bases"]["command"]
    assert Catalogue.load(None, {}).get(base) is not None


def test_errands_reach_the_api_and_have_models_to_export() -> None:
    found = services()
    command = found["api"]["command"]
    port = command[command.index("--port") + 1]
    assert found["errands"]["environment"]["LUTHIER_API_URL"] == f"http://api:{port}"
    assert found["errands"]["image"] == found["worker"]["image"]


def test_base_models_are_written_by_one_and_read_by_the_others() -> None:
    mounts = {
        name: [volume for volume in service["volumes"] if volume.startswith("bases:")]
        for name, service in services().items()
        if any(volume.startswith("bases:") for volume in service.get("volumes", []))
    }
    assert mounts == {
        "bases": ["bases:/srv/bases"],
        "api": ["bases:/srv/bases:ro"],
        "worker": ["bases:/srv/bases:ro"],
        "errands": ["bases:/srv/bases:ro"],
        "serving": ["bases:/srv/bases:ro"],
    }


def test_volumes_are_all_declared_and_all_used() -> None:
    used = {
        volume.split(":")[0]
        for service in services().values()
        for volume in service.get("volumes", [])
        if not volume.startswith("./")
    }
    assert used == set(load()["volumes"])


def test_mounted_files_exist_and_the_catalogue_is_readable() -> None:
    sources = {
        volume.split(":")[0]
        for service in services().values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    }
    assert sources == {"./deploy/base_models.toml"}
    assert Catalogue.load(ROOT / "deploy", {}).all()


def test_gpu_file_only_adds_to_services_that_compute() -> None:
    text = (ROOT / "deploy/docker-compose.gpu.yml").read_text()
    assert set(yaml.safe_load(text)["services"]) == {"worker", "serving"}
