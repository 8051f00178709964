"""Bundles whose key is in AWS KMS, against a local one."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.kms import REGION, local_kms, new_key

from tiebreak.bundles.format import digest_of, make_bundle, open_bundle, pack
from tiebreak.bundles.keys import BundleKeysUnfit
from tiebreak.bundles.kms import KmsMacKey, KmsSignKey, KmsUnavailable
from tiebreak.bundles.signing import BundleAltered, BundleKeys, sign, sign_anew
from tiebreak.settings import KmsKey

PARTS = {"manifest.json": b"{}", "model.onnx": bytes(20_000)}
DIGEST = digest_of(pack(PARTS))
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def kms() -> Generator[str]:
    with local_kms() as endpoint:
        yield endpoint


def changed(given: KmsKey, **changes: Any) -> KmsKey:
    return given.model_copy(update=changes)


def test_a_mac_is_made_and_verified_in_kms(kms: str) -> None:
    keys = BundleKeys({"kms": KmsMacKey(new_key(kms, "mac"))}, "kms")
    bundle = make_bundle(PARTS, keys)
    assert open_bundle(bundle, keys, expect_digest=DIGEST) == PARTS
    other = BundleKeys({"kms": KmsMacKey(new_key(kms, "mac"))}, "kms")
    with pytest.raises(BundleAltered):
        open_bundle(bundle, other, expect_digest=DIGEST)


def test_a_signature_of_kms_is_verified_here(kms: str) -> None:
    key = new_key(kms, "sign")
    bundle = make_bundle(PARTS, BundleKeys({"kms": KmsSignKey(key)}, "kms"))
    assert (
        open_bundle(bundle, BundleKeys({"kms": KmsSignKey(key)}, None), expect_digest=DIGEST)
        == PARTS
    )
    public = KmsSignKey(key)._public_key()  # pyright: ignore[reportPrivateUsage]
    given = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex()
    offline = changed(key, public_key=given, endpoint=NOWHERE, verify_only=True)
    server = BundleKeys({"kms": KmsSignKey(offline)}, None)
    assert open_bundle(bundle, server, expect_digest=DIGEST) == PARTS
    with pytest.raises(BundleKeysUnfit, match="only verify"):
        BundleKeys({"kms": KmsSignKey(offline)}, "kms")


def test_a_bundle_moves_from_a_secret_into_kms(kms: str) -> None:
    old = bytes(range(32))
    both = BundleKeys({"k1": old, "kms": KmsSignKey(new_key(kms, "sign"))}, "kms")
    renewed = sign_anew(sign(pack(PARTS), BundleKeys({"k1": old}, "k1")), both)
    assert open_bundle(renewed, both, expect_digest=DIGEST) == PARTS


def test_a_kms_that_is_away_or_refuses_says_so(kms: str) -> None:
    key = new_key(kms, "mac")
    bundle = make_bundle(PARTS, BundleKeys({"kms": KmsMacKey(key)}, "kms"))
    for wrong in (changed(key, endpoint=NOWHERE), changed(key, key="nothing")):
        with pytest.raises(KmsUnavailable, match="permissions"):
            open_bundle(bundle, BundleKeys({"kms": KmsMacKey(wrong)}, None), expect_digest=DIGEST)


@pytest.mark.parametrize("public_key", ["nonsense", "00" * 40])
def test_a_public_key_that_is_none_is_refused(public_key: str) -> None:
    key = KmsKey(key="x", usage="sign", region=REGION, public_key=public_key)
    with pytest.raises(BundleKeysUnfit, match="DER"):
        KmsSignKey(key).verify(b"message", bytes(64))
