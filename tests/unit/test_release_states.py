"""The states of a release: what may follow what."""

from __future__ import annotations

import pytest

from tiebreak.release.states import OPEN, TRANSITIONS, Kind, NotInThisState, State, after, state_of

WAY = (
    Kind.PROPOSED,
    Kind.SHADOW_STARTED,
    Kind.GATED,
    Kind.APPROVED,
    Kind.CANARY_STARTED,
    Kind.CANARY_STEP,
    Kind.CANARY_HELD,
    Kind.CANARY_STEP,
    Kind.CANARY_FINISHED,
    Kind.GATED,
    Kind.APPROVED,
    Kind.PROMOTED,
    Kind.RETIRED,
)


def test_the_whole_way_leads_through_production() -> None:
    states = [state_of(WAY[: i + 1]) for i in range(len(WAY))]
    assert states == [
        *("draft", "shadow", "shadow", "shadow", "canary", "canary", "held", "canary", "ready"),
        *("ready", "ready", "production", "retired"),
    ]


def test_every_kind_has_its_transition() -> None:
    assert set(TRANSITIONS) == set(Kind)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("state", State)
def test_what_is_not_in_the_table_is_refused(state: State, kind: Kind) -> None:
    transition = TRANSITIONS[kind]
    if state in transition.allowed:
        assert after(state, kind) == (transition.becomes or state)
    else:
        with pytest.raises(NotInThisState) as caught:
            after(state, kind)
        assert all(allowed in caught.value.hint for allowed in transition.allowed)


def test_nothing_reaches_production_but_out_of_shadow_or_canary_or_back_again() -> None:
    before = {s for k, t in TRANSITIONS.items() if t.becomes is State.PRODUCTION for s in t.allowed}
    assert before == {State.SHADOW, State.READY, State.RETIRED}
    assert {s for s in State if s not in OPEN} == {
        *(State.NEW, State.PRODUCTION, State.RETIRED, State.WITHDRAWN, State.VOIDED)
    }


def test_what_ended_does_not_begin_again() -> None:
    for ended in (State.WITHDRAWN, State.VOIDED):
        assert not [kind for kind, t in TRANSITIONS.items() if ended in t.allowed]
