"""What commands that work with the store need: settings, keys, database, a lane, and who acts."""

from __future__ import annotations

import asyncio
import getpass
import logging
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import structlog
import typer
from sqlalchemy import select

from tiebreak.access.acts import ACCESS, check_roles
from tiebreak.access.keys import roles_now
from tiebreak.access.persons import ensure_person
from tiebreak.audit.lanes import Lane
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.signing import BundleKeys
from tiebreak.cli.reasons import stated
from tiebreak.core.suggestions import did_you_mean
from tiebreak.embedded.stack import Services, stack
from tiebreak.errors import NotFound
from tiebreak.settings import Keyring, Settings
from tiebreak.store import tables
from tiebreak.store.database import Database

if TYPE_CHECKING:
    from tiebreak.registry.policies import PolicyLibrary
    from tiebreak.release.releases import Office
    from tiebreak.training.runs import Trainer

T = TypeVar("T")

MOST = 2**31 - 1  # of what the store counts: versions, records, revisions
DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]  # how commands take times, in UTC

PersonOption = Annotated[
    str | None,
    typer.Option("--as", metavar="PERSON", help="Who does this; default: your account's name."),
]
ReasonOption = Annotated[str, typer.Option(help="Why; it stands in the journal.", callback=stated)]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Check everything and change nothing.")
]


class UnknownPerson(NotFound):
    """This person is not known here."""

    code = "unknown_person"


@dataclass(frozen=True)
class Session:
    """An open database and everything a command acts with."""

    settings: Settings
    keyring: Keyring
    db: Database
    lane: Lane
    person: str

    @cached_property
    def artifacts(self) -> ArtifactStore:
        """Bundles and checkpoints."""
        return ArtifactStore.of(self.settings)

    @property
    def bundle_keys(self) -> BundleKeys:
        """The keys that sign and verify bundles."""
        return BundleKeys.of(self.keyring)

    @property
    def trainer(self) -> Trainer:
        """What trains, in this session's lane."""
        from tiebreak.training.runs import Trainer  # slow to import, and seldom needed

        return Trainer(self.db, self.lane, self.settings, self.keyring)

    def office(self, *, is_rehearsal: bool = False) -> Office:
        """Where releases are read and written, with a new library; a rehearsal keeps nothing."""
        from tiebreak.release.releases import Office

        lane = Lane.rehearsal(self.db, "cli", self.keyring) if is_rehearsal else self.lane
        return Office(self.db, lane, self.keyring, self.library())

    def library(self) -> PolicyLibrary:
        """A new library of policies."""
        from tiebreak.registry.policies import PolicyLibrary  # slow to import, and seldom needed

        return PolicyLibrary(self.db, self.artifacts, self.bundle_keys)


def act(
    person: str | None,
    work: Callable[[Session], Coroutine[Any, Any, T]],
    needs: str | None = None,
) -> T:
    """Run `work` in a session of this person, and give its result.

    Without a person the account that runs the command acts, and is registered at the first time.
    `needs` names an act of `ACCESS` that the person must be allowed. The servers run for as long as
    it takes, unless they ran already. Raises `UnknownPerson` and `WrongRole`.
    """

    async def acting(session: Session) -> T:
        if person is None:
            async with session.lane.unit() as unit:
                await ensure_person(unit, session.person, actor=session.person)
        else:
            await require_person(session.db, person)
        if needs is not None:
            await require_role(session.db, session.person, needs)
        return await work(session)

    return _run(person or getpass.getuser(), acting)


def look(work: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
    """Run `work`, which changes nothing and so needs no person, and give its result."""
    return _run("", work)


def _run(person: str, work: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
    async def run(services: Services) -> T:
        async with opened(services, person) as session:
            return await work(session)

    with stack(Settings.load()) as services:
        return asyncio.run(run(services))


@asynccontextmanager
async def opened(services: Services, person: str) -> AsyncGenerator[Session]:
    """A session on running servers; what the rooms log goes to standard error."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        # asked each time, because standard error may be redirected; results own standard output
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
    db = await Database.of(services.settings)
    try:
        lane = await Lane.open(db, "cli", services.keyring)
        yield Session(services.settings, services.keyring, db, lane, person)
    finally:
        await db.close()


async def require_person(db: Database, person: str) -> None:
    """Raises `UnknownPerson` unless the person is registered."""
    async with db.read() as conn:
        known = list((await conn.execute(select(tables.persons.c.person))).scalars())
    if person not in known:
        raise UnknownPerson(
            f"There is no person {person!r} here.",
            hint=did_you_mean(person, known)
            or f"Register them with `tiebreak keys create --person {person} --role ROLE`.",
            person=person,
        )


async def require_role(db: Database, person: str, needs: str) -> None:
    """Raises `UnknownPerson`, and `WrongRole` unless a live key of theirs allows this act."""
    await require_person(db, person)
    needed, given = ACCESS[needs], await roles_now(db, person, datetime.now(UTC))
    check_roles(
        needed,
        given,
        hint=f"`tiebreak keys create --person {person} --role {min(needed)}` gives {person} such a "
        "role; `--as` names another person.",
    )
