"""Signed bundles: a header of fixed length, then the payload.

    magic 8 | format version 2 | algorithm 2 | key id 16 | payload length 8 | MAC 32 | payload

Integers are big-endian. The MAC is HMAC-SHA256 over everything but itself. Bytes are verified
before anything in the payload is parsed, and what is parsed is what was verified: one buffer.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from tiebreak.errors import IntegrityFailure, InvalidInput

MAGIC = b"TIEBRKMB"
FORMAT_VERSION = 1
HMAC_SHA256 = 1
MINIMUM_KEY_BYTES = 32
MOST_ACTIVE_KEYS = 2
_SIGNED = struct.Struct(">8sHH16sQ")
_MAC_BYTES = 32
HEADER_BYTES = _SIGNED.size + _MAC_BYTES


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


class BundleAltered(BundleRejected):
    """The bundle's bytes are not the ones that were signed."""

    code = "bundle_altered"


class BundleKeysUnfit(InvalidInput):
    """The keys for signing bundles are not usable."""

    code = "bundle_keys_unfit"


@dataclass(frozen=True)
class BundleKeys:
    """One or two active keys by id, and the id of the one that signs.

    Two, so that bundles of the old key still load while the new one already signs. Raises
    BundleKeysUnfit for a short key, a long or repeated id, or no key to sign with.
    """

    active: Mapping[str, bytes]
    signing: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.active) <= MOST_ACTIVE_KEYS:
            raise BundleKeysUnfit(hint=f"Keep one or two keys active, not {len(self.active)}.")
        if self.signing not in self.active:
            raise BundleKeysUnfit(hint="The signing key must be one of the active keys.")
        for key_id, key in self.active.items():
            if len(key) < MINIMUM_KEY_BYTES:
                raise BundleKeysUnfit(hint=f"Key {key_id} needs {MINIMUM_KEY_BYTES} bytes.")
            _key_id_bytes(key_id)

    def __repr__(self) -> str:
        return f"BundleKeys(active={list(self.active)}, signing={self.signing!r})"


def sign(payload: bytes, keys: BundleKeys) -> bytes:
    """The bundle of this payload, signed with the signing key."""
    head = _SIGNED.pack(
        MAGIC, FORMAT_VERSION, HMAC_SHA256, _key_id_bytes(keys.signing), len(payload)
    )
    return head + _mac(keys.active[keys.signing], head, payload) + payload


def verify(data: bytes, keys: BundleKeys) -> bytes:
    """The payload of a bundle that an active key has signed; a BundleRejected for each cause."""
    if len(data) < HEADER_BYTES:
        raise BundleTruncated
    magic, version, algorithm, key_id, length = _SIGNED.unpack_from(data)
    if magic != MAGIC:
        raise BundleUnsigned
    if (version, algorithm) != (FORMAT_VERSION, HMAC_SHA256):
        raise BundleFormatUnknown
    by_id = {_key_id_bytes(name): key for name, key in keys.active.items()}
    if key_id not in by_id:
        raise BundleKeyUnknown(hint="Sign the bundle anew with an active key.")
    payload = data[HEADER_BYTES:]
    if length != len(payload):
        raise BundleTruncated
    head, mac = data[: _SIGNED.size], data[_SIGNED.size : HEADER_BYTES]
    if not hmac.compare_digest(mac, _mac(by_id[key_id], head, payload)):
        raise BundleAltered
    return payload


def sign_anew(data: bytes, keys: BundleKeys) -> bytes:
    """The same bundle under the signing key, once an active key has verified it."""
    return sign(verify(data, keys), keys)


def _mac(key: bytes, head: bytes, payload: bytes) -> bytes:
    mac = hmac.new(key, head, hashlib.sha256)
    mac.update(payload)
    return mac.digest()


def _key_id_bytes(key_id: str) -> bytes:
    encoded = key_id.encode("ascii", errors="replace")
    if not 1 <= len(encoded) <= 16 or not key_id.isascii() or not key_id.isprintable():
        raise BundleKeysUnfit(hint="A key id has 1 to 16 printable ASCII characters.")
    return encoded.ljust(16, b"\0")
