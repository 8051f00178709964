"""Blobs in an S3 bucket. Imported only where a bucket is set: it needs the extra `s3`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from tiebreak.bundles.blobs import ArtifactsUnavailable
from tiebreak.errors import Problem
from tiebreak.settings import ArtifactSettings

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 5.0  # longest silence within an answer
TRANSFER_SECONDS = 15.0  # longest whole object, however steadily it drips, and
SLOWEST_BYTES_A_SECOND = 1 << 20  # so much longer as it is large
ATTEMPTS = 2
CONFLICTS = 5  # writes of one name at once, after which one gives up
REST_SECONDS = 5.0  # what failed is not tried again for so long
LARGEST_BYTES = 1 << 30
_FAILURES = (BotoCoreError, ClientError, ResponseParserError, HTTPError, OSError, ValueError)
_UNTOLD = frozenset({"AccessDenied", "NotImplemented", "MethodNotAllowed"})
_WORDS = {
    "ConnectTimeoutError": "no connection in time",
    "EndpointConnectionError": "no connection",
    "FlexibleChecksumError": "an answer was garbled on its way",
    "IncompleteReadError": "an answer broke off",
    "NoCredentialsError": "no credentials were found",
    "ReadTimeoutError": "no answer in time",
    "ResponseStreamingError": "an answer broke off",
}
_RIGHTS = "Give the credentials the rights that docs/howto/artifacts-on-s3.md lists."
_HINTS = {
    "403": _RIGHTS,  # of a HEAD, whose answer has no body
    "AccessDenied": _RIGHTS,
    "NoCredentialsError": "Give credentials as for any AWS client, such as AWS_PROFILE.",
    "NoSuchBucket": "Make the bucket, or correct TIEBREAK_ARTIFACTS__URL.",
}

# At a lower level it writes whole requests, signatures and session tokens with them.
logging.getLogger("botocore").setLevel(logging.WARNING)


class _Unfit(Exception):
    """The object takes too long as a whole, or is too large."""


class Bucket:
    """The blobs under one prefix of a bucket; safe to use from many threads.

    After a failure it rests for some seconds, in which every call fails at once, so that those
    who ask again and again neither wait nor hammer on it.
    """

    def __init__(self, settings: ArtifactSettings) -> None:
        self._bucket, self._prefix = settings.place
        self._endpoint = settings.endpoint_url
        self._encryption: dict[str, str] = {}
        if settings.kms_key_id is not None:
            self._encryption["ServerSideEncryption"] = "aws:kms"
            self._encryption["SSEKMSKeyId"] = settings.kms_key_id
        self._lock = threading.Lock()
        self._made: Any = None
        self._resting: tuple[float, ArtifactsUnavailable] | None = None

    def __str__(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def put(self, name: str, data: bytes) -> None:
        """See `Blobs`."""
        with self._asking() as client:
            client.put_object(**self._upload(name, data))

    def put_new(self, name: str, data: bytes) -> bool:
        """See `Blobs`. A call whose answer was lost may say False of what it put there itself."""
        with self._asking() as client:
            for left in reversed(range(CONFLICTS)):
                try:
                    client.put_object(**self._upload(name, data), IfNoneMatch="*")
                except ClientError as error:
                    if _code(error) == "PreconditionFailed":
                        return False
                    if _code(error) != "ConditionalRequestConflict" or not left:
                        raise
                else:
                    return True
        raise AssertionError  # the last conflict was raised

    def get(self, name: str) -> bytes | None:
        """See `Blobs`."""
        with self._asking() as client:
            try:
                answer = client.get_object(**self._at(name), ChecksumMode="ENABLED")
            except ClientError as error:
                if _code(error) == "NoSuchKey":
                    return None
                raise
            return _read(answer)

    def has(self, name: str) -> bool:
        """See `Blobs`."""
        with self._asking() as client:
            try:
                client.head_object(**self._at(name))
            except ClientError as error:
                if _code(error) == "404":  # a HEAD has no body that would name the cause
                    return False
                raise
            return True

    def delete(self, name: str) -> None:
        """See `Blobs`. The newest version goes first, what marks it as deleted among them."""
        key = self._key(name)
        with self._asking() as client:
            listing = {"Bucket": self._bucket, "Prefix": key}
            # Listed whole before any goes: a page begins at the version where the last one ended.
            pages = list(client.get_paginator("list_object_versions").paginate(**listing))
            for page in pages:
                for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                    if each["Key"] == key:
                        client.delete_object(**self._at(name), VersionId=each["VersionId"])

    def names(self, folder: str, *, after: str = "") -> tuple[str, ...]:
        """See `Blobs`."""
        start = self._key(folder) + "/"
        listing = {"Bucket": self._bucket, "Prefix": start, "Delimiter": "/"}
        if after:
            listing["StartAfter"] = start + after
        with self._asking() as client:
            pages = client.get_paginator("list_objects_v2").paginate(**listing)
            keys = [each["Key"] for page in pages for each in page.get("Contents", ())]
        return tuple(sorted(key.removeprefix(start) for key in keys if key != start))

    def problems(self) -> tuple[Problem, ...]:
        """See `Blobs`: whether the bucket keeps versions and encrypts."""
        with self._asking() as client:
            found = [self._versioning(client)]
            if not self._encryption:  # else each object is encrypted as it is put
                found.append(self._default_encryption(client))
        return tuple(problem for problem in found if problem is not None)

    def _versioning(self, client: Any) -> Problem | None:
        try:
            if client.get_bucket_versioning(Bucket=self._bucket).get("Status") == "Enabled":
                return None
        except ClientError as error:
            return self._unknown(error, "versioning", "s3:GetBucketVersioning")
        return self._lacking(
            "versioning",
            "The bucket does not keep versions: what is overwritten or deleted is lost.",
            "put-bucket-versioning",
            "--versioning-configuration Status=Enabled",
        )

    def _default_encryption(self, client: Any) -> Problem | None:
        try:
            client.get_bucket_encryption(Bucket=self._bucket)
        except ClientError as error:
            if _code(error) != "ServerSideEncryptionConfigurationNotFoundError":
                return self._unknown(error, "encryption", "s3:GetEncryptionConfiguration")
        else:
            return None
        rule = '{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"AES256"}}]}'
        return self._lacking(
            "encryption",
            "The bucket does not encrypt what it keeps.",
            "put-bucket-encryption",
            f"--server-side-encryption-configuration '{rule}'",
        )

    def _lacking(self, what: str, message: str, command: str, options: str) -> Problem:
        endpoint = f" --endpoint-url {self._endpoint}" if self._endpoint else ""
        hint = f"aws s3api {command} --bucket {self._bucket}{endpoint} {options}"
        return Problem(str(self), f"bucket_without_{what}", message, hint)

    def _unknown(self, error: ClientError, what: str, right: str) -> Problem:
        if _code(error) not in _UNTOLD:
            raise error
        message = f"The bucket does not say whether it has {what}: {_code(error)}."
        return Problem(str(self), f"bucket_{what}_unknown", message, f"Allow {right}.")

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._key(name)}

    def _upload(self, name: str, data: bytes) -> dict[str, Any]:
        return {**self._at(name), "Body": data, "ChecksumAlgorithm": "SHA256", **self._encryption}

    @contextmanager
    def _asking(self) -> Generator[Any]:
        """The client; what goes wrong with it is an ArtifactsUnavailable."""
        resting = self._resting
        if resting is not None and time.monotonic() < resting[0]:
            raise ArtifactsUnavailable(resting[1].message, hint=resting[1].hint)
        try:
            yield self._client()
        except (*_FAILURES, _Unfit) as error:
            away = self._away(error)
            self._resting = (time.monotonic() + REST_SECONDS, away)
            raise away from error
        self._resting = None

    def _away(self, error: Exception) -> ArtifactsUnavailable:
        """The failure in words of ours: those of the client may quote what a request carried."""
        kind = _code(error) if isinstance(error, ClientError) else type(error).__name__
        reason = str(error) if isinstance(error, _Unfit) else _WORDS.get(kind, kind)
        hint = _HINTS.get(kind, "Look at the bucket, its endpoint and the network in between.")
        return ArtifactsUnavailable(f"{self} does not answer: {reason}.", hint=hint)

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                style = "path" if self._endpoint else "auto"
                session: Any = botocore.session.Session()
                self._made = session.create_client(
                    "s3",
                    endpoint_url=self._endpoint,
                    config=Config(
                        connect_timeout=CONNECT_SECONDS,
                        read_timeout=ANSWER_SECONDS,
                        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                        s3={"addressing_style": style},
                    ),
                )
            return self._made


def _read(answer: Any) -> bytes:
    """The body of an answer, within its bounds of time and size."""
    length, body = answer["ContentLength"], answer["Body"]
    if length > LARGEST_BYTES:
        raise _Unfit(f"an object of {length:,} bytes is too large")
    seconds = TRANSFER_SECONDS + length / SLOWEST_BYTES_A_SECOND
    is_late = threading.Event()
    timer = threading.Timer(seconds, _shut, [body._raw_stream, is_late])
    timer.daemon = True
    timer.start()
    try:
        return body.read()
    except _FAILURES as error:
        if is_late.is_set():
            raise _Unfit(f"an object took longer than {seconds:.0f} seconds") from error
        raise
    finally:
        timer.cancel()


def _shut(stream: Any, is_late: threading.Event) -> None:
    """Ends a read() of another thread, which itself knows only the silence between two bytes."""
    is_late.set()  # before it ends: the other thread asks at once
    with suppress(ValueError, RuntimeError, OSError):  # it has just ended by itself
        stream.shutdown()


def _code(error: ClientError) -> str:
    """What the server calls the cause; its message is not repeated."""
    response: Any = error.response
    return str(response.get("Error", {}).get("Code", "unknown"))
