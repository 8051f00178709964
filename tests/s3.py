"""A bucket on a real S3 server, which tests may kill, start anew and make fail."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import botocore.session
import httpx
from botocore.config import Config

from tiebreak.settings import ArtifactSettings

BUCKET = "tiebreak-tests"
PREFIX = "site/one"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "an-access-key-for-tests",
    "AWS_SECRET_ACCESS_KEY": "a-secret-key-for-tests",
    "AWS_SESSION_TOKEN": "a-session-token-for-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
START_SECONDS = 60
PAGE = 2  # names that one answer lists, of S3's 1,000, so that few objects make many pages
ALL = 1_000


class S3:
    """A server on a port of its own, with one bucket that keeps versions and encrypts."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.endpoint_url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, empty, and make the bucket."""
        command = [sys.executable, "-m", "tests.s3_server", str(self._port)]
        self._process = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[1],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **CREDENTIALS, "MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)},
        )
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            try:
                httpx.put(f"{self.endpoint_url}/-/fault", content=b"")
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                break
        client = self.client()
        client.create_bucket(Bucket=BUCKET)
        client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
        client.put_bucket_encryption(
            Bucket=BUCKET, ServerSideEncryptionConfiguration={"Rules": [rule]}
        )

    def kill(self) -> None:
        """kill -9: connections are refused from now on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def fail(self, fault: str) -> None:
        """Meet the server's fault of this name from now on; empty: answer as it should."""
        httpx.put(f"{self.endpoint_url}/-/fault", content=fault.encode()).raise_for_status()

    def empty(self) -> None:
        """Take everything out of the bucket, and all faults back."""
        self.fail("")
        client = self.client()
        found = client.list_object_versions(Bucket=BUCKET, MaxKeys=ALL)
        for each in [*found.get("Versions", ()), *found.get("DeleteMarkers", ())]:
            client.delete_object(Bucket=BUCKET, Key=each["Key"], VersionId=each["VersionId"])

    def client(self) -> Any:
        """A client that can do everything."""
        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            config=Config(s3={"addressing_style": "path"}),
        )

    def settings(self, **more: Any) -> ArtifactSettings:
        """Settings that name the bucket."""
        url = f"s3://{BUCKET}/{PREFIX}"
        return ArtifactSettings(url=url, endpoint_url=self.endpoint_url, **more)

    def environment(self) -> dict[str, str]:
        """What a process needs to reach the bucket."""
        return {
            **CREDENTIALS,
            "TIEBREAK_ARTIFACTS__URL": f"s3://{BUCKET}/{PREFIX}",
            "TIEBREAK_ARTIFACTS__ENDPOINT_URL": self.endpoint_url,
        }

    def objects(self) -> dict[str, bytes]:
        """Everything in the bucket by its whole key."""
        client = self.client()
        found = client.list_objects_v2(Bucket=BUCKET, MaxKeys=ALL).get("Contents", ())
        keys = [each["Key"] for each in found]
        return {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


@contextmanager
def running() -> Generator[S3]:
    """A server for as long as the block runs."""
    server = S3()
    server.start()
    try:
        yield server
    finally:
        server.kill()
