"""A local AWS KMS, and keys in it."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from botocore.session import get_session
from moto.server import ThreadedMotoServer

from tiebreak.settings import KmsKey

REGION = "eu-central-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@contextmanager
def local_kms() -> Generator[str]:
    """The address of a KMS in this process, with credentials for it in the environment."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with patch.dict(os.environ, CREDENTIALS):
            yield f"http://{host}:{port}"
    finally:
        server.stop()


def new_key(endpoint: str, usage: str) -> KmsKey:
    """A new key in the local KMS, `mac` or `sign`."""
    client: Any = get_session().create_client("kms", region_name=REGION, endpoint_url=endpoint)
    kind = {
        "mac": {"KeyUsage": "GENERATE_VERIFY_MAC", "KeySpec": "HMAC_256"},
        "sign": {"KeyUsage": "SIGN_VERIFY", "KeySpec": "ECC_NIST_P256"},
    }[usage]
    key = client.create_key(**kind)["KeyMetadata"]["KeyId"]
    return KmsKey(key=key, usage=usage, region=REGION, endpoint=endpoint)
