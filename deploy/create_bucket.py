"""Make the bucket of LUTHIER_BLOB_URL on the S3 server of docker-compose.yml. Safe to run at each start.

It ends when the server has taken a write: some seconds pass between its first answer and that.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DEADLINE_S = 120.0
PROBE = "write-probe"


def prepare(s3: S3Client, bucket: str) -> None:
    """Raises what boto3 raises while the server is not ready."""
    if bucket not in {found["Name"] for found in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(Bucket=bucket)
    # A process that is killed in the middle of an upload leaves parts that no listing shows.
    rule = {
        "ID": "abandoned-uploads",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }
    s3.put_bucket_lifecycle_configuration(
        Bucket=bucket,
        LifecycleConfiguration={"Rules": [rule]},  # type: ignore[list-item]
    )
    # Not an empty one: that takes no room on a volume, and so works where nothing else does.
    s3.put_object(Bucket=bucket, Key=PROBE, Body=b"probe")
    s3.delete_object(Bucket=bucket, Key=PROBE)


def main() -> int:
    url = urlsplit(os.environ["LUTHIER_BLOB_URL"])
    options = parse_qs(url.query)
    s3 = boto3.client(
        "s3",
        endpoint_url=options["endpoint"][0],
        region_name=options["region"][0],
        config=Config(s3={"addressing_style": "path"}, connect_timeout=3, read_timeout=10),
    )
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            prepare(s3, url.netloc)
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline:
                sys.stderr.write(f"the bucket {url.netloc} cannot be made: {error}\n")
                return 1
            time.sleep(1)
        else:
            return 0


if __name__ == "__main__":
    raise SystemExit(main())
