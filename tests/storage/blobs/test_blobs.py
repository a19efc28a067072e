"""One contract for every blob store: a directory, and a bucket of a real S3 server."""

from __future__ import annotations

import hashlib
import os
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import boto3
import pytest

from foundation.errors import BlobCorrupt, BlobError, BlobMissing, Unavailable
from foundation.settings import BadSetting
from storage.blobs.blobs import BlobInfo, BlobStore, open_store
from tests import servers

MIB = 1 << 20
ODD_KEYS = [
    "",
    "/",
    "/files/a",
    "files/",
    "files//a",
    "files/../a",
    "..",
    "files/./a",
    ".partial/a",
    "files/.a",
    "files/a b",
    "files/a\nb",
    "files/a\0",
    "files/\u00e4",
    "files\\a",
    "files/a?b",
    "files/" + "a" * 300,
    "a/" * 500 + "a",
]


@pytest.fixture(params=["directory", "s3"])
def url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue("blob_url" if request.param == "directory" else "s3_url")
    return url


@pytest.fixture
def store(url: str) -> BlobStore:
    return open_store(url)


def write(store: BlobStore, key: str, content: bytes) -> BlobInfo:
    with store.writer(key) as writer:
        writer.write(content)
        return writer.commit()


def read(store: BlobStore, info: BlobInfo, chunk_bytes: int = MIB) -> bytes:
    return b"".join(
        store.read(
            info.key, size_bytes=info.size_bytes, sha256=info.sha256, chunk_bytes=chunk_bytes
        )
    )


def damage(url: str, key: str, content: bytes) -> None:
    """Replace a blob behind the store's back."""
    parsed = urlsplit(url)
    if parsed.scheme == "file":
        Path(parsed.path, key).write_bytes(content)
        return
    client = boto3.client("s3", endpoint_url=dict(parse_qsl(parsed.query))["endpoint"])
    client.put_object(Bucket=parsed.netloc, Key=f"{parsed.path.strip('/')}/{key}", Body=content)
    client.close()


def leftovers(url: str) -> list[str]:
    """What a store keeps besides blobs: temporary files, unfinished uploads."""
    parsed = urlsplit(url)
    if parsed.scheme == "file":
        return [str(path) for path in Path(parsed.path, ".partial").iterdir()]
    client = boto3.client("s3", endpoint_url=dict(parse_qsl(parsed.query))["endpoint"])
    prefix = parsed.path.strip("/")
    uploads = client.list_multipart_uploads(Bucket=parsed.netloc, Prefix=prefix).get("Uploads", [])
    client.close()
    return [upload["Key"] for upload in uploads]


# From nothing to one byte around the border between one PUT and a multipart upload.
@pytest.mark.parametrize("num_bytes", [0, 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 17 * MIB])
def test_blob_reads_back_as_written(store: BlobStore, num_bytes: int) -> None:
    content = os.urandom(num_bytes)
    info = write(store, "files/proj-1/file-1", content)
    assert info == BlobInfo("files/proj-1/file-1", num_bytes, hashlib.sha256(content).hexdigest())
    assert read(store, info) == content


def test_chunks_are_no_longer_than_asked_for(store: BlobStore) -> None:
    info = write(store, "a", os.urandom(10_000))
    chunks = list(store.read("a", size_bytes=info.size_bytes, sha256=info.sha256, chunk_bytes=1000))
    assert max(map(len, chunks)) <= 1000
    assert sum(map(len, chunks)) == 10_000


def test_put_file_and_get_file_round_trip(store: BlobStore, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(9 * MIB))
    info = store.put_file("adapters/adapter-1.tar", source)
    store.get_file(info.key, target, size_bytes=info.size_bytes, sha256=info.sha256)
    assert target.read_bytes() == source.read_bytes()


def test_commit_replaces_the_blob_that_was_there(store: BlobStore) -> None:
    write(store, "a/b", b"first")
    info = write(store, "a/b", b"second")
    assert read(store, info) == b"second"


@pytest.mark.parametrize("num_bytes", [10, 17 * MIB])
def test_abandoned_write_leaves_nothing(store: BlobStore, url: str, num_bytes: int) -> None:
    def fail_midway() -> None:
        with store.writer("files/x") as writer:
            writer.write(b"x" * num_bytes)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail_midway()
    with store.writer("files/x") as writer:
        writer.write(b"x" * num_bytes)
    assert list(store.list("")) == []
    assert leftovers(url) == []
    with pytest.raises(BlobMissing):
        store.read("files/x", size_bytes=num_bytes, sha256="0" * 64)


def test_abandoned_write_leaves_the_previous_blob(store: BlobStore) -> None:
    info = write(store, "files/x", b"previous")
    with store.writer("files/x") as writer:
        writer.write(b"next")
    assert read(store, info) == b"previous"


def test_blob_is_invisible_until_commit(store: BlobStore) -> None:
    with store.writer("files/x") as writer:
        writer.write(b"x" * 9 * MIB)
        assert list(store.list("files/")) == []
        writer.commit()
        assert list(store.list("files/")) == ["files/x"]


def test_missing_blob_is_said_at_the_call(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(BlobMissing):
        store.read("files/none", size_bytes=1, sha256="0" * 64)
    with pytest.raises(BlobMissing):
        store.get_file("files/none", tmp_path / "target", size_bytes=1, sha256="0" * 64)
    assert list(tmp_path.glob("*target*")) == []


def test_wrong_size_is_said_at_the_call(store: BlobStore, url: str) -> None:
    info = write(store, "files/x", b"content")
    damage(url, "files/x", b"content and more")
    with pytest.raises(BlobCorrupt):
        store.read("files/x", size_bytes=info.size_bytes, sha256=info.sha256)


def test_damaged_blob_never_reads_to_its_end(store: BlobStore, url: str, tmp_path: Path) -> None:
    info = write(store, "files/x", b"a" * 5000)
    damage(url, "files/x", b"a" * 4999 + b"b")
    chunks = store.read("files/x", size_bytes=info.size_bytes, sha256=info.sha256, chunk_bytes=1000)
    assert b"".join(islice(chunks, 4)) == b"a" * 4000
    with pytest.raises(BlobCorrupt):
        next(chunks)
    with pytest.raises(BlobCorrupt):
        store.get_file(
            "files/x", tmp_path / "target", size_bytes=info.size_bytes, sha256=info.sha256
        )
    assert list(tmp_path.glob("*target*")) == []


def test_get_file_leaves_the_previous_file_when_the_blob_is_damaged(
    store: BlobStore, url: str, tmp_path: Path
) -> None:
    info = write(store, "files/x", b"right")
    damage(url, "files/x", b"wrong")
    target = tmp_path / "target"
    target.write_bytes(b"previous")
    with pytest.raises(BlobCorrupt):
        store.get_file("files/x", target, size_bytes=info.size_bytes, sha256=info.sha256)
    assert target.read_bytes() == b"previous"


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_key_is_refused(tmp_path: Path, key: str) -> None:
    store = open_store(f"file://{tmp_path}/blobs")
    assert_refused(store, key)


def test_odd_keys_are_refused_by_the_bucket_too(s3_url: str) -> None:
    store = open_store(s3_url)
    for key in ODD_KEYS:
        assert_refused(store, key)


def assert_refused(store: BlobStore, key: str) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: store.writer(key),
        lambda: store.read(key, size_bytes=1, sha256=""),
        lambda: store.delete(key),
    ]
    for attempt in attempts:
        with pytest.raises(BlobError, match="not a blob key"):
            attempt()


def test_delete_removes_and_may_be_repeated(store: BlobStore) -> None:
    info = write(store, "files/x", b"content")
    store.delete("files/x")
    store.delete("files/x")
    with pytest.raises(BlobMissing):
        read(store, info)


def test_list_gives_the_keys_with_a_prefix(store: BlobStore) -> None:
    keys = ["a", "jobs/1/step-1.tar", "jobs/1/step-2.tar", "jobs/10/step-1.tar", "jobs-x", "z/y/x"]
    for key in keys:
        write(store, key, b"")
    assert set(store.list("")) == set(keys)
    assert set(store.list("jobs/1")) == set(keys[1:4])
    assert set(store.list("jobs/1/")) == set(keys[1:3])
    assert list(store.list("jobs/1/step-2")) == ["jobs/1/step-2.tar"]
    assert list(store.list("nothing/here")) == []


def test_concurrent_writers_of_one_key_leave_one_whole_blob(store: BlobStore, url: str) -> None:
    contents = [bytes([n]) * (9 * MIB) for n in range(3)]
    with ThreadPoolExecutor(3) as pool:
        infos = list(pool.map(lambda content: write(store, "files/x", content), contents))
    winners = []
    for info in infos:
        try:
            winners.append(read(store, info))
        except BlobCorrupt:
            continue  # another writer committed later
    assert len(winners) == 1
    assert leftovers(url) == []


def test_concurrent_writers_of_many_keys(store: BlobStore) -> None:
    def round_trip(n: int) -> bool:
        content = os.urandom(1000 + n)
        return read(store, write(store, f"jobs/{n}/a/b", content)) == content

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(round_trip, range(40)))
    assert len(list(store.list("jobs/"))) == 40


def test_hundred_megabytes_stream_in_constant_memory(store: BlobStore) -> None:
    chunk = os.urandom(MIB)
    tracemalloc.start()
    try:
        with store.writer("files/large") as writer:
            for _ in range(100):
                writer.write(chunk)
            info = writer.commit()
        num_bytes = sum(
            map(len, store.read(info.key, size_bytes=info.size_bytes, sha256=info.sha256))
        )
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert num_bytes == 100 * MIB
    assert peak_bytes < 40 * MIB


def test_unread_stream_can_be_dropped(store: BlobStore) -> None:
    info = write(store, "files/x", b"content")
    for _ in range(50):  # more than the connections a client keeps
        store.read("files/x", size_bytes=info.size_bytes, sha256=info.sha256)
    assert read(store, info) == b"content"


def test_two_stores_of_one_url_see_the_same_blobs(store: BlobStore, url: str) -> None:
    info = write(store, "files/x", b"content")
    assert read(open_store(url), info) == b"content"


@pytest.fixture
def large(s3_url: str) -> BlobInfo:
    return write(open_store(s3_url), "files/large", os.urandom(6 * MIB))


def test_broken_download_is_taken_up_where_it_broke(
    s3_url: str, s3_endpoint: str, large: BlobInfo, tmp_path: Path
) -> None:
    with servers.cutting_proxy(s3_endpoint, 2 * MIB, num_cuts=3) as proxy:
        store = open_store(s3_url.replace(s3_endpoint, proxy))
        target = tmp_path / "target"
        store.get_file(large.key, target, size_bytes=large.size_bytes, sha256=large.sha256)
    assert hashlib.sha256(target.read_bytes()).hexdigest() == large.sha256


def test_download_that_breaks_for_ever_ends_as_unavailable(
    s3_url: str, s3_endpoint: str, large: BlobInfo, tmp_path: Path
) -> None:
    with servers.cutting_proxy(s3_endpoint, 0, num_cuts=1000) as proxy:
        store = open_store(s3_url.replace(s3_endpoint, proxy))
        with pytest.raises(Unavailable):
            store.get_file(
                large.key, tmp_path / "target", size_bytes=large.size_bytes, sha256=large.sha256
            )
    assert list(tmp_path.glob("*target*")) == []


def test_no_server_is_unavailable(s3_url: str, s3_endpoint: str) -> None:
    store = open_store(s3_url.replace(s3_endpoint, "http://127.0.0.1:9"))
    with pytest.raises(Unavailable):
        write(store, "files/x", b"content")


def test_unknown_bucket_is_an_error_not_a_missing_blob(s3_url: str) -> None:
    store = open_store(s3_url.replace(servers.S3_BUCKET, "no-such-bucket"))
    with pytest.raises(BlobError) as refused:
        write(store, "files/x", b"content")
    assert not isinstance(refused.value, BlobMissing)


def test_wrong_secret_is_refused(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it remembers credentials
    with pytest.raises(BlobError):
        write(open_store(s3_url), "files/x", b"content")


def test_temporary_files_of_killed_writers_are_removed_after_a_day(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/blobs"
    store = open_store(url)
    abandoned, fresh = tmp_path / "blobs/.partial/abandoned", tmp_path / "blobs/.partial/fresh"
    abandoned.write_bytes(b"")
    fresh.write_bytes(b"")
    os.utime(abandoned, (time.time() - 90_000,) * 2)
    open_store(url)
    assert leftovers(url) == [str(fresh)]
    assert list(store.list("")) == []


def test_directory_and_its_files_are_private(tmp_path: Path) -> None:
    write(open_store(f"file://{tmp_path}/blobs"), "files/x", b"content")
    assert (tmp_path / "blobs").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "blobs/files/x").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "url",
    ["", "/tmp/blobs", "file:blobs", "file://host/blobs", "s3:///x", "s3://b/x?speed=1", "ftp://x"],
)
def test_unreadable_blob_url_is_a_bad_setting(url: str) -> None:
    with pytest.raises(BadSetting, match="LUTHIER_BLOB_URL"):
        open_store(url)


def test_directory_url_may_hold_escaped_characters(tmp_path: Path) -> None:
    info = write(open_store(f"file://{tmp_path}/my%20blobs"), "a", b"content")
    assert (tmp_path / "my blobs" / info.key).read_bytes() == b"content"
