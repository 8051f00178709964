"""API keys: create, list, revoke, authenticate.

A key reads `tbk_<key id>_<secret>`. The secret is 256 random bits, so an unsalted SHA-256 of it
is as hard to reverse as the secret is to guess; only that hash is stored.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import RowMapping, Select, select

from tiebreak.access.persons import ensure_person
from tiebreak.access.roles import Actor, Role, roles_of
from tiebreak.audit.journal import entry
from tiebreak.audit.lanes import Lane
from tiebreak.errors import InvalidInput, NotFound
from tiebreak.store.database import Database
from tiebreak.store.tables import api_key_revocations, api_keys, system_audit

_TOKEN = re.compile(r"tbk_([0-9a-f]{12})_([0-9a-f]{64})")


class InvalidKeyRequest(InvalidInput):
    """A key needs at least one role and an expiry in the future."""

    code = "key_request_invalid"


class KeyNotFound(NotFound):
    """There is no key with this id."""

    code = "key_not_found"


@dataclass(frozen=True, slots=True)
class Key:
    """A stored key; never its secret."""

    key_id: str
    person: str
    roles: frozenset[Role]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    secret_hash: bytes = field(repr=False)

    def is_live(self, at: datetime) -> bool:
        """Whether the key is neither revoked nor expired at this moment."""
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)


@dataclass(frozen=True, slots=True)
class Token:
    """A key as its bearer sends it."""

    key_id: str
    secret: str = field(repr=False)

    def __str__(self) -> str:
        """The text that stands after `Bearer `."""
        return f"tbk_{self.key_id}_{self.secret}"


def read_token(text: str) -> Token | None:
    """The token in this text; None when it does not have the form of one."""
    match = _TOKEN.fullmatch(text)
    return Token(match[1], match[2]) if match else None


async def create_key(
    lane: Lane, *, person: str, roles: frozenset[Role], actor: str, expires_at: datetime | None
) -> Token:
    """Store a new key of the person, added if need be; its token is shown this once.

    Raises InvalidKeyRequest and InvalidPerson.
    """
    now = datetime.now(UTC)
    if not roles or (expires_at is not None and expires_at <= now):
        raise InvalidKeyRequest
    token = Token(secrets.token_hex(6), secrets.token_hex(32))
    names = sorted(roles)
    async with lane.unit() as unit:
        await ensure_person(unit, person, actor=actor)
        await unit.conn.execute(
            "INSERT INTO api_keys"
            " (key_id, person, roles, secret_hash, created_at, created_by, expires_at)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7)",
            token.key_id,
            person,
            names,
            _hash(token.secret),
            now,
            actor,
            expires_at,
        )
        detail = {
            "person": person,
            "roles": [str(name) for name in names],
            "secret_hash": _hash(token.secret).hex(),  # so that none can be put in its place
            "expires_at": expires_at.isoformat() if expires_at else None,
        }
        unit.add(system_audit, [entry(actor, "key.created", token.key_id, detail)])
    return token


async def list_keys(db: Database) -> list[Key]:
    """All keys, oldest first."""
    async with db.read() as connection:
        query = _keys().order_by(api_keys.c.created_at, api_keys.c.key_id)
        return [_key(row) for row in (await connection.execute(query)).mappings()]


async def roles_now(db: Database, person: str, at: datetime) -> frozenset[Role]:
    """The roles of all keys of the person that are live at this moment."""
    async with db.read() as connection:
        rows = await connection.execute(_keys().where(api_keys.c.person == person))
        keys = [_key(row) for row in rows.mappings()]
    return frozenset[Role]().union(*(key.roles for key in keys if key.is_live(at)))


async def find_key(db: Database, key_id: str) -> Key | None:
    """The key with this id; None when there is none."""
    async with db.read() as connection:
        rows = await connection.execute(_keys().where(api_keys.c.key_id == key_id))
        row = rows.mappings().one_or_none()
        return None if row is None else _key(row)


async def revoke_key(lane: Lane, db: Database, key_id: str, *, actor: str, reason: str) -> bool:
    """Revoke the key for ever; False when it was revoked before. Raises KeyNotFound."""
    key = await find_key(db, key_id)
    if key is None:
        raise KeyNotFound(hint="`tiebreak keys list` shows all keys.")
    async with lane.unit() as unit:
        revoked = await unit.conn.fetchval(
            "INSERT INTO api_key_revocations (key_id, revoked_at, revoked_by, reason)"
            " VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING key_id",
            key_id,
            datetime.now(UTC),
            actor,
            reason,
        )
        if revoked is None:
            return False
        detail = {"person": key.person, "reason": reason}
        unit.add(system_audit, [entry(actor, "key.revoked", key_id, detail)])
    return True


def authenticate(key: Key | None, token: Token, at: datetime) -> Actor | None:
    """The actor that this token speaks for; None when the key is unknown, wrong or not live.

    An unknown key costs the same comparison as a wrong secret.
    """
    expected = key.secret_hash if key else bytes(32)
    is_equal = hmac.compare_digest(_hash(token.secret), expected)
    if key is None or not is_equal or not key.is_live(at):
        return None
    return Actor(key.person, key.key_id, key.roles)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _keys() -> Select[Any, Any, Any, Any, Any, Any, Any, Any]:
    return select(
        api_keys.c.key_id,
        api_keys.c.person,
        api_keys.c.roles,
        api_keys.c.secret_hash,
        api_keys.c.created_at,
        api_keys.c.created_by,
        api_keys.c.expires_at,
        api_key_revocations.c.revoked_at,
    ).outerjoin_from(api_keys, api_key_revocations)


def _key(row: RowMapping) -> Key:
    return Key(
        key_id=row["key_id"],
        person=row["person"],
        roles=roles_of(row["roles"]),
        created_at=row["created_at"],
        created_by=row["created_by"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        secret_hash=row["secret_hash"],
    )
