"""Thousands of altered bundles: each is refused, and none is parsed before it was verified."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
from tests.kms import local_kms, new_key

from tiebreak.bundles import format as bundle_format
from tiebreak.bundles.format import digest_of, make_bundle, open_bundle, pack
from tiebreak.bundles.keys import BundleKey, Ed25519Key, HmacKey, public_of
from tiebreak.bundles.kms import KmsMacKey, KmsSignKey
from tiebreak.bundles.signing import BundleKeys, BundleRejected, sign

SEED = 20_260_301
MUTANTS, SIGNED_MUTANTS = 6_000, 2_000
PARTS = {
    "manifest.json": b'{"name": "sample", "features": ["a", "b"]}',
    "model.onnx": random.Random(3).randbytes(3_000),
    "trees.npz": random.Random(4).randbytes(800),
    "empty": b"",
}
EARLIER = {**PARTS, "model.onnx": random.Random(5).randbytes(3_000)}
PAYLOAD = pack(PARTS)
DIGEST = digest_of(PAYLOAD)


@dataclass(frozen=True)
class Signed:
    """Bundles of one algorithm: two truly signed, the active keys, a retired one, a stranger's."""

    active: BundleKey
    next: BundleKey
    retired: BundleKey
    strangers: BundleKey
    signature_bytes: int

    @cached_property
    def keys(self) -> BundleKeys:
        return BundleKeys({"key-2026": self.active, "key-2027": self.next}, signing="key-2026")

    @cached_property
    def old_keys(self) -> BundleKeys:
        return BundleKeys({"key-2025": self.retired}, signing="key-2025")

    @cached_property
    def bundle(self) -> bytes:
        return make_bundle(PARTS, self.keys)

    @cached_property
    def other(self) -> bytes:
        """As long as the bundle, and truly signed."""
        return make_bundle(EARLIER, self.keys)

    @property
    def header_bytes(self) -> int:
        return 36 + self.signature_bytes


Mutation = Callable[[Signed, random.Random], bytes]


def flipped_bits(it: Signed, chance: random.Random) -> bytes:
    data = bytearray(it.bundle)
    within = chance.choice((it.header_bytes, len(data)))
    places = chance.sample(range(within * 8), chance.choice((1, 1, 1, 2, 8, 64)))
    for place in places:
        data[place // 8] ^= 1 << place % 8
    return bytes(data)


def truncated(it: Signed, chance: random.Random) -> bytes:
    if chance.random() < 0.5:
        return it.bundle[: chance.randrange(len(it.bundle))]
    return fitted(it, it.bundle, PAYLOAD[: chance.randrange(len(PAYLOAD))])


def extended(it: Signed, chance: random.Random) -> bytes:
    tail = chance.choice((bytes(chance.randint(1, 99)), it.bundle, it.other, PAYLOAD))
    return it.bundle + tail if chance.random() < 0.5 else fitted(it, it.bundle, PAYLOAD + tail)


def spliced(it: Signed, chance: random.Random) -> bytes:
    """A stretch of another signed bundle in place, a stretch moved, dropped or doubled."""
    start = chance.randrange(len(it.bundle) - 1)
    end = chance.randint(start + 1, len(it.bundle))
    way = chance.randrange(4)
    if way == 0:
        return it.bundle[:start] + it.other[start:end] + it.bundle[end:]
    if way == 1:
        return it.bundle[end:] + it.bundle[start:end] + it.bundle[:start]
    if way == 2:
        return it.bundle[:start] + it.bundle[end:]
    return it.bundle[:end] + it.bundle[start:]


def wrong_key(it: Signed, chance: random.Random) -> bytes:
    """Signed with a key that nobody knows, under the name of an active one."""
    name = chance.choice(("key-2026", "key-2027"))
    return sign(tampered(it, chance), BundleKeys({name: it.strangers}, signing=name))


def old_key(it: Signed, chance: random.Random) -> bytes:
    """Truly signed with a key that is no longer active, under its own or an active name."""
    data = sign(chance.choice((PAYLOAD, tampered(it, chance))), it.old_keys)
    name = chance.choice((b"key-2025", b"key-2026", b"key-2027"))
    return data[:12] + name.ljust(16, b"\0") + data[28:]


def swapped_header(it: Signed, chance: random.Random) -> bytes:
    """Whole header fields of other signed bundles, or other values that look right."""
    donors = (it.other, sign(PAYLOAD, it.old_keys), sign(EARLIER["model.onnx"], it.keys))
    donor = chance.choice(donors)
    if chance.random() < 0.3:
        return donor[: it.header_bytes] + PAYLOAD
    start, end = chance.choice(
        ((0, 8), (8, 10), (10, 12), (12, 28), (28, 36), (36, it.header_bytes))
    )
    return (
        it.bundle[:start]
        + chance.choice((donor[start:end], chance.randbytes(end - start)))
        + (it.bundle[end:])
    )


def zip_trick(it: Signed, chance: random.Random) -> bytes:
    """An archive that an attacker would like to see opened, behind a header that was signed."""
    return fitted(it, chance.choice((it.bundle, it.other)), chance.choice(TRICKS)(chance))


def not_the_one_named(it: Signed, chance: random.Random) -> bytes:
    """Truly signed, but not what the release record names; also an archive full of tricks."""
    return sign(chance.choice((pack(EARLIER), tampered(it, chance), zip_tricks(chance))), it.keys)


def unsigned(it: Signed, chance: random.Random) -> bytes:
    return chance.choice((PAYLOAD, zip_tricks(chance), chance.randbytes(chance.randrange(5_000))))


def tampered(it: Signed, chance: random.Random) -> bytes:
    data = bytearray(PAYLOAD)
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def fitted(it: Signed, header_of: bytes, payload: bytes) -> bytes:
    """A payload behind a signed header whose length was made to fit."""
    return (
        header_of[:28] + struct.pack(">Q", len(payload)) + header_of[36 : it.header_bytes] + payload
    )


def confused(it: Signed, chance: random.Random) -> bytes:
    """Signed by another algorithm with what everybody knows, under the name of an active key."""
    known = it.active.public if isinstance(it.active, Ed25519Key) else DIGEST.encode()
    attempts: tuple[BundleKey, ...] = (HmacKey(known), ed25519(chance.randbytes(32)))
    key = attempts[isinstance(it.active, HmacKey)]
    return sign(PAYLOAD, BundleKeys({"key-2026": key}, signing="key-2026"))


def filled(it: Signed, chance: random.Random) -> bytes:
    """Bits of the end of the signature field, where the shorter signatures have only zeros."""
    data = bytearray(it.bundle)
    data[it.header_bytes - 1 - chance.randrange(32)] ^= 1 << chance.randrange(8)
    return bytes(data)


def archived(*entries: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as archive:
        warnings.simplefilter("ignore")  # names that stand there twice are the point
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def bomb(chance: random.Random) -> bytes:
    return archived(("model.onnx", bytes(200_000)), method=zipfile.ZIP_DEFLATED)


def climbing(chance: random.Random) -> bytes:
    name = chance.choice(("../../etc/cron.d/x", "/etc/passwd", "C:\\x", "a/../../b", "\0x"))
    return archived((name, b"x"), *PARTS.items())


def doubled(chance: random.Random) -> bytes:
    return archived(*PARTS.items(), ("manifest.json", chance.randbytes(9)))


def two_archives(chance: random.Random) -> bytes:
    """Which of the two is read depends on who reads: one from the front, one from the end."""
    return chance.choice((PAYLOAD + pack(EARLIER), pack(EARLIER) + PAYLOAD))


def encrypted(chance: random.Random) -> bytes:
    """Entries marked as encrypted, one without a name, which makes readers ask for a password."""
    data = bytearray(archived((chance.choice(("a", "\0x")), b"x")))
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.find(magic) + flags] |= 1
    return bytes(data)


def swollen(chance: random.Random) -> bytes:
    """A directory that promises more bytes than there are."""
    data = bytearray(PAYLOAD)
    place = data.find(b"PK\x01\x02")
    data[place + 20 : place + 28] = struct.pack("<II", *[chance.randrange(1 << 20, 1 << 31)] * 2)
    return bytes(data)


def overlapping(chance: random.Random) -> bytes:
    """Many names for one entry: what comes out is larger than what went in."""
    data = archived(("a", bytes(2_000)))
    place, end = data.find(b"PK\x01\x02"), data.find(b"PK\x05\x06")
    entry, count = data[place:end], chance.randrange(2, 200)
    entries = b"".join(
        entry[:46] + bytes([33 + n % 90]) + entry[47:] if n < 90 else entry for n in range(count)
    )
    closing = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(entries), place, 0)
    return data[:place] + entries + closing


TRICKS = (bomb, climbing, doubled, two_archives, encrypted, swollen, overlapping)
MUTATIONS: tuple[Mutation, ...] = (
    flipped_bits,
    truncated,
    extended,
    spliced,
    wrong_key,
    old_key,
    swapped_header,
    zip_trick,
    not_the_one_named,
    unsigned,
    confused,
    filled,
)


def zip_tricks(chance: random.Random) -> bytes:
    return chance.choice(TRICKS)(chance)


def ed25519(private: bytes) -> Ed25519Key:
    return Ed25519Key(public_of(private), private)


@pytest.fixture(scope="module")
def kms() -> Generator[str]:
    with local_kms() as endpoint:
        yield endpoint


KMS = ("kms-mac", "kms-sign")  # each signature is a request


@pytest.fixture(
    scope="module",
    params=["hmac", "ed25519", *(pytest.param(n, marks=pytest.mark.full) for n in KMS)],
)
def it(request: pytest.FixtureRequest) -> Signed:
    """Bundles of each algorithm, and so of both format versions."""
    if request.param == "hmac":
        return Signed(*(HmacKey(random.Random(n).randbytes(32)) for n in range(4)), 32)
    if request.param == "ed25519":
        return Signed(*(ed25519(random.Random(n).randbytes(32)) for n in range(4)), 64)
    endpoint: str = request.getfixturevalue("kms")
    usage = request.param.removeprefix("kms-")
    made = [new_key(endpoint, usage) for _ in range(4)]
    return Signed(*((KmsMacKey if usage == "mac" else KmsSignKey)(key) for key in made), 64)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts who enters the parser; it does its work as ever."""
    counts: Counter[str] = Counter()
    unpack, archive = bundle_format.unpack, zipfile.ZipFile

    def counted(payload: bytes) -> Any:
        counts["unpack"] += 1
        return unpack(payload)

    class Counted(archive):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            counts["archive"] += 1
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(bundle_format, "unpack", counted)
    monkeypatch.setattr(zipfile, "ZipFile", Counted)
    return counts


def mutants(it: Signed, count: int) -> Iterator[tuple[str, bytes]]:
    """Bundles that are none, by kind; those that chance left as they were are passed over."""
    chance = random.Random(SEED)
    made = 0
    while made < count:
        mutation = MUTATIONS[made % len(MUTATIONS)]
        data = mutation(it, chance)
        if data != it.bundle:
            made += 1
            yield mutation.__name__, data


def refused(it: Signed, data: bytes) -> str:
    """The code of the refusal."""
    with pytest.raises(BundleRejected) as caught:
        open_bundle(data, it.keys, expect_digest=DIGEST)
    return caught.value.code


def test_no_mutant_is_parsed(it: Signed, parsed: Counter[str]) -> None:
    bundles = list(mutants(it, MUTANTS))
    parsed.clear()  # making some of them took an archive too
    codes: dict[str, Counter[str]] = {}
    for kind, data in bundles:
        codes.setdefault(kind, Counter())[refused(it, data)] += 1
    assert not parsed
    assert sum(each.total() for each in codes.values()) == MUTANTS
    assert codes.keys() == {mutation.__name__ for mutation in MUTATIONS}
    assert codes["wrong_key"].keys() == {"bundle_altered"}
    assert codes["old_key"].keys() == {"bundle_key_unknown", "bundle_altered"}
    assert codes["confused"].keys() == {"bundle_key_unknown"}
    assert codes["filled"].keys() == {"bundle_altered"}
    assert codes["zip_trick"].keys() == {"bundle_altered"}
    assert codes["not_the_one_named"].keys() == {"bundle_not_expected"}


def test_the_spy_sees_a_bundle_that_opens(it: Signed, parsed: Counter[str]) -> None:
    assert open_bundle(it.bundle, it.keys, expect_digest=DIGEST) == PARTS
    assert parsed == {"unpack": 1, "archive": 1}


@pytest.mark.parametrize("trick", [bomb, doubled, encrypted, swollen, overlapping])
def test_a_trick_that_was_signed_and_named_is_still_refused(
    it: Signed,
    trick: Callable[[random.Random], bytes],
) -> None:
    """Who holds the key can do worse, but a bundle is stored files and nothing else."""
    for seed in range(20):
        payload = trick(random.Random(seed))
        with pytest.raises(BundleRejected):
            open_bundle(sign(payload, it.keys), it.keys, expect_digest=digest_of(payload))


@pytest.mark.parametrize("it", ["hmac", "ed25519"], indirect=True)
def test_whatever_was_signed_opens_or_is_refused(it: Signed) -> None:
    """No payload makes the parser fail in a way that its callers do not expect."""
    chance = random.Random(SEED)
    opened = 0
    for _ in range(SIGNED_MUTANTS):
        payload = bytearray(PAYLOAD)
        for _ in range(chance.randint(1, 3)):
            directory = len(payload) - chance.randint(1, 300)
            payload[chance.choice((directory, chance.randrange(len(payload))))] = chance.randrange(
                256
            )
        named = digest_of(bytes(payload))
        try:
            open_bundle(sign(bytes(payload), it.keys), it.keys, expect_digest=named)
        except BundleRejected:
            continue
        opened += 1
    assert 0 < opened < SIGNED_MUTANTS
