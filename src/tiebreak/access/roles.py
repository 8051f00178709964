"""Roles: what an API key lets its bearer do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from tiebreak.errors import InvalidInput


class UnknownRole(InvalidInput):
    """There is no role of this name."""

    code = "role_unknown"


class Role(StrEnum):
    """A duty somebody has; each route and command says which roles it takes."""

    SERVICE = "service"  # a system that submits tickets and outcomes
    REVIEWER = "reviewer"
    LEAD = "lead"
    ML_ENGINEER = "ml_engineer"
    APPROVER = "approver"
    AUDITOR = "auditor"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a request: a person, by one of the person's keys."""

    person: str
    key_id: str
    roles: frozenset[Role]

    def __str__(self) -> str:
        """The actor as it stands in stored records: `person/key_id`."""
        return f"{self.person}/{self.key_id}"


def roles_of(names: Iterable[str]) -> frozenset[Role]:
    """The roles with these names; raises UnknownRole."""
    known = {role.value: role for role in Role}
    wanted = list(names)
    unknown = sorted({name for name in wanted if name not in known})
    if unknown:
        raise UnknownRole(
            f"There is no role {', '.join(unknown)}.", hint=f"Roles are {', '.join(known)}."
        )
    return frozenset(known[name] for name in wanted)
