"""Keys against a real database: what is stored, who gets in, and what the journal says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from tiebreak.access.keys import (
    InvalidKeyRequest,
    KeyNotFound,
    Token,
    authenticate,
    create_key,
    find_key,
    list_keys,
    read_token,
    revoke_key,
)
from tiebreak.access.persons import InvalidPerson, ensure_person
from tiebreak.access.roles import Role
from tiebreak.audit.lanes import Lane
from tiebreak.settings import Keyring
from tiebreak.store.database import Database
from tiebreak.store.tables import api_keys, persons, system_audit

NOW = datetime.now(UTC)


@pytest.fixture
async def lane(db: Database, keyring: Keyring) -> Lane:
    return await Lane.open(db, "tests", keyring)


async def make(lane: Lane, *roles: Role, expires_at: datetime | None = None) -> Token:
    return await create_key(
        lane,
        person="ann",
        roles=frozenset(roles or {Role.SERVICE}),
        actor="cli:root",
        expires_at=expires_at,
    )


async def actions(db: Database) -> list[tuple[str, str, str]]:
    query = select(system_audit.c.action, system_audit.c.subject, system_audit.c.actor)
    async with db.read() as connection:
        rows = await connection.execute(query.order_by(system_audit.c.at))
        return [(row.action, row.subject, row.actor) for row in rows]


async def test_a_new_key_lets_its_person_in_with_its_roles(db: Database, lane: Lane) -> None:
    token = await make(lane, Role.LEAD, Role.AUDITOR)
    actor = authenticate(await find_key(db, token.key_id), token, NOW)
    assert actor is not None
    assert (actor.person, actor.roles) == ("ann", {Role.LEAD, Role.AUDITOR})
    assert str(actor) == f"ann/{token.key_id}"


async def test_the_secret_is_nowhere_in_the_database(db: Database, lane: Lane) -> None:
    token = await make(lane)
    async with db.read() as connection:
        for table in (api_keys, persons, system_audit):
            rows = (await connection.execute(select(table))).all()
            assert rows
            assert token.secret not in repr(rows)
            assert bytes.fromhex(token.secret) not in [v for row in rows for v in row]
    assert token.secret not in repr(token)


async def test_a_wrong_secret_an_unknown_key_and_an_expired_one_are_refused(
    db: Database, lane: Lane
) -> None:
    token = await make(lane, expires_at=NOW + timedelta(hours=1))
    key = await find_key(db, token.key_id)
    assert authenticate(key, token, NOW) is not None
    assert authenticate(key, Token(token.key_id, "0" * 64), NOW) is None
    assert authenticate(key, token, NOW + timedelta(hours=1)) is None
    assert authenticate(await find_key(db, "0" * 12), token, NOW) is None


async def test_a_revoked_key_is_refused_and_revoking_twice_is_no_error(
    db: Database, lane: Lane
) -> None:
    token = await make(lane)
    assert await revoke_key(lane, db, token.key_id, actor="ann", reason="lost") is True
    assert await revoke_key(lane, db, token.key_id, actor="bob", reason="again") is False
    assert authenticate(await find_key(db, token.key_id), token, NOW) is None
    assert [key.revoked_at is not None for key in await list_keys(db)] == [True]


async def test_revoking_what_is_not_there_says_so(db: Database, lane: Lane) -> None:
    with pytest.raises(KeyNotFound):
        await revoke_key(lane, db, "0" * 12, actor="ann", reason="lost")


async def test_every_change_is_in_the_journal_once(db: Database, lane: Lane) -> None:
    first = await make(lane)
    second = await make(lane)
    await revoke_key(lane, db, first.key_id, actor="bob", reason="lost")
    await revoke_key(lane, db, first.key_id, actor="bob", reason="lost")
    assert await actions(db) == [
        ("person.created", "ann", "cli:root"),
        ("key.created", first.key_id, "cli:root"),
        ("key.created", second.key_id, "cli:root"),
        ("key.revoked", first.key_id, "bob"),
    ]


async def test_keys_are_listed_oldest_first(db: Database, lane: Lane) -> None:
    made = [await make(lane) for _ in range(3)]
    assert [key.key_id for key in await list_keys(db)] == [token.key_id for token in made]


@pytest.mark.parametrize("name", ["", "Ann", "a b", "ann/1", "é", "a" * 64, "ann\n"])
async def test_names_that_are_no_handles_are_refused(lane: Lane, name: str) -> None:
    with pytest.raises(InvalidPerson):
        async with lane.unit() as unit:
            await ensure_person(unit, name, actor="x")


async def test_a_key_needs_a_role_and_a_future(lane: Lane) -> None:
    for roles, expires_at in ((frozenset[Role](), None), (frozenset({Role.ADMIN}), NOW)):
        with pytest.raises(InvalidKeyRequest):
            await create_key(lane, person="ann", roles=roles, actor="x", expires_at=expires_at)


async def test_a_token_reads_back_from_its_text(lane: Lane) -> None:
    token = await make(lane)
    assert read_token(str(token)) == token


@pytest.mark.parametrize(
    "text", ["", "tbk_", "tbk_0_0", f"tbk_{'0' * 12}_{'0' * 63}", f"TBK_{'0' * 12}_{'0' * 64}"]
)
def test_other_texts_are_no_tokens(text: str) -> None:
    assert read_token(text) is None
