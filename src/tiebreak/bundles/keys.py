"""Keys of bundles: what each algorithm needs to sign and to verify, behind one interface.

Each takes a short message, never the bundle itself (see `bundles.signing`). Keys hold plain
bytes, so that they can be handed to another process.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tiebreak.errors import InvalidInput, NotAllowed

MINIMUM_KEY_BYTES = 32
ED25519_BYTES = 32


class Algorithm(IntEnum):
    """How a bundle is signed, as its header says it."""

    HMAC_SHA256 = 1
    ED25519 = 2
    KMS_MAC = 3  # HMAC-SHA256 by a key that never leaves AWS KMS
    KMS_SIGN = 4  # ECDSA on P-256 with SHA-256 by a key that never leaves AWS KMS


class BundleKeysUnfit(InvalidInput):
    """The keys for signing bundles are not usable."""

    code = "bundle_keys_unfit"


class CannotSign(NotAllowed):
    """This installation verifies model bundles, and cannot sign them."""

    code = "cannot_sign"

    def __init__(self) -> None:
        super().__init__(
            hint="Train and sign where the signing key is, then `tiebreak model import` the "
            "bundle here; `tiebreak config check` shows what this installation can do."
        )


class BundleKey(Protocol):
    """One key of one algorithm."""

    @property
    def algorithm(self) -> Algorithm:
        """What the key is for."""
        ...

    @property
    def can_sign(self) -> bool:
        """Whether it signs, or only verifies."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The signature of a message; raises CannotSign."""
        ...

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether this key signed the message."""
        ...


@dataclass(frozen=True, repr=False)
class HmacKey:
    """A secret that signs and verifies."""

    secret: bytes
    algorithm = Algorithm.HMAC_SHA256
    can_sign = True

    def __post_init__(self) -> None:
        if len(self.secret) < MINIMUM_KEY_BYTES:
            raise BundleKeysUnfit(hint=f"A secret key needs {MINIMUM_KEY_BYTES} bytes.")

    def sign(self, message: bytes) -> bytes:
        """HMAC-SHA256, 32 bytes."""
        return hmac.digest(self.secret, message, hashlib.sha256)

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether this is the message's MAC, in constant time."""
        return hmac.compare_digest(self.sign(message), signature)


@dataclass(frozen=True, repr=False)
class Ed25519Key:
    """A public key that verifies and, where it is known, the private key that signs.

    Raises BundleKeysUnfit for other lengths, and for a private key of another public one.
    """

    public: bytes
    private: bytes | None = None
    algorithm = Algorithm.ED25519

    def __post_init__(self) -> None:
        if any(len(key) != ED25519_BYTES for key in (self.public, self.private or self.public)):
            raise BundleKeysUnfit(hint=f"An Ed25519 key has {ED25519_BYTES} bytes.")
        if self.private is not None and public_of(self.private) != self.public:
            raise BundleKeysUnfit(hint="The private key is not that of the public key.")

    @property
    def can_sign(self) -> bool:
        """Whether the private key is known."""
        return self.private is not None

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature, 64 bytes."""
        if self.private is None:
            raise CannotSign
        return Ed25519PrivateKey.from_private_bytes(self.private).sign(message)

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether the private key signed the message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


def new_private_key() -> bytes:
    """A new Ed25519 private key."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def public_of(private: bytes) -> bytes:
    """The public key of an Ed25519 private key."""
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
