"""Persons: the people who own keys and answer for what is done with them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from tiebreak.audit.journal import entry
from tiebreak.errors import InvalidInput
from tiebreak.store.tables import system_audit
from tiebreak.store.unit import Unit

_PERSON = re.compile(r"[a-z][a-z0-9._-]{0,62}")


class InvalidPerson(InvalidInput):
    """This is not a name that a person can have here."""

    code = "person_invalid"


async def ensure_person(unit: Unit, person: str, *, actor: str) -> bool:
    """Add the person unless they are there; True when added. Raises InvalidPerson."""
    if not _PERSON.fullmatch(person):
        raise InvalidPerson(
            hint="Use a short handle: a lower-case letter, then letters, digits, '.', '_' or '-'."
        )
    added = await unit.conn.fetchval(
        "INSERT INTO persons (person, created_at, created_by) VALUES ($1, $2, $3)"
        " ON CONFLICT DO NOTHING RETURNING person",
        person,
        datetime.now(UTC),
        actor,
    )
    if added is None:
        return False
    unit.add(system_audit, [entry(actor, "person.created", person, {})])
    return True
