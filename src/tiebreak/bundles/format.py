"""Bundles: signed archives of stored files, with the same payload for the same parts."""

from __future__ import annotations

import hashlib
import hmac
import io
import zipfile
from collections.abc import Mapping

from tiebreak.bundles.signing import BundleKeys, BundleRejected, sign, verify

_FIXED_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold
# What zipfile raises on archives that are none; RuntimeError also for entries marked as encrypted,
# IndexError for entries without a name.
_UNREADABLE = (zipfile.BadZipFile, ValueError, RuntimeError, EOFError, IndexError)


class BundleNotExpected(BundleRejected):
    """The bundle is signed, but it is not the one that the release names."""

    code = "bundle_not_expected"


class PayloadMalformed(BundleRejected):
    """The bundle is signed, but its payload is not an archive of stored files."""

    code = "bundle_payload_malformed"


def make_bundle(parts: Mapping[str, bytes], keys: BundleKeys) -> bytes:
    """The signed bundle that holds these parts."""
    return sign(pack(parts), keys)


def open_bundle(data: bytes, keys: BundleKeys, *, expect_digest: str) -> Mapping[str, bytes]:
    """The parts of a bundle, after its bytes were verified; a BundleRejected for each cause."""
    payload = verify(data, keys)
    if not hmac.compare_digest(digest_of(payload), expect_digest):
        raise BundleNotExpected
    return unpack(payload)


def pack(parts: Mapping[str, bytes]) -> bytes:
    """The payload that holds these parts; equal parts give equal bytes, whatever their order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(parts):
            entry = zipfile.ZipInfo(name, _FIXED_DATE)
            entry.create_system = 3
            archive.writestr(entry, parts[name])
    return buffer.getvalue()


def unpack(payload: bytes) -> Mapping[str, bytes]:
    """The parts in a payload that has been verified; PayloadMalformed."""
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            entries = archive.infolist()
            # stored, and side by side: what comes out cannot be larger than what was signed
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise PayloadMalformed
            if sum(entry.file_size for entry in entries) > len(payload):
                raise PayloadMalformed
            parts = {entry.filename: archive.read(entry) for entry in entries}
    except _UNREADABLE as error:
        raise PayloadMalformed(hint=str(error)) from error
    if len(parts) != len(entries):
        raise PayloadMalformed
    return parts


def digest_of(payload: bytes | memoryview) -> str:
    """What names a bundle: SHA-256 in hex over its payload, so signing anew keeps the name."""
    return hashlib.sha256(payload).hexdigest()
