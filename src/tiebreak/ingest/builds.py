"""Builds of new generations of a history log, from what is stored, while the old one serves.

A build goes through time in units of its own, each of which says how far it is, so that it can be
killed anywhere and run again. The last unit holds the workflow's history lock: it books what came
in meanwhile and lets the new generation serve.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np

from tiebreak.audit.lanes import Lane
from tiebreak.core.history import HistoryPlan
from tiebreak.core.totals import HistoryOverflow
from tiebreak.errors import Conflict
from tiebreak.ingest.histories import Entities, Log, new_rows
from tiebreak.ingest.importer import HistoryTooLarge
from tiebreak.ingest.recorded import Schemas, end_of, read_events
from tiebreak.settings import Keyring
from tiebreak.store import tables
from tiebreak.store.history import EPOCH, Tick, log_rows
from tiebreak.store.kept import order_of, register, slots_of, stored_slots
from tiebreak.store.keyed import entity_key
from tiebreak.store.unit import Connection, Unit

EVENTS_A_UNIT = 10_000
FEW_EVENTS = 500  # so many may be left to be booked while admissions wait


class RebuildOvertaken(Conflict):
    """Another rebuild, or another policy in production, came first."""

    code = "rebuild_overtaken"


@dataclass(frozen=True, slots=True)
class Build:
    """A generation on its way: what it keeps, what serves meanwhile, and how far it is."""

    plan: HistoryPlan
    base: int
    generation: int
    through: datetime
    events: int = 0
    erased: int = 0


@dataclass(frozen=True, slots=True)
class Builder:
    """Writes the units of builds of one workflow."""

    lane: Lane
    keyring: Keyring
    schemas: Schemas
    actor: str

    async def begin(self, plan: HistoryPlan, base: int) -> Build:
        """The unfinished build of just these slots on this base, or a new one."""
        name = plan.workflow.name
        async with self.lane.unit() as unit:
            await unit.conn.execute(_ONE_AT_A_TIME, name)
            row = await unit.conn.fetchrow(_NEWEST, name)
            if row is not None and row["base"] == base:
                begun = await slots_of(unit.conn, name, row["generation"])
                if begun == plan.definitions():
                    return Build(plan, **dict(row))
            generation = await unit.conn.fetchval(_NEXT, name)
            await register(unit.conn, name, generation, plan)
            await unit.conn.execute(_ADD, name, generation, base, EPOCH)
            unit.note(self.actor, "history.rebuild_begun", name, {"generation": generation})
        return Build(plan, base, generation, EPOCH)

    async def go_on(self, build: Build, last: datetime) -> Build:
        """Book the next events, none later than `last`, in a unit. Raises `RebuildOvertaken`."""
        async with self.lane.unit() as unit:
            name = build.plan.workflow.name
            until = await end_of(unit.conn, name, build.through, last, EVENTS_A_UNIT)
            return await self._book(unit, build, until)

    async def finish(self, build: Build, is_still_wanted: Callable[[], Awaitable[bool]]) -> Build:
        """Book what is left under the history lock, and let the generation serve.

        Raises `RebuildOvertaken` when it is not wanted any more, or its base serves no more.
        """
        name = build.plan.workflow.name
        async with self.lane.unit() as unit:
            clock = await unit.conn.fetchrow(_LOCK, name)
            if clock["history_generation"] != build.base or not await is_still_wanted():
                raise _overtaken(build)
            build = await self._book(unit, build, clock["last_as_of"])
            await unit.conn.execute(_SWITCH, name, build.generation)
            detail = {
                "generation": build.generation,
                "before": build.base,
                "slots": len(build.plan.definitions()),
                "events": build.events,
                "erased": build.erased,
            }
            unit.note(self.actor, "history.rebuilt", name, detail)
        return build

    async def _book(self, unit: Unit, build: Build, until: datetime) -> Build:
        plan, name = build.plan, build.plan.workflow.name
        told = await read_events(unit.conn, plan, self.schemas, build.through, until)
        done = replace(
            build,
            through=until,
            events=build.events + told.events,
            erased=build.erased + told.erased,
        )
        moved = await unit.conn.execute(
            _MOVE, name, build.generation, build.through, until, done.events, done.erased
        )
        if moved != "UPDATE 1":
            raise _overtaken(build)
        keys = {entity: self._keys(name, entity, each) for entity, each in told.entities.items()}
        before = {
            entity: await _newest(unit.conn, build, entity, of_entity)
            for entity, of_entity in keys.items()
        }
        try:
            added = new_rows(plan, told.happenings, before)
        except HistoryOverflow as error:
            raise HistoryTooLarge(
                hint="Lower `scale` of a history feature in a new version of the workflow."
            ) from error
        stored = await stored_slots(unit.conn, name, build.generation)
        order = order_of(plan, stored)
        assert order is not None
        moment = Tick(name, until, build.generation, plan, order)
        for entity, log in added.items():
            codes: list[int] = log.codes.tolist()
            times: list[int] = log.known_at.tolist()
            unit.add(
                tables.history_log,
                log_rows(
                    moment,
                    entity,
                    [keys[entity][code] for code in codes],
                    [EPOCH + timedelta(microseconds=us) for us in times],
                    log.totals,
                ),
            )
        return done

    def _keys(self, workflow: str, entity: str, entities: Entities) -> list[bytes]:
        secret = self.keyring.entity_key
        return [entity_key(secret, workflow, entity, text) for text in entities.texts]


async def _newest(conn: Connection, build: Build, entity: str, keys: list[bytes]) -> Log:
    """The newest totals of these entities in the generation that is built."""
    name, slots = build.plan.workflow.name, build.plan.slots[entity]
    rows = await conn.fetch(_TOTALS, name, build.generation, keys)
    if not rows:
        return Log.empty(slots)
    return Log(
        np.array([row["place"] - 1 for row in rows], dtype=np.int64),
        np.zeros(len(rows), dtype=np.int64),
        np.array([row["totals"] for row in rows], dtype=np.int64),
    )


def _overtaken(build: Build) -> RebuildOvertaken:
    return RebuildOvertaken(
        hint="Run the rebuild again.",
        workflow=build.plan.workflow.name,
        generation=build.generation,
    )


_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended('history:' || $1, 0))"

_NEWEST = """
    SELECT base, generation, through, events, erased FROM history_builds
    WHERE workflow = $1 ORDER BY generation DESC LIMIT 1
"""

_NEXT = """
    SELECT greatest(
        (SELECT max(generation) FROM history_slots WHERE workflow = $1),
        (SELECT max(history_generation) FROM workflow_clocks WHERE workflow = $1)) + 1
"""

_ADD = """
    INSERT INTO history_builds (workflow, generation, base, through, events, erased)
    VALUES ($1, $2, $3, $4, 0, 0)
"""

# Of two that build the same, the second finds that it is not where it thought.
_MOVE = """
    UPDATE history_builds SET through = $4, events = $5, erased = $6
    WHERE workflow = $1 AND generation = $2 AND through = $3
"""

_LOCK = """
    SELECT last_as_of, history_generation FROM workflow_clocks WHERE workflow = $1 FOR UPDATE
"""

_SWITCH = "UPDATE workflow_clocks SET history_generation = $2 WHERE workflow = $1"

_TOTALS = """
    SELECT k.place, newest.totals
    FROM unnest($3::bytea[]) WITH ORDINALITY AS k (entity_key, place)
    CROSS JOIN LATERAL (
        SELECT l.totals FROM history_log l
        WHERE l.workflow = $1 AND l.generation = $2 AND l.entity_key = k.entity_key
        ORDER BY l.known_at DESC LIMIT 1) AS newest
"""
