"""What a generation of the history log keeps: its slots, and the plan that books all of them.

Every event is booked on every slot of the log, whichever policy is in production: a slot left out
once is wrong for ever. Slots that the policy's own version lacks are booked by the version that
`history_slots` names for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from tiebreak.core.bookings import Strand
from tiebreak.core.history import HistoryPlan
from tiebreak.core.workflow import Workflow
from tiebreak.errors import Conflict
from tiebreak.store import addresses
from tiebreak.store.unit import Connection

Order = Mapping[str, NDArray[np.intp]]  # by entity: where in the log's row each slot stands


class HistoryNotReady(Conflict):
    """The history log does not keep the totals that this version of the workflow reads."""

    code = "history_not_ready"


class EntityChanged(Conflict):
    """The history log knows an entity of this name by another key."""

    code = "entity_changed"


def not_ready(workflow: str, ordinal: int | None = None) -> HistoryNotReady:
    """The error that names the command which builds what is missing."""
    version = "" if ordinal is None else f" --version {ordinal}"
    return HistoryNotReady(
        hint=f"Run `tiebreak history rebuild {workflow}{version}`, then do this again.",
        workflow=workflow,
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """A generation of the log, and a plan that books all it keeps."""

    generation: int
    plan: HistoryPlan


_seen: WeakKeyDictionary[HistoryPlan, HistoryPlan] = WeakKeyDictionary()


def last_seen(plan: HistoryPlan) -> HistoryPlan:
    """The plan with all slots that the log kept when it was last looked at; `plan` before that."""
    return _seen.get(plan, plan)


async def booking(
    conn: Connection, workflow: str, generation: int, plan: HistoryPlan, stored: tuple[str, ...]
) -> tuple[HistoryPlan, Order]:
    """The plan with all slots that the log stores, and where each of them stands.

    The slots of a workflow without tickets are registered here, so its history must be locked.
    Raises `HistoryNotReady` when the log lacks slots of the plan.
    """
    seen = last_seen(plan)
    order = order_of(seen, stored)
    if order is not None:
        return seen, order
    if not stored and not await conn.fetchval(_HAS_TICKETS, workflow):
        await register(conn, workflow, generation, plan)
        stored = await stored_slots(conn, workflow, generation)
    whole = await _whole(conn, workflow, generation, plan, stored)
    order = order_of(whole, stored)
    if order is None:
        raise not_ready(workflow)
    if whole is not plan:
        _seen[plan] = whole
    return whole, order


async def kept(conn: Connection, workflow: str, plan: HistoryPlan) -> Kept:
    """The generation that serves, and the plan with all it keeps; changes nothing.

    Raises `HistoryNotReady` when it lacks slots of the plan, and `EntityChanged`.
    """
    generation = await serving_generation(conn, workflow) or 1
    stored = await stored_slots(conn, workflow, generation)
    if not stored and not await conn.fetchval(_HAS_TICKETS, workflow):
        return Kept(generation, plan)
    for other in (await definitions(conn, workflow, generation)).values():
        check_entities(plan.workflow, other)
    whole = await _whole(conn, workflow, generation, plan, stored)
    if order_of(whole, stored) is None:
        raise not_ready(workflow)
    return Kept(generation, whole)


async def serving_generation(conn: Connection, workflow: str) -> int | None:
    """The generation of the history log that serves; None before the first ticket."""
    return await conn.fetchval(_GENERATION, workflow)


async def definitions(conn: Connection, workflow: str, generation: int) -> dict[str, Workflow]:
    """The versions that define slots of a generation, as far as they are stored, by address."""
    found: dict[str, Workflow] = {}
    for version, config in await conn.fetch(_DEFINITIONS, workflow, generation):
        fitting = addresses.fitting([config], version, workflow=workflow)
        found[version] = Workflow.model_validate_json(fitting)
    return found


def check_entities(one: Workflow, other: Workflow) -> None:
    """Raises `EntityChanged` when both keep history about an entity by different keys."""
    reads = [HistoryPlan(each).slots.keys() for each in (one, other)]
    keys = [{entity.name: entity.key for entity in each.entities} for each in (one, other)]
    changed = sorted(e for e in reads[0] & reads[1] if keys[0][e] != keys[1][e])
    if changed:
        raise EntityChanged(
            f"The key of {', '.join(changed)} is not the one that history was collected by.",
            hint="Give an entity with another key another name.",
            workflow=one.name,
            entities=changed,
        )


async def register(conn: Connection, workflow: str, generation: int, plan: HistoryPlan) -> None:
    """Write the plan's slots as those of a generation without any."""
    rows = [
        (slot_id.partition(".")[0], position, slot_id, version)
        for slot_id, (position, version) in plan.definitions().items()
    ]
    if rows:
        await conn.execute(_ADD_SLOTS, workflow, generation, *map(list, zip(*rows, strict=True)))


async def _whole(
    conn: Connection, workflow: str, generation: int, plan: HistoryPlan, stored: tuple[str, ...]
) -> HistoryPlan:
    """The plan's own slots, and what else is stored, booked by the versions that define it."""
    if not {slot.id for reading in plan.also for slot in reading.slots} <= set(stored):
        raise not_ready(workflow)
    more = set(stored) - ids_of(plan.strand)
    if not more:
        return HistoryPlan(plan.workflow) if len(plan.bookings.strands) > 1 else plan
    strands: list[Strand] = []
    for other in (await definitions(conn, workflow, generation)).values():
        strand = HistoryPlan(other).strand.only(more)
        more -= ids_of(strand)
        if strand.slots:
            strands.append(strand)
    return plan.keeping(*strands)


def ids_of(*strands: Strand) -> set[str]:
    """The ids of the strands' slots."""
    return {slot.id for strand in strands for slots in strand.slots.values() for slot in slots}


async def stored_slots(conn: Connection, workflow: str, generation: int) -> tuple[str, ...]:
    """The ids of a generation's slots, an entity's in the order of the log's rows."""
    return tuple(await conn.fetchval(_SLOTS, workflow, generation))


async def slots_of(conn: Connection, workflow: str, generation: int) -> dict[str, tuple[int, str]]:
    """What stands registered for a generation, as `HistoryPlan.definitions` gives it."""
    rows = await conn.fetch(_REGISTERED, workflow, generation)
    return {row["slot"]: (row["position"], row["workflow_version"]) for row in rows}


@lru_cache(maxsize=64)
def order_of(plan: HistoryPlan, stored: tuple[str, ...]) -> Order | None:
    """Where each slot of the plan stands in the log; None when the log keeps other slots.

    Slots the log keeps but the plan lacks would silently stop growing: that is refused, too.
    """
    positions: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for slot_id in stored:
        entity = slot_id.partition(".")[0]
        positions[slot_id] = sizes.get(entity, 0)
        sizes[entity] = positions[slot_id] + 1
    wanted = {slot.id for slots in plan.slots.values() for slot in slots}
    if wanted != positions.keys():
        return None
    return {
        entity: np.array([positions[slot.id] for slot in slots], dtype=np.intp)
        for entity, slots in plan.slots.items()
    }


_GENERATION = "SELECT history_generation FROM workflow_clocks WHERE workflow = $1"

_HAS_TICKETS = "SELECT EXISTS (SELECT FROM ticket_keys WHERE workflow = $1)"

_SLOTS = """
    SELECT ARRAY(
        SELECT slot FROM history_slots WHERE workflow = $1 AND generation = $2
        ORDER BY entity, position)
"""

_REGISTERED = """
    SELECT slot, position, workflow_version FROM history_slots
    WHERE workflow = $1 AND generation = $2
"""

_ADD_SLOTS = """
    INSERT INTO history_slots (workflow, generation, entity, position, slot, workflow_version)
    SELECT $1, $2, new.* FROM unnest($3::text[], $4::int[], $5::text[], $6::text[]) AS new
"""

_DEFINITIONS = """
    SELECT DISTINCT ON (v.workflow_version) v.workflow_version, v.config
    FROM history_slots s
    JOIN workflow_versions v ON v.workflow = s.workflow AND v.workflow_version = s.workflow_version
    WHERE s.workflow = $1 AND s.generation = $2
    ORDER BY v.workflow_version, v.ordinal
"""
