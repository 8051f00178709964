"""Signed bundles: what opens, what does not, and that nothing unverified is ever parsed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable

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
from tiebreak.bundles.keys import (
    BundleKey,
    CannotSign,
    Ed25519Key,
    HmacKey,
    new_private_key,
    public_of,
)
from tiebreak.bundles.signing import (
    MAGIC,
    BundleAltered,
    BundleFormatUnknown,
    BundleKeyRevoked,
    BundleKeys,
    BundleKeysUnfit,
    BundleKeyUnknown,
    BundleRejected,
    BundleTruncated,
    BundleUnsigned,
    payload_of,
    sign,
    sign_anew,
    signed_by,
    verify,
)

HEADER_BYTES = 68  # of format version 1
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


PRIVATE = bytes(range(50, 82))
PUBLIC = public_of(PRIVATE)
PAIR = BundleKeys({"ed-2026": Ed25519Key(PUBLIC, PRIVATE)}, signing="ed-2026")
SERVER = BundleKeys({"ed-2026": Ed25519Key(PUBLIC)}, signing=None)


def test_a_server_with_the_public_key_opens_and_cannot_sign() -> None:
    bundle = make_bundle(PARTS, PAIR)
    assert open_bundle(bundle, SERVER, expect_digest=DIGEST) == PARTS
    with pytest.raises(CannotSign):
        make_bundle(PARTS, SERVER)
    with pytest.raises(CannotSign):
        Ed25519Key(PUBLIC).sign(b"message")
    with pytest.raises(BundleKeysUnfit):
        BundleKeys({"ed-2026": Ed25519Key(PUBLIC)}, signing="ed-2026")


def test_the_header_of_version_2_is_as_documented() -> None:
    bundle = make_bundle(PARTS, PAIR)
    assert bundle.startswith(MAGIC + b"\0\2\0\2" + b"ed-2026".ljust(16, b"\0"))
    assert int.from_bytes(bundle[28:36], "big") == len(bundle) - 100
    assert payload_of(bundle).obj is bundle  # no copy: it may be large
    assert payload_of(bundle) == bundle[100:] == payload_of(BUNDLE) == BUNDLE[68:]
    assert signed_by(bundle) == ("ed-2026", "ed25519")


@pytest.mark.usefixtures("no_parser")
def test_what_a_revoked_key_signed_does_not_load() -> None:
    for keys in (
        BundleKeys(BOTH.active, "key-2026", frozenset({"key-2025"})),
        BundleKeys(NEW_ONLY.active, "key-2026", frozenset({"key-2025"})),
    ):
        assert type(_rejected(BUNDLE, keys)) is BundleKeyRevoked
        with pytest.raises(BundleKeyRevoked):
            sign_anew(BUNDLE, keys)
    with pytest.raises(BundleKeysUnfit, match="revoked"):
        BundleKeys(BOTH.active, "key-2025", frozenset({"key-2025"}))


def test_keys_rotate_from_one_algorithm_to_another() -> None:
    both = BundleKeys({"key-2025": OLD, "ed-2026": Ed25519Key(PUBLIC, PRIVATE)}, "ed-2026")
    renewed = sign_anew(BUNDLE, both)
    assert signed_by(BUNDLE) == ("key-2025", "hmac-sha256")
    assert open_bundle(renewed, SERVER, expect_digest=DIGEST) == PARTS


def test_a_public_key_is_no_secret_of_another_algorithm() -> None:
    forged = sign(pack(PARTS), BundleKeys({"ed-2026": HmacKey(PUBLIC)}, "ed-2026"))
    assert type(_rejected(forged, SERVER)) is BundleKeyUnknown


@pytest.mark.parametrize(
    "make",
    [
        lambda: Ed25519Key(PUBLIC[:-1]),
        lambda: Ed25519Key(PUBLIC, PRIVATE + b"x"),
        lambda: Ed25519Key(PUBLIC, new_private_key()),
        lambda: HmacKey(bytes(31)),
    ],
)
def test_keys_of_other_lengths_or_pairs_are_refused(make: Callable[[], BundleKey]) -> None:
    with pytest.raises(BundleKeysUnfit):
        make()


def test_no_key_shows_its_secret() -> None:
    for key in (Ed25519Key(PUBLIC, PRIVATE), HmacKey(OLD)):
        assert repr(OLD) not in repr(key)
        assert repr(PRIVATE) not in repr(key)
