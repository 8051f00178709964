"""Keys that never leave AWS KMS: `GenerateMac` and `VerifyMac`, and `Sign` with P-256.

The AWS library (extra `kms`) is loaded when a key is first used. Verifying an asymmetric
signature needs no AWS where the public key is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tiebreak.bundles.keys import Algorithm, BundleKeysUnfit
from tiebreak.errors import Unavailable
from tiebreak.settings import KmsKey

_SCALAR_BYTES = 32
_CONNECT_SECONDS, _READ_SECONDS = 5, 15
_WRONG_MAC = "KMSInvalidMacException"


class KmsUnavailable(Unavailable):
    """AWS KMS does not answer, or refuses."""

    code = "kms_unavailable"


class KmsLibraryMissing(Unavailable):
    """Keys in AWS KMS need a library that is not installed."""

    code = "kms_library_missing"


@dataclass(frozen=True)
class KmsMacKey:
    """An HMAC key in KMS, which signs and verifies there."""

    key: KmsKey
    algorithm = Algorithm.KMS_MAC
    can_sign = True

    def sign(self, message: bytes) -> bytes:
        """HMAC-SHA256, 32 bytes; raises KmsUnavailable."""
        return _call(self.key, "generate_mac", Message=message, MacAlgorithm="HMAC_SHA_256")["Mac"]

    def verify(self, message: bytes, signature: bytes) -> bool:
        """What KMS says; raises KmsUnavailable."""
        answer = _call(
            self.key, "verify_mac", Message=message, Mac=signature, MacAlgorithm="HMAC_SHA_256"
        )
        return answer.get("MacValid") is True


@dataclass(frozen=True)
class KmsSignKey:
    """An asymmetric key on P-256 in KMS, whose signatures are verified here."""

    key: KmsKey
    algorithm = Algorithm.KMS_SIGN

    @property
    def can_sign(self) -> bool:
        """Whether this installation is told to sign with it."""
        return not self.key.verify_only

    def sign(self, message: bytes) -> bytes:
        """ECDSA as r and s of 32 bytes each; raises KmsUnavailable."""
        answer = _call(
            self.key, "sign", Message=message, MessageType="RAW", SigningAlgorithm="ECDSA_SHA_256"
        )
        return b"".join(
            part.to_bytes(_SCALAR_BYTES, "big")
            for part in decode_dss_signature(answer["Signature"])
        )

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether the key in KMS signed the message; raises KmsUnavailable."""
        r, s = (int.from_bytes(signature[at : at + _SCALAR_BYTES], "big") for at in (0, 32))
        try:
            self._public_key().verify(encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True

    def _public_key(self) -> ec.EllipticCurvePublicKey:
        given = self.key.public_key
        try:
            found = load_der_public_key(bytes.fromhex(given) if given else _fetched(self.key))
        except ValueError as error:
            raise BundleKeysUnfit(hint="The public key must be DER in hexadecimal.") from error
        if not isinstance(found, ec.EllipticCurvePublicKey) or found.curve.name != "secp256r1":
            raise BundleKeysUnfit(hint="A KMS key that signs must be of kind ECC_NIST_P256.")
        return found


_fetched_keys: dict[tuple[str, str | None, str | None], bytes] = {}


def _fetched(key: KmsKey) -> bytes:
    """The public key, asked for once: that of an asymmetric KMS key never changes."""
    name = (key.key, key.region, key.endpoint)
    if name not in _fetched_keys:
        _fetched_keys[name] = _call(key, "get_public_key")["PublicKey"]
    return _fetched_keys[name]


@cache
def _client(region: str | None, endpoint: str | None) -> Any:
    try:
        from botocore import config, session
    except ImportError as error:
        raise KmsLibraryMissing(hint="Install it: pip install 'tiebreak[kms]'") from error
    untyped: Any = session
    return untyped.get_session().create_client(
        "kms",
        region_name=region,
        endpoint_url=endpoint,
        config=config.Config(connect_timeout=_CONNECT_SECONDS, read_timeout=_READ_SECONDS),
    )


def _call(key: KmsKey, name: str, **arguments: object) -> dict[str, Any]:
    client = _client(key.region, key.endpoint)
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return getattr(client, name)(KeyId=key.key, **arguments)
    except ClientError as error:
        response: Any = error.response
        if response["Error"]["Code"] == _WRONG_MAC:
            return {"MacValid": False}
        raise _unavailable(key, error) from error
    except BotoCoreError as error:
        raise _unavailable(key, error) from error


def _unavailable(key: KmsKey, error: Exception) -> KmsUnavailable:
    return KmsUnavailable(
        f"AWS KMS does not answer for key {key.key}: {error}",
        hint="Check its region, the network and the permissions kms:GenerateMac and "
        "kms:VerifyMac, or kms:Sign and kms:GetPublicKey.",
    )
