from __future__ import annotations

import stat
from pathlib import Path

import pytest
import redis
from celery import Celery
from redis.backoff import NoBackoff
from redis.retry import Retry

from embedded.valkey import Valkey


def test_nobody_gets_in_without_the_password(valkey: Valkey) -> None:
    with (
        redis.Redis(port=valkey.port, retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_settings_that_a_queue_needs(valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url()) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_password_is_on_no_command_line_and_in_no_readable_file(valkey: Valkey) -> None:
    password = valkey.url().split(":")[2].split("@")[0]
    assert password not in " ".join(valkey.command().argv)
    configuration = valkey.directory / "valkey.conf"
    assert password in configuration.read_text()
    assert stat.S_IMODE(configuration.stat().st_mode) == 0o600


def test_messages_outlive_a_restart(tmp_path: Path) -> None:
    valkey = Valkey(tmp_path / 'a directory with "quotes"')
    with valkey.running(tmp_path / "log"), redis.Redis.from_url(valkey.url()) as client:
        client.lpush("queue", "message")
    with valkey.running(tmp_path / "log"), redis.Redis.from_url(valkey.url()) as client:
        assert client.lrange("queue", 0, -1) == [b"message"]


def test_celery_takes_the_url(broker_url: str) -> None:
    app = Celery("test", broker=broker_url)
    app.send_task("a.task", args=["job"], queue="train")
    with app.connection_for_read() as connection:
        message = connection.SimpleQueue("train").get(timeout=5)
        message.ack()
        assert message.payload[0] == ["job"]
    app.close()
