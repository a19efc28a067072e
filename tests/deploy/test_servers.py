"""The servers of docker-compose.yml take the commands and the files that it gives them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import redis
from botocore.exceptions import ClientError

from embedded import ports, process
from embedded.valkey import _binary as valkey_binary

from .compose import ENV, ROOT, load, services


def config(name: str, path: Path) -> Path:
    path.write_text(load()["configs"][name]["content"])
    return path


@contextmanager
def running(argv: list[str], directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = process.supervised("server", argv, cwd=directory, stop_signal=signal.SIGKILL)
    with (directory / "log").open("wb") as log:
        child = process.spawn(command, log)
    try:
        yield child
    finally:
        process.stop(child)


def s3_client(endpoint: str, secret_key: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ENV["LUTHIER_S3_ACCESS_KEY"],
        aws_secret_access_key=secret_key,
    )


@pytest.mark.slow
def test_s3_server_starts_as_told_and_gets_its_bucket(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    port = ports.free()
    here = {
        "-dir": str(tmp_path / "data"),
        "-s3.ip.bind": "127.0.0.1",
        "-s3.port": str(port),
        "-s3.config": str(config("s3", tmp_path / "s3.json")),
    }
    here |= {f"-{server}.port": str(ports.free()) for server in ("master", "volume", "filer")}
    here |= {
        f"-{server}.port.grpc": str(ports.free()) for server in ("master", "volume", "filer", "s3")
    }
    # Go takes the last of several flags of one name.
    argv = [*services()["s3"]["command"], *(f"{flag}={value}" for flag, value in here.items())]
    weed = Path(sys.executable).with_name("weed")
    endpoint = f"http://127.0.0.1:{port}"
    environment = {
        name: value.replace("http://s3:8333", endpoint)
        for name, value in services()["bucket"]["environment"].items()
    }
    create = [sys.executable, str(ROOT / "deploy/create_bucket.py")]
    with running([str(weed), "-logtostderr=true", *argv], tmp_path):
        for _ in ("first start", "second start"):
            subprocess.run(create, env={**os.environ, **environment}, check=True, timeout=60)
        s3 = s3_client(endpoint, ENV["LUTHIER_S3_SECRET_KEY"])
        assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["luthier"]
        [rule] = s3.get_bucket_lifecycle_configuration(Bucket="luthier")["Rules"]
        assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            s3_client(endpoint, "wrong").list_buckets()
        s3.close()


@pytest.mark.slow
def test_broker_starts_with_its_file_and_asks_for_the_password(tmp_path: Path) -> None:
    port = ports.free()
    file = config("valkey", tmp_path / "valkey.conf")
    argv = [str(valkey_binary()), str(file), "--dir", str(tmp_path), "--port", str(port)]
    url = services()["worker"]["environment"]["LUTHIER_BROKER_URL"]
    with running([*argv, "--bind", "127.0.0.1"], tmp_path) as child:
        broker = redis.Redis.from_url(url.replace("valkey:6379", f"127.0.0.1:{port}"))
        process.wait_until(lambda: _answers(broker), child)
        assert broker.config_get("appendonly") == {"appendonly": "yes"}
        assert broker.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        broker.close()
        stranger = redis.Redis(port=port)
        with pytest.raises(redis.AuthenticationError):
            stranger.ping()
        stranger.close()


def _answers(broker: redis.Redis) -> bool:
    try:
        return bool(broker.ping())
    except redis.ConnectionError:
        return False
