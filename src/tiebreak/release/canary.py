"""Canary: an approved candidate decides a growing share of tickets, watched beside production."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import NoReturn
from uuid import UUID

from tiebreak.core.release_plan import MOST_CANARY_PERCENT
from tiebreak.errors import Conflict, InvalidInput
from tiebreak.registry import canaries, records
from tiebreak.registry.canaries import Canary, ForgedCanary, Share
from tiebreak.release import guards
from tiebreak.release.approvals import NotApproved, standing
from tiebreak.release.canary_plan import CanaryPlan, CanaryStep
from tiebreak.release.events import Event, events_of, happen
from tiebreak.release.guards import Guard, Watched
from tiebreak.release.plans import in_force
from tiebreak.release.releases import (
    Office,
    Release,
    check_builds,
    check_current,
    check_state,
    get,
    releases,
    stop_canary,
)
from tiebreak.release.shadow import SYSTEM, check_ready
from tiebreak.release.states import Kind, Stage, State
from tiebreak.store.unit import Unit

MOVES = (Kind.CANARY_STARTED, Kind.CANARY_STEP, Kind.CANARY_SWITCHED)
WHOLE = 100  # percent
DECIDING = (State.CANARY, State.HELD, State.READY)


class AnotherCanary(Conflict):
    """Another release is the canary of this workflow."""

    code = "another_canary"


class NoFurtherStep(InvalidInput):
    """The share cannot be this."""

    code = "no_further_step"


class StepSkipped(Conflict):
    """The share is larger than that of the plan's next step."""

    code = "step_skipped"


class StepNotOver(Conflict):
    """The canary has not had the hours or the tickets of its step."""

    code = "step_not_over"


@dataclass(frozen=True, slots=True)
class Step:
    """How far a canary is within its step, and what that lacks before the share may grow."""

    since: datetime | None = None  # None: there was no canary
    tickets: int = 0  # decided by the canary in this step
    hours_left: float = 0.0
    tickets_left: int = 0

    @property
    def is_over(self) -> bool:
        """Whether it lacks nothing."""
        return not self.hours_left and not self.tickets_left


@dataclass(frozen=True, slots=True)
class Status:
    """Where a canary stands."""

    release: Release
    percent: int
    step: Step
    guards: list[Guard]


async def start(
    office: Office,
    release_id: UUID,
    *,
    actor: str,
    plan: CanaryPlan | None = None,
    percent: int | None = None,
) -> Release:
    """Let a release that was approved for it decide the first share of the plan, or a smaller one.

    Without a plan, here and below, it goes by its workflow's. Raises `NoSuchRelease`,
    `ProductionMoved`, `NotInThisState`, `NotApproved`, `ModelUnfit`, `NotReady`, `AnotherCanary`,
    `NoFurtherStep` and `StepSkipped`.
    """
    release = await get(office.db, release_id)
    await check_builds(office.library, await office.library.parts(release.policy_hash))
    await check_ready(office.db, office.library, release)
    plan = plan or await plan_of(office, release)
    share = plan.steps[0].percent if percent is None else percent
    _check_share(share, plan.steps[0].percent)
    async with office.lane.unit() as unit:
        await check_current(unit, release)
        await check_state(unit, release, (State.SHADOW,), "a canary")
        await _decide_share(unit, office, release, share, Kind.CANARY_STARTED, author=actor)
    return await get(office.db, release_id)


async def switch(office: Office, release_id: UUID, *, actor: str) -> Release:
    """Let a canary that went through its steps decide all tickets; production stays ready.

    That takes what a promotion takes: its gates, and the approval of somebody else than `actor`.
    Raises `NoSuchRelease`, `ProductionMoved`, `NotInThisState`, `NotApproved`, `ForgedEvidence`,
    and `NoFurtherStep` when it does already.
    """
    release = await get(office.db, release_id)
    if await share_of(office, release) == WHOLE:
        raise NoFurtherStep(hint="Promote it, or stop it.", percent=WHOLE)
    async with office.lane.unit() as unit:
        await check_current(unit, release)
        await check_state(unit, release, (State.READY,), "given all tickets")
        kind = Kind.CANARY_SWITCHED
        await _decide_share(unit, office, release, WHOLE, kind, author=actor)
    return await get(office.db, release_id)


async def step(
    office: Office,
    release_id: UUID,
    *,
    actor: str,
    plan: CanaryPlan | None = None,
    percent: int | None = None,
    early: str | None = None,
    is_planned: bool = False,
) -> Release:
    """Let it decide the next share, or a smaller one; a held canary goes on.

    The share grows when the step had its hours and tickets, or for the reason `early`. Before that,
    and after the last step, a held canary goes on with the share it has. All tickets are a
    `switch`. `is_planned` says that not `actor` stepped it, but the plan they started it by.
    Raises what `start` raises, and `StepNotOver`.
    """
    if percent == WHOLE:
        return await switch(office, release_id, actor=actor)
    release = await get(office.db, release_id)
    plan = plan or await plan_of(office, release)
    now = (await share_of(office, release)) or 0
    done, following = await _step(office, release, plan, now), plan.following(now)
    if percent is None:
        stays = following is None or not (done.is_over or early)
        percent = now if stays and release.state is State.HELD else following
        if percent is None:
            raise NoFurtherStep(hint=_THROUGH, percent=now)
    _check_share(percent, following or plan.steps[-1].percent)
    detail: dict[str, object] = {"is_planned": is_planned}
    async with office.lane.unit() as unit:
        await check_current(unit, release)
        await check_state(unit, release, (State.CANARY, State.HELD), "stepped")
        if percent > now and not done.is_over:
            detail["early"] = (early or "").strip() or _refuse(done)
        kind = Kind.CANARY_STEP
        await _decide_share(unit, office, release, percent, kind, author=actor, detail=detail)
    return await get(office.db, release_id)


async def hold(office: Office, release_id: UUID, *, actor: str, reason: str) -> Release:
    """Let it keep its share until somebody steps it; its guards go on watching."""
    release = await get(office.db, release_id)
    async with office.lane.unit() as unit:
        await records.lock(unit, release.workflow)
        detail = {"reason": reason}
        await happen(unit, release.subject, Kind.CANARY_HELD, actor=actor, detail=detail)
    return await get(office.db, release_id)


async def stop(
    office: Office,
    release_id: UUID,
    *,
    actor: str,
    reason: str,
    guard: Guard | None = None,
) -> Release:
    """Take its share: production decides everything, from the next half second on."""
    release = await get(office.db, release_id)
    detail: dict[str, object] = {"reason": reason}
    if guard is not None:
        detail["guard"] = guard.as_data()
    async with office.lane.unit() as unit:
        await records.lock(unit, release.workflow)
        await stop_canary(unit, office.keyring, release, actor=actor)
        await happen(unit, release.subject, Kind.CANARY_ROLLED_BACK, actor=actor, detail=detail)
    return await get(office.db, release_id)


async def status(office: Office, release: Release, plan: CanaryPlan | None = None) -> Status:
    """Where a canary stands, and what its guards find."""
    plan = plan or await plan_of(office, release)
    percent = await share_of(office, release) or 0
    found: list[Guard] = []
    if release.state in DECIDING:
        moves = await _moves(office, release)
        found = await guards.look(office.db, await _watched(office, release, moves), plan)
    return Status(release, percent, await _step(office, release, plan, percent), found)


async def plan_of(office: Office, release: Release) -> CanaryPlan:
    """The plan that the workflow's `release` section gives."""
    section = (await in_force(office, release)).plan
    return CanaryPlan(
        steps=tuple(
            # Versions from before this was a limit may name more.
            CanaryStep(
                min(step.percent, MOST_CANARY_PERCENT), timedelta(hours=step.hours), step.tickets
            )
            for step in section.canary_steps
        )
    )


async def control(office: Office, plan: CanaryPlan | None = None) -> list[Release]:
    """Look after all canaries once: roll back what does harm, step what did well; the changed.

    What was done stands in the events, so it goes on after any interruption.
    """
    changed: list[Release] = []
    for release in await releases(office.db):
        if release.state in DECIDING:
            theirs = plan or await plan_of(office, release)
            after = await _look_after(office, release, theirs)
            changed += [] if after is None else [after]
    return changed


async def share_of(office: Office, release: Release) -> int | None:
    """The share in percent that the release decides beside its production; None: it does not."""
    found = (await canaries.newest(office.db, office.keyring)).get(release.workflow)
    if found is None or isinstance(found, ForgedCanary):
        return None
    return found.percent if found.release_id == release.release_id else None


async def _look_after(office: Office, release: Release, plan: CanaryPlan) -> Release | None:
    moves = await _moves(office, release)
    percent = await share_of(office, release)
    now = (await records.current(office.db, office.keyring)).get(release.workflow)
    if not percent or not moves or now is None or isinstance(now, records.ForgedRelease):
        return None
    if now.seq != release.base_seq:  # production moved: the canary decides nothing any more
        return None
    found = await guards.look(office.db, await _watched(office, release, moves), plan)
    harm = next((guard for guard in found if guard.is_harm), None)
    if harm is not None:
        reason = f"Its rate of {harm.name} is above production's."
        return await stop(office, release.release_id, actor=SYSTEM, reason=reason, guard=harm)
    if release.state is not State.CANARY:
        return None
    return await _step_on(office, release, plan, percent, moves[-1])


async def _step_on(
    office: Office, release: Release, plan: CanaryPlan, percent: int, last: Event
) -> Release | None:
    """The next step, when this one was long enough and saw enough."""
    if not (await _step(office, release, plan, percent)).is_over:
        return None
    if plan.following(percent) is None:
        async with office.lane.unit() as unit:
            await records.lock(unit, release.workflow)
            await happen(unit, release.subject, Kind.CANARY_FINISHED, actor=SYSTEM)
        return await get(office.db, release.release_id)
    try:
        # By whoever answers for the canary: the approval must be somebody else's than theirs.
        return await step(office, release.release_id, actor=last.actor, plan=plan, is_planned=True)
    except NotApproved as error:
        return await hold(office, release.release_id, actor=SYSTEM, reason=error.message)


def _check_share(percent: int, most: int) -> None:
    """Raises `NoFurtherStep` for what is no canary's share, `StepSkipped` for too large a one."""
    if not 1 <= percent <= MOST_CANARY_PERCENT:
        raise NoFurtherStep(hint=_THROUGH, percent=percent)
    if percent > most:
        raise StepSkipped(
            hint=f"At most {most} %: the next step of `release.canary_steps` in production.",
            percent=percent,
            most=most,
        )


def _refuse(step: Step) -> NoReturn:
    raise StepNotOver(
        f"The step is not over: {step.hours_left:.1f} hours and {step.tickets_left:,} tickets are "
        "left.",
        hint="It goes on by itself then. To step it now, say why: `--early REASON`.",
        hours_left=round(step.hours_left, 3),
        tickets_left=step.tickets_left,
    )


async def _decide_share(
    unit: Unit,
    office: Office,
    release: Release,
    percent: int,
    kind: Kind,
    *,
    author: str,
    detail: Mapping[str, object] | None = None,
) -> Canary:
    found = (await canaries.newest(office.db, office.keyring)).get(release.workflow)
    if isinstance(found, Canary) and found.percent and found.release_id != release.release_id:
        raise AnotherCanary(
            hint=f"Stop it first: `tiebreak release canary stop {found.release_id}`.",
            release=str(found.release_id),
        )
    stage = Stage.PROMOTION if percent == WHOLE else Stage.CANARY
    approval = await standing(unit, office.keyring, release.release_id, stage, but=author)
    parts = await office.library.parts(release.policy_hash)
    share = Share(
        release.workflow,
        release.release_id,
        release.policy_hash,
        parts.bundle_digest,
        release.base_seq,
        percent,
    )
    canary = await canaries.append(unit, office.keyring, share, author=author)
    told = {**(detail or {}), "percent": percent, "approver": approval.approver}
    await happen(unit, release.subject, kind, actor=author, detail=told)
    return canary


async def _moves(office: Office, release: Release) -> list[Event]:
    """The steps since the canary was last started."""
    told = await events_of(office.db, release.release_id)
    starts = [i for i, event in enumerate(told) if event.kind is Kind.CANARY_STARTED]
    return [event for event in told[starts[-1] :] if event.kind in MOVES] if starts else []


async def _step(office: Office, release: Release, plan: CanaryPlan, percent: int) -> Step:
    """How far it is since it came to its share, whoever held it meanwhile."""
    moves = await _moves(office, release)
    if not moves:
        return Step()
    same = takewhile(lambda e: e.detail["percent"] == moves[-1].detail["percent"], reversed(moves))
    since = list(same)[-1].at
    tickets = await _tickets(office, release, since)
    if not percent or release.state is State.READY:
        return Step(since, tickets)
    asked = plan.steps[max(plan.step_of(percent), 0)]
    left = asked.at_least - (datetime.now(UTC) - since)
    hours = max(left.total_seconds(), 0) / 3600
    return Step(since, tickets, hours, max(asked.tickets - tickets, 0))


async def _watched(office: Office, release: Release, moves: list[Event]) -> Watched:
    now = (await records.current(office.db, office.keyring)).get(release.workflow)
    assert isinstance(now, records.ReleaseRecord)
    recipe = await office.library.recipe(await office.library.parts(release.policy_hash))
    return Watched(
        recipe.workflow, release.release_id, release.policy_hash, now.policy_hash, moves[0].at
    )


async def _tickets(office: Office, release: Release, since: datetime) -> int:
    async with office.db.connection() as conn:
        return await conn.fetchval(_TICKETS, release.workflow, since, release.policy_hash)


_THROUGH = (
    f"A canary's share is 1 to {MOST_CANARY_PERCENT} percent; {WHOLE} when it went through its "
    "steps and is approved for promotion."
)
_TICKETS = """
    SELECT count(*) FROM decisions
    WHERE workflow = $1 AND as_of > $2 AND policy_hash = $3 AND ordinal = 1
"""
