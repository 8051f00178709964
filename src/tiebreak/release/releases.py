"""Releases: a policy proposed for production, bound to the backtest that was made of it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, Text, cast, func, select, tuple_

from tiebreak.audit.lanes import Lane
from tiebreak.backtest.evidence import Backtest
from tiebreak.backtest.finished import check_sealed
from tiebreak.core.policy import PolicyParts
from tiebreak.errors import Conflict, InvalidInput, NotFound
from tiebreak.registry import canaries, records
from tiebreak.registry.policies import LoadedPolicy, PolicyLibrary, Recipe
from tiebreak.registry.proposals import ModelUnfit
from tiebreak.registry.records import ProductionMoved
from tiebreak.release.events import Subject, happen, state_now
from tiebreak.release.states import OPEN, Kind, NotInThisState, State, state_of
from tiebreak.settings import Keyring
from tiebreak.store import tables
from tiebreak.store.database import Database
from tiebreak.store.unit import Unit
from tiebreak.workflows import versions

Position = tuple[datetime, UUID]  # of a release: its time and id


class NoSuchRelease(NotFound):
    """There is no such release."""

    code = "no_such_release"


class AmbiguousRelease(InvalidInput):
    """More than one release begins with these digits."""

    code = "ambiguous_release"


class BacktestOfAnother(Conflict):
    """The backtest is of another policy, or against another production, than the release."""

    code = "backtest_of_another"


class StillCurrent(Conflict):
    """Production did not move since the release was proposed."""

    code = "still_current"


@dataclass(frozen=True, slots=True)
class Office:
    """Where releases are read and written: database, lane of seals, keys, policies."""

    db: Database
    lane: Lane
    keyring: Keyring
    library: PolicyLibrary


@dataclass(frozen=True, slots=True)
class Release:
    """A candidate and where it stands."""

    release_id: UUID
    workflow: str
    policy_hash: str
    base_seq: int  # of the production record it is compared with; 0: none
    backtest_id: str
    author: str
    reason: str
    created_at: datetime
    state: State

    @property
    def subject(self) -> Subject:
        """What its events are about."""
        return Subject(self.release_id, self.workflow, self.policy_hash)

    @property
    def is_open(self) -> bool:
        """Whether it may still reach production."""
        return self.state in OPEN


@dataclass(frozen=True, slots=True)
class Filters:
    """Which releases to list; None leaves a column free."""

    workflow: str | None = None
    state: State | None = None
    author: str | None = None


def parts_of(backtest: Backtest) -> PolicyParts:
    """The policy that was backtested."""
    return PolicyParts(**backtest.evidence["policy"])


async def propose(
    office: Office, recipe: Recipe, backtest: Backtest, *, author: str, reason: str
) -> Release:
    """Propose a policy, and store its versions with it; a refused one leaves nothing.

    `backtest` is of exactly it against production. Raises `BacktestOfAnother`, `UnsealedBacktest`,
    `ModelUnfit` when its bundle does not load, and `ForgedRelease` when what is in production is.
    """
    _check_fit(await office.library.tried(recipe), recipe.parts)
    async with office.lane.unit() as unit:
        return await _propose(unit, office.keyring, recipe, backtest, author, reason)


async def withdraw(office: Office, release_id: UUID, *, actor: str, reason: str) -> Release:
    """Take a release back; its canary decides no more. Raises `NoSuchRelease`, `NotInThisState`."""
    release = await get(office.db, release_id)
    async with office.lane.unit() as unit:
        await records.lock(unit, release.workflow)
        await _end(unit, office.keyring, release, Kind.WITHDRAWN, actor, {"reason": reason})
    return await get(office.db, release_id)


async def rebase(
    office: Office, release_id: UUID, backtest: Backtest, *, author: str, reason: str
) -> Release:
    """Propose the policy of a release anew, because production moved; the old one is voided.

    Raises what `propose` raises, `NoSuchRelease`, `NotInThisState`, and `StillCurrent`.
    """
    old = await get(office.db, release_id)
    parts = await office.library.parts(old.policy_hash)
    recipe = await office.library.recipe(parts)
    _check_fit(await office.library.tried(recipe), parts)
    async with office.lane.unit() as unit:
        if await records.lock(unit, old.workflow) == old.base_seq:
            raise StillCurrent(hint="Go on with the release.", release=str(release_id))
        new = await _propose(unit, office.keyring, recipe, backtest, author, reason)
        detail = {"reason": reason, "successor": str(new.release_id)}
        await _end(unit, office.keyring, old, Kind.VOIDED, author, detail)
    return new


async def get(db: Database, release_id: UUID) -> Release:
    """The release with this id. Raises `NoSuchRelease`."""
    found = await _read(db, _query().where(tables.releases.c.release_id == release_id))
    if not found:
        raise NoSuchRelease(hint="`tiebreak release list` names them.", release=str(release_id))
    return found[0]


async def find(db: Database, start: str) -> Release:
    """The one release whose id begins so. Raises `NoSuchRelease` and `AmbiguousRelease`."""
    text = cast(tables.releases.c.release_id, Text)
    found = await _read(db, _query().where(func.starts_with(text, start.lower())))
    if not found:
        raise NoSuchRelease(hint="`tiebreak release list` names them.", release=start)
    if len(found) > 1:
        ids = [str(release.release_id) for release in found]
        raise AmbiguousRelease(hint="Give more digits of it.", releases=ids)
    return found[0]


async def releases(db: Database, workflow: str | None = None) -> list[Release]:
    """All releases, of one workflow or of all, newest first."""
    query = _query()
    if workflow is not None:
        query = query.where(tables.releases.c.workflow == workflow)
    return await _read(db, query)


async def page(
    db: Database, filters: Filters, *, after: Position | None = None, limit: int = 50
) -> list[Release]:
    """Releases from behind `after` on, at most `limit`, newest first.

    The next page begins after the last one's (`created_at`, `release_id`).
    """
    c = tables.releases.c
    query = _query()
    if filters.workflow is not None:
        query = query.where(c.workflow == filters.workflow)
    if filters.author is not None:
        query = query.where(c.author == filters.author)
    if filters.state is not None:
        query = query.where(func.release_state(c.release_id) == filters.state.value)
    if after is not None:
        query = query.where(c.created_at <= after[0], tuple_(c.created_at, c.release_id) < after)
    return await _read(db, query.limit(limit))


async def open_releases(db: Database) -> list[Release]:
    """The releases that may still reach production, newest first."""
    return [release for release in await releases(db) if release.is_open]


async def check_builds(library: PolicyLibrary, parts: PolicyParts) -> None:
    """Raises `UnknownVersion`, and `ModelUnfit` when the bundle does not load or does not fit."""
    _check_fit(await library.build(parts), parts)


def check_backtest(parts: PolicyParts, backtest: Backtest, production: str | None) -> None:
    """Raises `BacktestOfAnother` unless it is of this policy against this one in production."""
    found = backtest.evidence["policy_hash"]
    if found != parts.hash:
        raise BacktestOfAnother(
            hint="Run `tiebreak backtest run` with this policy.",
            backtest=backtest.id,
            policy_hash=found,
        )
    baseline = backtest.evidence["baseline"]["production"]
    if baseline != production:
        raise BacktestOfAnother(
            "The backtest compares with another policy than the one in production now.",
            hint="Run `tiebreak backtest run` again.",
            backtest=backtest.id,
            production=production,
        )


async def check_current(unit: Unit, release: Release) -> None:
    """Take the workflow's release lock; raises `ProductionMoved` unless its base is production."""
    seq = await records.lock(unit, release.workflow)
    if seq != release.base_seq:
        raise ProductionMoved(
            "What was found out about the release is void: production moved.",
            hint=f"Propose it anew: `tiebreak release rebase {release.release_id} --reason WHY`.",
            workflow=release.workflow,
            seq=seq,
        )


async def check_state(unit: Unit, release: Release, allowed: Sequence[State], what: str) -> None:
    """Raises `NotInThisState` when the release cannot be `what` in its state now."""
    state = await state_now(unit, release.release_id)
    if state not in allowed:
        raise NotInThisState(
            f"A release in the state {state} cannot be {what}.",
            hint=f"That is possible in: {', '.join(allowed)}.",
            state=state,
        )


def _check_fit(loaded: LoadedPolicy, parts: PolicyParts) -> None:
    problem = loaded.problem
    if problem is not None:
        raise ModelUnfit(problem.message, hint=problem.hint, workflow=parts.workflow)


async def _propose(
    unit: Unit, keyring: Keyring, recipe: Recipe, backtest: Backtest, author: str, reason: str
) -> Release:
    parts = recipe.parts
    seq = await records.lock(unit, parts.workflow)
    production = await records.newest(unit, keyring, parts.workflow)
    check_backtest(parts, backtest, None if production is None else production.policy_hash)
    await check_sealed(unit.conn, keyring, backtest)
    version = await versions.keep(
        unit, recipe.workflow, recipe.rule_set, author=author, reason=reason
    )
    await records.store_policy(unit, parts, author=author)
    row: dict[str, Any] = {
        "release_id": uuid.uuid4(),
        "workflow": parts.workflow,
        "policy_hash": parts.hash,
        "base_seq": seq,
        "backtest_id": backtest.id,
        "author": author,
        "reason": reason,
        "created_at": datetime.now(UTC),
    }
    unit.add(tables.releases, [row])
    await unit.flush()
    release = Release(**row, state=State.DRAFT)
    detail: dict[str, object] = {"backtest": backtest.id, "base_seq": seq, "reason": reason}
    if version is not None:
        detail["version"] = version.ordinal
    await happen(unit, release.subject, Kind.PROPOSED, actor=author, detail=detail)
    return release


async def _end(
    unit: Unit,
    keyring: Keyring,
    release: Release,
    kind: Kind,
    actor: str,
    detail: Mapping[str, object],
) -> None:
    """What ends a release takes its share of the tickets first."""
    await stop_canary(unit, keyring, release, actor=actor)
    await happen(unit, release.subject, kind, actor=actor, detail=detail)


async def stop_canary(unit: Unit, keyring: Keyring, release: Release, *, actor: str) -> None:
    """Take the release's share of the tickets, if it has one; inside the release lock."""
    is_canary = await unit.conn.fetchval(_IS_CANARY, release.workflow, release.release_id)
    if is_canary:
        await canaries.stop(unit, keyring, release.workflow, author=actor)


def _query() -> Select[Any]:
    events = tables.release_events.c
    kinds = func.array_agg(events.kind).aggregate_order_by(events.seq)
    happened = (
        select(kinds)
        .where(events.release_id == tables.releases.c.release_id)
        .scalar_subquery()
        .label("kinds")
    )
    columns = [tables.releases.c[name] for name in _COLUMNS]
    return select(*columns, happened).order_by(
        tables.releases.c.created_at.desc(), tables.releases.c.release_id.desc()
    )


async def _read(db: Database, query: Select[Any]) -> list[Release]:
    async with db.read() as conn:
        rows = (await conn.execute(query)).mappings().all()
    return [
        Release(
            **{name: row[name] for name in _COLUMNS},
            state=state_of(Kind(kind) for kind in row["kinds"] or ()),
        )
        for row in rows
    ]


_COLUMNS = tuple(name for name in Release.__slots__ if name != "state")
_IS_CANARY = """
    SELECT release_id = $2 AND percent > 0 FROM canary_records
    WHERE workflow = $1 ORDER BY seq DESC LIMIT 1
"""
