"""Signed bundles: a header of fixed length, then the payload.

    magic 8 | format version 2 | algorithm 2 | key id 16 | payload length 8 | signature | payload

Integers are big-endian. Version 1 has 32 bytes of signature: HMAC-SHA256 over everything but
itself. Version 2 has 64, filled up with zeros, for every other algorithm: each signs
the words of format 2 and the SHA-256 of everything but the signature. Bytes are verified before
anything in the payload is parsed, and what is parsed is what was verified: one buffer.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from tiebreak.bundles.keys import (
    Algorithm,
    BundleKey,
    BundleKeysUnfit,
    CannotSign,
    Ed25519Key,
    HmacKey,
)
from tiebreak.bundles.kms import KmsMacKey, KmsSignKey
from tiebreak.errors import IntegrityFailure
from tiebreak.settings import Keyring

MAGIC = b"TIEBRKMB"
MOST_ACTIVE_KEYS = 2
_SIGNED = struct.Struct(">8sHH16sQ")
_SIGNATURE_BYTES = {1: 32, 2: 64}  # by format version
_SIZES = {
    (1, Algorithm.HMAC_SHA256): 32,
    (2, Algorithm.ED25519): 64,
    (2, Algorithm.KMS_MAC): 32,
    (2, Algorithm.KMS_SIGN): 64,
}
_VERSIONS = {algorithm: version for version, algorithm in _SIZES}


class BundleRejected(IntegrityFailure):
    """The bundle does not load."""

    code = "bundle_rejected"


class BundleTruncated(BundleRejected):
    """The bundle is shorter or longer than its header says."""

    code = "bundle_length_wrong"


class BundleUnsigned(BundleRejected):
    """These bytes are not a signed bundle."""

    code = "bundle_unsigned"


class BundleFormatUnknown(BundleRejected):
    """The bundle's format or algorithm is not one this version reads."""

    code = "bundle_format_unknown"


class BundleKeyUnknown(BundleRejected):
    """The bundle is signed with a key that is not active."""

    code = "bundle_key_unknown"


class BundleKeyRevoked(BundleRejected):
    """The bundle is signed with a key that was revoked."""

    code = "bundle_key_revoked"


class BundleAltered(BundleRejected):
    """The bundle's bytes are not the ones that were signed."""

    code = "bundle_altered"


@dataclass(frozen=True)
class BundleKeys:
    """One or two active keys by id, the id of the one that signs, and the ids of revoked ones.

    Two, so that bundles of the old key still load while the new one already signs. Plain bytes
    are the secret of HMAC-SHA256. Without a signing key bundles can only be verified. What a
    revoked key signed does not load. Raises BundleKeysUnfit for a short key, a long or repeated
    id, or a signing key that is not active, revoked or cannot sign.
    """

    active: Mapping[str, BundleKey | bytes]
    signing: str | None
    revoked: frozenset[str] = frozenset()
    _by_id: Mapping[bytes, BundleKey] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.active) <= MOST_ACTIVE_KEYS:
            raise BundleKeysUnfit(hint=f"Keep one or two keys active, not {len(self.active)}.")
        by_id = {
            _key_id_bytes(key_id): HmacKey(key) if isinstance(key, bytes) else key
            for key_id, key in self.active.items()
        }
        object.__setattr__(self, "_by_id", by_id)
        if self.signing is None:
            return
        if self.signing not in self.active:
            raise BundleKeysUnfit(hint="The signing key must be one of the active keys.")
        if self.signing in self.revoked:
            raise BundleKeysUnfit(hint=f"The signing key {self.signing!r} is revoked; make one.")
        if not self.key(self.signing).can_sign:
            raise BundleKeysUnfit(hint=f"The signing key {self.signing!r} can only verify.")

    def __repr__(self) -> str:
        return f"BundleKeys(active={list(self.active)}, signing={self.signing!r})"

    @classmethod
    def of(cls, keyring: Keyring) -> BundleKeys:
        """The keys of an installation."""
        active: dict[str, BundleKey | bytes] = dict(keyring.bundle_keys)
        for key_id, public in keyring.bundle_public_keys.items():
            active[key_id] = Ed25519Key(public, keyring.bundle_private_keys.get(key_id))
        for key_id, key in keyring.bundle_kms_keys.items():
            active[key_id] = KmsMacKey(key) if key.usage == "mac" else KmsSignKey(key)
        return cls(active, keyring.bundle_signing_key_id, keyring.bundle_revoked)

    def key(self, key_id: str) -> BundleKey:
        """The active key of this id."""
        return self._by_id[_key_id_bytes(key_id)]

    def named(self, key_id: bytes, algorithm: int) -> BundleKey:
        """The key that a header names; raises BundleKeyRevoked and BundleKeyUnknown."""
        if key_id in map(_key_id_bytes, self.revoked):
            raise BundleKeyRevoked(
                hint="Train anew, or import it from where it was made, under another key.",
                key_id=key_id.rstrip(b"\0").decode("ascii"),
            )
        found = self._by_id.get(key_id)
        if found is None or found.algorithm != algorithm:
            raise BundleKeyUnknown(
                hint="Sign it anew with an active key, where its own is still active: "
                "`tiebreak model renew`."
            )
        return found


def sign(payload: bytes, keys: BundleKeys) -> bytes:
    """The bundle of this payload, signed with the signing key; raises CannotSign."""
    if keys.signing is None:
        raise CannotSign
    key = keys.key(keys.signing)
    version = _VERSIONS[key.algorithm]
    head = _SIGNED.pack(MAGIC, version, key.algorithm, _key_id_bytes(keys.signing), len(payload))
    signature = key.sign(_message(version, head, payload))
    return head + signature.ljust(_SIGNATURE_BYTES[version], b"\0") + payload


def verify(data: bytes, keys: BundleKeys) -> bytes:
    """The payload of a bundle that an active key has signed; a BundleRejected for each cause."""
    payload = bytes(payload_of(data))
    version, algorithm, key_id, _ = _fields(data)
    key = keys.named(key_id, algorithm)
    size = _SIZES[version, Algorithm(algorithm)]
    head, field_ = data[: _SIGNED.size], data[_SIGNED.size : _header_bytes(version)]
    signature, filling = field_[:size], field_[size:]
    is_filled = hmac.compare_digest(filling, bytes(len(filling)))
    if not key.verify(_message(version, head, payload), signature) or not is_filled:
        raise BundleAltered
    return payload


def sign_anew(data: bytes, keys: BundleKeys) -> bytes:
    """The same bundle under the signing key, once an active key has verified it."""
    return sign(verify(data, keys), keys)


def payload_of(data: bytes) -> memoryview:
    """What stands behind the header, unverified, no copy: to name a bundle, never to parse it.

    Raises BundleTruncated, BundleUnsigned and BundleFormatUnknown.
    """
    if len(data) < _SIGNED.size + min(_SIGNATURE_BYTES.values()):
        raise BundleTruncated
    version, _, _, length = _fields(data)
    payload = memoryview(data)[_header_bytes(version) :]
    if len(data) < _header_bytes(version) or length != len(payload):
        raise BundleTruncated
    return payload


def signed_by(data: bytes) -> tuple[str, str]:
    """The key id and the algorithm that a header claims, unverified; for people."""
    _, algorithm, key_id, _ = _fields(data)
    shown = key_id.rstrip(b"\0").decode("ascii", "replace")
    return shown, Algorithm(algorithm).name.lower().replace("_", "-")


def _fields(data: bytes) -> tuple[int, int, bytes, int]:
    """Version, algorithm, key id and length; raises BundleUnsigned and BundleFormatUnknown."""
    if len(data) < _SIGNED.size:
        raise BundleUnsigned
    magic, version, algorithm, key_id, length = _SIGNED.unpack_from(data)
    if magic != MAGIC:
        raise BundleUnsigned
    if (version, algorithm) not in _SIZES:
        raise BundleFormatUnknown
    return version, algorithm, key_id, length


def _header_bytes(version: int) -> int:
    return _SIGNED.size + _SIGNATURE_BYTES[version]


def _message(version: int, head: bytes, payload: bytes) -> bytes:
    """What is signed: version 2 keeps it short, because KMS takes 4,096 bytes at most."""
    if version == 1:
        return head + payload
    digest = hashlib.sha256(head)
    digest.update(payload)
    return b"tiebreak bundle 2\n" + digest.digest()


def _key_id_bytes(key_id: str) -> bytes:
    encoded = key_id.encode("ascii", errors="replace")
    if not 1 <= len(encoded) <= 16 or not key_id.isascii() or not key_id.isprintable():
        raise BundleKeysUnfit(hint="A key id has 1 to 16 printable ASCII characters.")
    return encoded.ljust(16, b"\0")
