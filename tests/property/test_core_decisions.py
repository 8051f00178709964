"""Deciding any tickets by any rules: bits, contributions, and hard floors."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from tests.contract.test_core_decide import DECIDED_AT, WORKFLOW, decided
from tests.sample_models import METHODS, WORDS, parameters, snapshot

from tiebreak.core.bands import Band
from tiebreak.core.features import FeaturePlan
from tiebreak.core.model import Model
from tiebreak.core.policy import Policy
from tiebreak.core.stored import StoredTicket
from tiebreak.core.workflow import Rule, RuleSet
from tiebreak.training.train import train

BANDS = tuple(band.label for band in Band)
CONDITIONS = (
    "TRUE",
    "is_urgent",
    "depth > 1",
    "members / (members - 3) > 1",
    "method = 'boring' OR contains(remarks, 'gas')",
    "town_tickets > 5",
    "NOT is_urgent",
)

values = st.fixed_dictionaries(
    {},
    optional={
        "depth": st.floats(-1e300, 1e300) | st.floats(0, 5),
        "members": st.integers(-(2**63), 2**63 - 1) | st.integers(0, 12),
        "is_urgent": st.booleans(),
        "method": st.sampled_from(METHODS) | st.text(max_size=5),
        "city": st.sampled_from(("town 1", "town 2")) | st.text(max_size=5),
        "remarks": st.lists(st.sampled_from(WORDS)).map(" ".join) | st.text(max_size=30),
    },
)
context = st.dictionaries(
    st.sampled_from(FeaturePlan(WORKFLOW).history.context_columns), st.integers(0, 10**6)
)


@st.composite
def batches(draw: st.DrawFn) -> list[StoredTicket]:
    """One to forty tickets with anything missing."""
    return [
        StoredTicket(
            workflow="sample",
            ticket_id=f"t{number}",
            revision=1,
            as_of=DECIDED_AT,
            ticket_hash=draw(st.integers(0, 2**63 - 1)),
            values=draw(values),
            context=draw(context),
        )
        for number in range(draw(st.integers(1, 40)))
    ]


@st.composite
def rule_sets(draw: st.DrawFn) -> RuleSet:
    """Up to six rules of every effect, hard and soft, that contradict each other."""

    def rule(number: int) -> Rule:
        effect = draw(st.sampled_from(("floor", "ceiling", "points", "escalate")))
        more: dict[str, Any] = {}
        if effect in ("floor", "ceiling"):
            more = {"band": draw(st.sampled_from(BANDS)), "hard": draw(st.booleans())}
        if effect == "points":
            more = {"points": draw(st.integers(-100, 100))}
        when = draw(st.sampled_from(CONDITIONS))
        return Rule(id=f"r{number}", when=when, effect=effect, message="A rule.", **more)

    return RuleSet(rules=tuple(rule(number) for number in range(draw(st.integers(0, 6)))))


@pytest.fixture(scope="module")
def model() -> Model:
    result = train(snapshot(), parameters(), lambda *_: None, fingerprint="test")
    return Model.load(result.parts, "digest")


@settings(max_examples=40, deadline=None)
@given(rule_sets(), batches(), st.data())
def test_any_tickets_by_any_rules(
    model: Model, rules: RuleSet, batch: list[StoredTicket], data: st.DataObject
) -> None:
    tiebreak = data.draw(st.sampled_from((None, "t1")), "tie-break")
    policy = Policy.build(WORKFLOW, rules, model=model, tiebreak_version=tiebreak)
    rows = decided(policy, batch)
    floors = {rule.id: Band.of(rule.band) for rule in rules.rules if _is_hard_floor(rule)}
    for row in rows:
        total = np.frombuffer(row["contributions"], dtype="<f8").sum() + row["base_value"]
        assert total == pytest.approx(row["margin"], abs=1e-5, rel=0)
        fired = {reason["rule"] for reason in orjson.loads(row["fired"])}
        assert all(row["band"] >= floor for name, floor in floors.items() if name in fired)

    by_ticket = {row["ticket_id"]: row for row in rows}
    rest = data.draw(st.permutations(batch), "order")
    while rest:
        size = data.draw(st.integers(1, len(rest)), "size")
        part, rest = rest[:size], rest[size:]
        for row in decided(policy, part):
            assert row == by_ticket[row["ticket_id"]]


def _is_hard_floor(rule: Rule) -> bool:
    return rule.effect == "floor" and rule.hard
