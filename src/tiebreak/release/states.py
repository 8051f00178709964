"""The states of a release: what may happen to it when, and what becomes of it then.

The database refuses events by the same table (`release_transitions`, migration 0008).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tiebreak.errors import Conflict


class NotInThisState(Conflict):
    """This cannot happen to a release in its state."""

    code = "not_in_this_state"


class State(StrEnum):
    """Where a release stands."""

    NEW = "new"  # before its first event
    DRAFT = "draft"
    SHADOW = "shadow"
    STOPPED = "stopped"  # out of shadow, or its canary rolled back
    QUARANTINED = "quarantined"
    CANARY = "canary"
    HELD = "held"  # a canary that does not step on
    READY = "ready"  # its canary went through
    PRODUCTION = "production"
    RETIRED = "retired"  # was in production
    WITHDRAWN = "withdrawn"
    VOIDED = "voided"  # production moved; a later release took its place


class Kind(StrEnum):
    """What happens to a release."""

    PROPOSED = "proposed"
    SHADOW_STARTED = "shadow_started"
    SHADOW_STOPPED = "shadow_stopped"
    QUARANTINED = "quarantined"
    CANARY_STARTED = "canary_started"
    CANARY_STEP = "canary_step"
    CANARY_HELD = "canary_held"
    CANARY_ROLLED_BACK = "canary_rolled_back"
    CANARY_FINISHED = "canary_finished"
    CANARY_SWITCHED = "canary_switched"  # it decides all tickets, and production stays ready
    GATED = "gated"
    APPROVED = "approved"
    PROMOTED = "promoted"
    WITHDRAWN = "withdrawn"
    VOIDED = "voided"
    RETIRED = "retired"


class Stage(StrEnum):
    """What gates and approvals are about."""

    CANARY = "canary"
    PROMOTION = "promotion"


@dataclass(frozen=True, slots=True)
class Transition:
    """In which states something may happen, and the state after it; None: the state stays."""

    allowed: frozenset[State]
    becomes: State | None


def _from(*states: State, to: State | None) -> Transition:
    return Transition(frozenset(states), to)


_TRIED = (State.SHADOW, State.CANARY, State.HELD, State.READY)

OPEN: Final = frozenset({*_TRIED, State.DRAFT, State.STOPPED, State.QUARANTINED})
"""The states of a release that may still reach production."""

VOIDING: Final = frozenset({Kind.QUARANTINED, Kind.SHADOW_STOPPED, Kind.CANARY_ROLLED_BACK})
"""What the gates said, and approvals of it, do not outlive this (`release_evidence`, 0007)."""

TRANSITIONS: Final[Mapping[Kind, Transition]] = {
    Kind.PROPOSED: _from(State.NEW, to=State.DRAFT),
    Kind.SHADOW_STARTED: _from(State.DRAFT, State.STOPPED, State.QUARANTINED, to=State.SHADOW),
    Kind.SHADOW_STOPPED: _from(State.SHADOW, to=State.STOPPED),
    Kind.QUARANTINED: _from(*_TRIED, to=State.QUARANTINED),
    Kind.CANARY_STARTED: _from(State.SHADOW, to=State.CANARY),
    Kind.CANARY_STEP: _from(State.CANARY, State.HELD, to=State.CANARY),
    Kind.CANARY_HELD: _from(State.CANARY, to=State.HELD),
    Kind.CANARY_ROLLED_BACK: _from(State.CANARY, State.HELD, State.READY, to=State.STOPPED),
    Kind.CANARY_FINISHED: _from(State.CANARY, State.HELD, to=State.READY),
    Kind.CANARY_SWITCHED: _from(State.READY, to=None),
    Kind.GATED: _from(*_TRIED, to=None),
    Kind.APPROVED: _from(*_TRIED, to=None),
    # From `retired` by a rollback or a demotion to it; by a promotion from the other two alone.
    Kind.PROMOTED: _from(State.SHADOW, State.READY, State.RETIRED, to=State.PRODUCTION),
    Kind.WITHDRAWN: _from(*OPEN, to=State.WITHDRAWN),
    Kind.VOIDED: _from(*OPEN, to=State.VOIDED),
    Kind.RETIRED: _from(State.PRODUCTION, to=State.RETIRED),
}


def after(state: State, kind: Kind) -> State:
    """The state after this happened. Raises `NotInThisState`."""
    transition = TRANSITIONS[kind]
    if state not in transition.allowed:
        raise NotInThisState(
            f"A release in the state {state} cannot be {kind}.",
            hint=f"That is possible in: {', '.join(sorted(transition.allowed))}.",
            state=state,
            event=kind,
        )
    return transition.becomes or state


def state_of(kinds: Iterable[Kind]) -> State:
    """The state after all that happened, oldest first. Raises `NotInThisState`."""
    state = State.NEW
    for kind in kinds:
        state = after(state, kind)
    return state
