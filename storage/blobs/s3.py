"""Blobs in an S3 bucket, below a prefix."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from foundation.errors import BlobCorrupt, BlobError, BlobMissing, Unavailable

from . import blobs
from .blobs import CHUNK_BYTES, BlobInfo

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PART_BYTES = 8 << 20
# A stream that breaks is taken up again where it broke, this many times without any progress.
_MAX_BARREN_READS = 4
_MISSING = ("NoSuchKey", "404")

log = structlog.get_logger()


class S3BlobStore:
    """See `blobs.BlobStore`. Credentials come from the AWS_* variables.

    A killed process leaves its multipart upload behind, unseen: give the bucket a lifecycle rule that
    aborts incomplete uploads after a day.
    """

    def __init__(
        self,
        *,
        bucket: str,
        prefix: str = "",
        endpoint: str | None = None,
        region: str | None = None,
    ) -> None:
        self.bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._s3 = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=region or "us-east-1",
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                # botocore's own are 60 s, five times over: minutes before anybody hears of it.
                connect_timeout=3,
                read_timeout=20,
                retries={"mode": "standard", "total_max_attempts": 4},
                max_pool_connections=32,
                # The SHA-256 is checked on every read; a CRC of the same bytes adds nothing.
                response_checksum_validation="when_required",
            ),
        )

    def writer(self, key: str) -> S3BlobWriter:
        return S3BlobWriter(self._s3, self.bucket, key, self._name(key))

    def put_file(self, key: str, path: Path) -> BlobInfo:
        return blobs.put_file(self, key, path)

    def read(
        self, key: str, *, size_bytes: int, sha256: str, chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[bytes]:
        chunks = self._chunks(key, size_bytes, chunk_bytes)
        next(chunks)  # makes the first request, so that the call itself raises
        return blobs.verified(key, chunks, size_bytes=size_bytes, sha256=sha256)

    def get_file(self, key: str, path: Path, *, size_bytes: int, sha256: str) -> None:
        blobs.get_file(self, key, path, size_bytes=size_bytes, sha256=sha256)

    def delete(self, key: str) -> None:
        with _errors(key):
            self._s3.delete_object(Bucket=self.bucket, Key=self._name(key))

    def list(self, prefix: str) -> Iterator[str]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self._prefix + prefix
        )
        with _errors(prefix):
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield entry["Key"].removeprefix(self._prefix)

    def _name(self, key: str) -> str:
        return self._prefix + blobs.check_key(key)

    def _chunks(self, key: str, size_bytes: int, chunk_bytes: int) -> Iterator[bytes]:
        name = self._name(key)
        with _errors(key):
            reply = self._s3.get_object(Bucket=self.bucket, Key=name)
        if reply["ContentLength"] != size_bytes:
            reply["Body"].close()
            raise BlobCorrupt(f"blob {key} does not have {size_bytes} bytes")
        offset = 0
        num_barren_reads = 0
        started = False
        while True:
            # botocore retries requests, never a body that breaks off.
            with closing(reply["Body"]) as body:
                if not started:
                    started = True
                    yield b""
                try:
                    while chunk := body.read(chunk_bytes):
                        offset += len(chunk)
                        num_barren_reads = 0
                        yield chunk
                    return
                except BotoCoreError as error:
                    if offset == size_bytes:
                        return
                    num_barren_reads += 1
                    if num_barren_reads == _MAX_BARREN_READS:
                        raise Unavailable(f"blob storage broke off: {error}") from error
                    log.warning("blobs.read_resumed", key=key, offset=offset, error=str(error))
            with _errors(key):
                # If-Match: the rest of another object would be found out, but only at the end.
                reply = self._s3.get_object(
                    Bucket=self.bucket, Key=name, Range=f"bytes={offset}-", IfMatch=reply["ETag"]
                )


class S3BlobWriter:
    """One PUT for a blob smaller than a part, a multipart upload for any other."""

    def __init__(self, s3: S3Client, bucket: str, key: str, name: str) -> None:
        self.key = key
        self._s3 = s3
        self._bucket = bucket
        self._name = name
        self._buffer = bytearray()
        self._digest = hashlib.sha256()
        self._num_bytes = 0
        self._upload_id: str | None = None
        self._parts: list[CompletedPartTypeDef] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._upload_id is None:
            return
        try:
            self._s3.abort_multipart_upload(
                Bucket=self._bucket, Key=self._name, UploadId=self._upload_id
            )
        except (BotoCoreError, ClientError) as error:
            # The bucket's lifecycle rule removes it; the error that brought us here matters more.
            log.warning("blobs.abort_failed", key=self.key, error=str(error))

    def write(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self._num_bytes += len(chunk)
        self._buffer += chunk
        while len(self._buffer) >= PART_BYTES:
            part = bytes(memoryview(self._buffer)[:PART_BYTES])
            del self._buffer[:PART_BYTES]
            self._upload_part(part)

    def commit(self) -> BlobInfo:
        with _errors(self.key):
            if self._upload_id is None:
                self._s3.put_object(Bucket=self._bucket, Key=self._name, Body=bytes(self._buffer))
            else:
                if self._buffer:
                    self._upload_part(bytes(self._buffer))
                self._complete(self._upload_id)
                self._upload_id = None
        return BlobInfo(self.key, self._num_bytes, self._digest.hexdigest())

    def _upload_part(self, part: bytes) -> None:
        number = len(self._parts) + 1
        with _errors(self.key):
            if self._upload_id is None:
                created = self._s3.create_multipart_upload(Bucket=self._bucket, Key=self._name)
                self._upload_id = created["UploadId"]
            reply = self._s3.upload_part(
                Bucket=self._bucket,
                Key=self._name,
                UploadId=self._upload_id,
                PartNumber=number,
                Body=part,
            )
        # S3 wants the checksum repeated that botocore added to the part.
        completed: CompletedPartTypeDef = {"PartNumber": number, "ETag": reply["ETag"]}
        if "ChecksumCRC32" in reply:
            completed["ChecksumCRC32"] = reply["ChecksumCRC32"]
        self._parts.append(completed)

    def _complete(self, upload_id: str) -> None:
        try:
            self._s3.complete_multipart_upload(
                Bucket=self._bucket,
                Key=self._name,
                UploadId=upload_id,
                MultipartUpload={"Parts": self._parts},
            )
        except ClientError as error:
            # A retry after a lost reply finds the upload gone, because the first attempt did it.
            if _code(error) != "NoSuchUpload" or not self._is_there():
                raise

    def _is_there(self) -> bool:
        head = self._s3.head_object(Bucket=self._bucket, Key=self._name)
        return head["ContentLength"] == self._num_bytes


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def _errors(key: str) -> Iterator[None]:
    """What S3 says, in the words of the protocol."""
    try:
        yield
    except ClientError as error:
        if _code(error) in _MISSING:
            raise BlobMissing(f"blob {key} is not there") from error
        if _code(error) == "PreconditionFailed":
            raise BlobCorrupt(f"blob {key} was replaced while it was read") from error
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status >= 500 or _code(error) in ("SlowDown", "RequestTimeout"):
            raise Unavailable(f"blob storage failed: {error}") from error
        raise BlobError(f"blob storage refused: {error}") from error
    except BotoCoreError as error:
        raise Unavailable(f"blob storage cannot be reached: {error}") from error
