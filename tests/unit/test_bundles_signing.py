"""Signed bundles: what opens, what does not, and that nothing unverified is ever parsed."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from tiebreak.bundles.format import (
    BundleNotExpected,
    PayloadMalformed,
    digest_of,
    make_bundle,
    open_bundle,
    pack,
)
from tiebreak.bundles.signing import (
    HEADER_BYTES,
    MAGIC,
    BundleAltered,
    BundleFormatUnknown,
    BundleKeys,
    BundleKeysUnfit,
    BundleKeyUnknown,
    BundleRejected,
    BundleTruncated,
    BundleUnsigned,
    sign,
    sign_anew,
    verify,
)

OLD, NEW = bytes(range(32)), bytes(range(100, 140))
OLD_ONLY = BundleKeys({"key-2025": OLD}, signing="key-2025")
BOTH = BundleKeys({"key-2025": OLD, "key-2026": NEW}, signing="key-2026")
NEW_ONLY = BundleKeys({"key-2026": NEW}, signing="key-2026")
PARTS = {
    "manifest.json": b'{"name": "sample"}',
    "model.onnx": np.random.default_rng(0).bytes(5_000),
    "empty": b"",
}
DIGEST = digest_of(pack(PARTS))
BUNDLE = make_bundle(PARTS, OLD_ONLY)


@pytest.fixture
def no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens an archive fails the test."""

    def opened(*args: object, **kwargs: object) -> None:
        raise AssertionError("an unverified payload was parsed")

    monkeypatch.setattr(zipfile, "ZipFile", opened)


def _rejected(data: bytes, keys: BundleKeys = OLD_ONLY) -> BundleRejected:
    with pytest.raises(BundleRejected) as caught:
        open_bundle(data, keys, expect_digest=DIGEST)
    return caught.value


def _flipped(data: bytes, place: int, bit: int) -> bytes:
    altered = bytearray(data)
    altered[place] ^= 1 << bit
    return bytes(altered)


def test_opens_to_the_parts_that_were_packed() -> None:
    assert open_bundle(BUNDLE, OLD_ONLY, expect_digest=DIGEST) == PARTS


def test_the_payload_does_not_depend_on_the_order_of_the_parts() -> None:
    assert pack(dict(reversed(PARTS.items()))) == pack(PARTS)


@pytest.mark.usefixtures("no_parser")
@pytest.mark.parametrize("place", range(HEADER_BYTES))
def test_every_flipped_bit_of_the_header_is_rejected(place: int) -> None:
    for bit in range(8):
        error = _rejected(_flipped(BUNDLE, place, bit))
        expected = (
            BundleUnsigned
            if place < 8
            else BundleFormatUnknown
            if place < 12
            else BundleKeyUnknown
            if place < 28
            else BundleTruncated
            if place < 36
            else BundleAltered
        )
        assert type(error) is expected


@pytest.mark.usefixtures("no_parser")
def test_flipped_bits_of_the_payload_are_rejected() -> None:
    random = np.random.default_rng(1)
    places = HEADER_BYTES + random.choice(len(BUNDLE) - HEADER_BYTES, 300, replace=False)
    for place in [HEADER_BYTES, *places.tolist(), len(BUNDLE) - 1]:
        assert type(_rejected(_flipped(BUNDLE, place, place % 8))) is BundleAltered


@pytest.mark.usefixtures("no_parser")
def test_cut_off_bundles_are_rejected() -> None:
    lengths = [*range(HEADER_BYTES + 100), *range(200, len(BUNDLE), 37), len(BUNDLE) - 1]
    for length in lengths:
        assert type(_rejected(BUNDLE[:length])) is BundleTruncated


@pytest.mark.usefixtures("no_parser")
@pytest.mark.parametrize("tail", [b"\0", b"x", BUNDLE])
def test_appended_bytes_are_rejected(tail: bytes) -> None:
    assert type(_rejected(BUNDLE + tail)) is BundleTruncated


@pytest.mark.usefixtures("no_parser")
def test_a_payload_cut_off_with_its_length_made_to_fit_is_rejected() -> None:
    payload = BUNDLE[HEADER_BYTES:-1]
    length = len(payload).to_bytes(8, "big")
    assert type(_rejected(BUNDLE[:28] + length + BUNDLE[36:68] + payload)) is BundleAltered


@pytest.mark.usefixtures("no_parser")
def test_another_key_of_the_same_id_is_rejected() -> None:
    wrong = BundleKeys({"key-2025": NEW}, signing="key-2025")
    assert type(_rejected(BUNDLE, wrong)) is BundleAltered


@pytest.mark.usefixtures("no_parser")
def test_a_key_id_that_is_not_active_is_rejected() -> None:
    assert type(_rejected(BUNDLE, NEW_ONLY)) is BundleKeyUnknown


@pytest.mark.usefixtures("no_parser")
def test_the_id_of_another_active_key_does_not_make_a_bundle_its_own() -> None:
    renamed = BUNDLE[:12] + b"key-2026".ljust(16, b"\0") + BUNDLE[28:]
    assert type(_rejected(renamed, BOTH)) is BundleAltered


@pytest.mark.usefixtures("no_parser")
def test_a_plain_archive_is_no_bundle() -> None:
    assert type(_rejected(b"PK\x03\x04" + bytes(500))) is BundleUnsigned


@pytest.mark.usefixtures("no_parser")
def test_a_signed_bundle_other_than_the_one_named_is_rejected() -> None:
    with pytest.raises(BundleNotExpected):
        open_bundle(BUNDLE, OLD_ONLY, expect_digest="0" * 64)


def test_the_guard_would_notice_a_parser(no_parser: None) -> None:
    with pytest.raises(AssertionError, match="parsed"):
        open_bundle(BUNDLE, OLD_ONLY, expect_digest=DIGEST)


def test_rotation_keeps_old_bundles_until_their_key_is_removed() -> None:
    assert open_bundle(BUNDLE, BOTH, expect_digest=DIGEST) == PARTS
    renewed = sign_anew(BUNDLE, BOTH)
    assert renewed != BUNDLE
    assert digest_of(verify(renewed, NEW_ONLY)) == DIGEST
    assert open_bundle(renewed, NEW_ONLY, expect_digest=DIGEST) == PARTS
    assert type(_rejected(BUNDLE, NEW_ONLY)) is BundleKeyUnknown
    assert type(_rejected(renewed, OLD_ONLY)) is BundleKeyUnknown


def test_an_altered_bundle_is_not_signed_anew() -> None:
    with pytest.raises(BundleAltered):
        sign_anew(_flipped(BUNDLE, len(BUNDLE) - 1, 0), BOTH)


def test_a_signed_payload_that_is_no_archive_is_rejected() -> None:
    with pytest.raises(PayloadMalformed):
        open_bundle(sign(b"junk", OLD_ONLY), OLD_ONLY, expect_digest=digest_of(b"junk"))


@pytest.mark.parametrize(
    ("active", "signing"),
    [
        ({"short": bytes(31)}, "short"),
        ({"good": OLD, "short": bytes(31)}, "good"),
        ({}, "none"),
        ({"good": OLD}, "other"),
        ({"a": OLD, "b": NEW, "c": bytes(32)}, "a"),
        ({"": OLD}, ""),
        ({"seventeen letters": OLD}, "seventeen letters"),
        ({"schlüssel": OLD}, "schlüssel"),
        ({"line\n": OLD}, "line\n"),
    ],
)
def test_unfit_keys_are_refused(active: dict[str, bytes], signing: str) -> None:
    with pytest.raises(BundleKeysUnfit):
        BundleKeys(active, signing=signing)


def test_keys_do_not_show_in_their_representation() -> None:
    shown = repr(BOTH)
    assert "key-2025" in shown
    assert repr(OLD) not in shown
    assert OLD.hex() not in shown


def test_the_header_is_as_documented() -> None:
    assert BUNDLE.startswith(MAGIC + b"\0\1\0\1" + b"key-2025".ljust(16, b"\0"))
    assert int.from_bytes(BUNDLE[28:36], "big") == len(BUNDLE) - HEADER_BYTES
