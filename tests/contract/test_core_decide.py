"""What every way into `decide` relies on: a row's bits depend on the row alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from tests import sample_models

from tiebreak.core.decide import decide_stored
from tiebreak.core.model import Model
from tiebreak.core.policy import ModelMismatch, Policy
from tiebreak.core.stored import StoredTicket, columns
from tiebreak.core.tickets import Schema
from tiebreak.core.workflow import Entity, HistoryFeature, Knobs, RowFeature, Rule, RuleSet
from tiebreak.decisions.rows import Row, decision_rows
from tiebreak.training.train import train

WORKFLOW = sample_models.WORKFLOW.model_copy(
    update={
        "entities": (Entity(name="town", key=("city",)),),
        "features": (
            *sample_models.WORKFLOW.features,
            HistoryFeature(name="town_tickets", entity="town", aggregate="count", window_days=30),
            HistoryFeature(
                name="town_damage_rate",
                entity="town",
                aggregate="rate",
                on="outcome",
                where="damaged",
            ),
            HistoryFeature(name="town_last_seen", entity="town", aggregate="time_since"),
            HistoryFeature(
                name="town_depth", entity="town", aggregate="sum", value="depth", scale=100
            ),
            HistoryFeature(
                name="town_mean_depth", entity="town", aggregate="mean", value="depth", scale=100
            ),
            RowFeature(name="depth_by_members", sql="depth / members"),
        ),
        "knobs": Knobs(uncertain_low=0.2, uncertain_high=0.6, audit_share=0.1),
    }
)
RULES = RuleSet(
    rules=(
        Rule(
            id="deep-boring",
            when="method = 'boring' AND depth > 1",
            effect="floor",
            band="high",
            hard=True,
            message="Deep boring.",
        ),
        Rule(id="urgent", when="is_urgent", effect="points", points=30, message="Urgent."),
        Rule(
            id="crowded", when="members / 0 > 1", effect="escalate", message="Never: divides by 0."
        ),
        Rule(
            id="shallow",
            when="depth < 0.3",
            effect="ceiling",
            band="medium",
            message="Shallow.",
        ),
    )
)
DECIDED_AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def policy() -> Policy:
    snapshot = sample_models.snapshot()
    result = train(snapshot, sample_models.parameters(), lambda *_: None, fingerprint="test")
    return Policy.build(WORKFLOW, RULES, model=Model.load(result.parts, "digest"))


def tickets(policy: Policy, count: int = 150) -> list[StoredTicket]:
    frame = sample_models.frame_of(count, seed=5)
    random = np.random.default_rng(6)
    context_columns = policy.features_plan.history.context_columns
    return [
        StoredTicket(
            workflow="sample",
            ticket_id=f"t{i}",
            revision=1,
            as_of=DECIDED_AT - timedelta(minutes=i),
            ticket_hash=int(random.integers(0, 2**63 - 1)),
            values={
                "depth": row["depth_m"],
                "members": row["member_count"],
                "is_urgent": row["urgent"],
                "method": row["dig_method"],
                "city": row["town"],
                "remarks": row["said"],
            },
            context={name: int(random.integers(0, 9)) for name in context_columns if i % 3},
        )
        for i, row in enumerate(frame.to_dicts())
    ]


def decided(policy: Policy, batch: list[StoredTicket]) -> list[Row]:
    schema = Schema(policy.workflow.fields)
    return decision_rows(
        batch,
        decide_stored(batch, schema, policy),
        ordinals=[1] * len(batch),
        decided_at=DECIDED_AT,
        fingerprint="test",
    )


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_batch_size_and_order_change_no_bit(policy: Policy, size: int) -> None:
    batch = tickets(policy)
    whole = {row["ticket_id"]: row for row in decided(policy, batch)}
    shuffled = [batch[i] for i in np.random.default_rng(1).permutation(len(batch))]
    for start in range(0, len(shuffled), size):
        for row in decided(policy, shuffled[start : start + size]):
            assert row == whole[row["ticket_id"]]


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_batch_size_changes_no_bit_of_a_feature(policy: Policy, size: int) -> None:
    batch, schema, plan = tickets(policy), Schema(WORKFLOW.fields), policy.features_plan
    whole = plan.columns(*columns(batch, schema, plan.history.context_columns))[0]
    for start in range(0, len(batch), size):
        part = batch[start : start + size]
        frame = plan.columns(*columns(part, schema, plan.history.context_columns))[0]
        assert frame.equals(whole[start : start + size], null_equal=True)


def test_the_sample_exercises_every_layer(policy: Policy) -> None:
    rows = decided(policy, tickets(policy))
    assert {row["band"] for row in rows} == {0, 1, 2, 3}
    assert {"auto", "review"} == {row["route"] for row in rows}
    fired = "".join(row["fired"] for row in rows)
    assert all(rule in fired for rule in ("deep-boring", "urgent", "shallow"))
    assert any('"division_by_zero"' in row["errors"] for row in rows)
    assert len({row["route_reason"] for row in rows}) >= 4


def test_contributions_and_base_add_up_to_the_margin(policy: Policy) -> None:
    for row in decided(policy, tickets(policy)):
        total = np.frombuffer(row["contributions"], dtype="<f8").sum() + row["base_value"]
        assert total == pytest.approx(row["margin"], abs=1e-5)


def test_no_hard_floor_is_lowered(policy: Policy) -> None:
    floored = [row for row in decided(policy, tickets(policy)) if row["hard_floor"] is not None]
    assert floored
    assert all(row["band"] >= row["hard_floor"] for row in floored)


def test_without_its_model_the_same_policy_decides_by_rules_and_says_so(policy: Policy) -> None:
    rows = decided(policy.rules_alone(), tickets(policy))
    assert {row["model_status"] for row in rows} == {"failed"}
    assert {row["policy_hash"] for row in rows} == {policy.hash}
    assert all(row["band"] == row["rules_band"] and row["margin"] is None for row in rows)


def test_a_model_trained_on_other_features_is_refused(policy: Policy) -> None:
    changed = WORKFLOW.model_copy(
        update={"features": (RowFeature(name="depth_m", sql="depth * 2"), *WORKFLOW.features[1:])}
    )
    with pytest.raises(ModelMismatch, match="depth_m"):
        Policy.build(changed, RULES, model=policy.model)


def test_every_component_changes_the_hash(policy: Policy) -> None:
    knobs = WORKFLOW.model_copy(update={"knobs": Knobs(audit_share=0.2)})
    hashes = {
        policy.hash,
        Policy.build(knobs, RULES, model=policy.model).hash,
        Policy.build(WORKFLOW, RuleSet(rules=RULES.rules[:1]), model=policy.model).hash,
        Policy.build(WORKFLOW, RULES).hash,
        Policy.build(WORKFLOW, RULES, model=policy.model, history_generation=2).hash,
        Policy.build(WORKFLOW, RULES, model=policy.model, tiebreak_version="t1").hash,
    }
    assert len(hashes) == 6
