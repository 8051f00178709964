"""Keyed hashes that stand in the database for what must not stand there in clear."""

from __future__ import annotations

import hmac


def entity_key(key: bytes, workflow: str, entity: str, text: str) -> bytes:
    """The 16 bytes under which the history log knows an entity."""
    return hmac.digest(key, f"{workflow}|{entity}|{text}".encode(), "sha256")[:16]


def content_key(key: bytes, content_hash: bytes) -> bytes:
    """The 32 bytes by which equal content is known; without the key no content can be guessed.

    They outlive an erasure, so the plain hash of the content is never stored.
    """
    return hmac.digest(key, b"content|" + content_hash, "sha256")


def ticket_hash(key: bytes, workflow: str, ticket_id: str) -> int:
    """A number uniform over [0, 2^63) that is the ticket's for ever; it chooses samples."""
    digest = hmac.digest(key, f"{workflow}|{ticket_id}".encode(), "sha256")
    return int.from_bytes(digest[:8], "big") >> 1
