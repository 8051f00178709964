"""Keyed hashes that stand in the database for what must not stand there in clear."""

from __future__ import annotations

import hmac
from functools import lru_cache
from uuid import UUID


def entity_key(key: bytes, workflow: str, entity: str, text: str) -> bytes:
    """The 16 bytes under which the history log knows an entity."""
    return _mac(key, f"{workflow}|{entity}|{text}".encode())[:16]


def content_key(key: bytes, content_hash: bytes) -> bytes:
    """The 32 bytes by which equal content is known; without the key no content can be guessed.

    They outlive an erasure, so the plain hash of the content is never stored.
    """
    return _mac(key, b"content|" + content_hash)


def ticket_hash(key: bytes, workflow: str, ticket_id: str) -> int:
    """A number uniform over [0, 2^63) that is the ticket's for ever; it chooses samples."""
    return _uniform(key, f"{workflow}|{ticket_id}")


def shadow_hash(key: bytes, workflow: str, ticket_id: str) -> int:
    """The same for which tickets a shadow scores, so that it is no part of the audit sample."""
    return _uniform(key, f"shadow|{workflow}|{ticket_id}")


def canary_hash(key: bytes, release_id: UUID, ticket_id: str) -> int:
    """The same for which tickets a canary decides; another for each release."""
    return _uniform(key, f"canary|{release_id}|{ticket_id}")


def share_end(share: float) -> int:
    """Hashes below this are a share, 0 to 1, of all; a larger share holds every smaller one."""
    return round(share * _HASHES)


def _uniform(key: bytes, text: str) -> int:
    return int.from_bytes(_mac(key, text.encode())[:8], "big") >> 1


def _mac(key: bytes, message: bytes) -> bytes:
    mac = _begun(key).copy()  # which takes half as long as to begin with the key anew
    mac.update(message)
    return mac.digest()


@lru_cache(maxsize=16)
def _begun(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod="sha256")


_HASHES = 2**63
