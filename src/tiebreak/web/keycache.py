"""Who is asking: API keys looked up once and believed for a while.

A revoked or expired key is refused after `TTL_SECONDS` at most: so long is a looked-up key
believed, so that requests cost no query.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from datetime import UTC, datetime
from hashlib import sha256

from tiebreak.access.keys import Key, Token, authenticate, find_key, read_token
from tiebreak.access.roles import Actor
from tiebreak.store.database import Database
from tiebreak.web.problems import Unauthenticated

TTL_SECONDS = 5.0
CAPACITY = 10_000  # keys remembered, so that invented ids cannot fill the memory


class KeyCache:
    """Stored keys, each believed for `ttl_seconds`; the hot path asks no database."""

    def __init__(self, db: Database, ttl_seconds: float = TTL_SECONDS) -> None:
        self._db = db
        self._ttl_seconds = ttl_seconds
        self._known: OrderedDict[str, tuple[float, Key | None]] = OrderedDict()
        self._seen: dict[bytes, tuple[float, Key, Actor]] = {}  # by the digest of the header
        self._asking: dict[str, asyncio.Task[Key | None]] = {}

    async def actor(self, authorization: str | None) -> Actor:
        """The actor of an `Authorization` header.

        Raises Unauthenticated, and DatabaseUnavailable when the key is not known for now.
        """
        token = _read(authorization)
        known = self._believed(token.key_id)
        return _actor(await self._asked(token.key_id) if known is None else known[1], token)

    def actor_now(self, authorization: str | None) -> Actor | None:
        """The same without waiting; None when the database has to be asked first.

        Raises Unauthenticated.
        """
        digest = sha256((authorization or "").encode()).digest()
        if (seen := self._seen.get(digest)) is not None:
            until, key, actor = seen
            if time.monotonic() < until and key.is_live(datetime.now(UTC)):
                return actor
        token = _read(authorization)
        known = self._believed(token.key_id)
        return None if known is None else self._see(digest, known, token)

    def _see(self, digest: bytes, known: tuple[float, Key | None], token: Token) -> Actor:
        until, key = known
        actor = _actor(key, token)
        if len(self._seen) >= CAPACITY:
            self._seen.clear()
        if key is not None:
            self._seen[digest] = until, key, actor
        return actor

    def _believed(self, key_id: str) -> tuple[float, Key | None] | None:
        known = self._known.get(key_id)
        return known if known is not None and time.monotonic() < known[0] else None

    async def _asked(self, key_id: str) -> Key | None:
        task = self._asking.get(key_id)
        if task is None:  # one query, however many requests wait for it
            task = self._asking[key_id] = asyncio.create_task(self._ask(key_id))
            task.add_done_callback(lambda _: self._asking.pop(key_id, None))
        return await asyncio.shield(task)

    async def _ask(self, key_id: str) -> Key | None:
        until = time.monotonic() + self._ttl_seconds
        key = await find_key(self._db, key_id)
        self._known[key_id] = (until, key)
        self._known.move_to_end(key_id)
        if len(self._known) > CAPACITY:
            self._known.popitem(last=False)
        return key


def _read(authorization: str | None) -> Token:
    if not authorization:
        raise Unauthenticated(hint="Send `Authorization: Bearer tbk_…`.")
    scheme, _, text = authorization.partition(" ")
    token = read_token(text.strip()) if scheme.lower() == "bearer" else None
    if token is None:
        raise Unauthenticated(hint="Send `Authorization: Bearer tbk_<key id>_<secret>`.")
    return token


def _actor(key: Key | None, token: Token) -> Actor:
    actor = authenticate(key, token, datetime.now(UTC))
    if actor is None:
        raise Unauthenticated(
            "The API key is unknown, revoked or expired.",
            hint="`tiebreak keys list` shows keys; `tiebreak keys create` makes one.",
        )
    return actor
