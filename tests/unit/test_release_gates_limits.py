"""Gates as pure functions: what each says of evidence at, below and above its limit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tiebreak.core.policy import Policy
from tiebreak.core.release_plan import (
    BacktestLimits,
    CalibrationLimits,
    CanaryStep,
    ErrorLimits,
    FlipLimits,
    Gates,
    LatencyLimits,
    ReleasePlan,
    ReplayLimits,
    ReviewedFlipLimits,
    VolumeLimits,
)
from tiebreak.core.workflow import Field, FieldType, Label, RuleSet, Workflow
from tiebreak.release import gates_origin, gates_quality, gates_shadow
from tiebreak.release.gate_columns import DAY_MICROSECONDS, Scored
from tiebreak.release.gate_results import Again, CanaryRun, Coverage, Gathered, Verdict
from tiebreak.release.gate_statistics import compare
from tiebreak.release.gate_texts import label_problem
from tiebreak.release.gates import ALWAYS, LIMITED, judge, limits_of
from tiebreak.release.states import Stage

NOTHING = Again(0, 0, 0, None)
TYPES = [
    ("as_of", "i8"), ("ticket", "i8"), ("score", "f8"), ("band", "i2"), ("floor", "i2"),
    ("route", "i2"), ("seconds", "f8"), ("score_before", "f8"), ("points_before", "f8"),
    ("band_before", "i2"), ("floor_before", "i2"), ("route_before", "i2"), ("is_live", "i2"),
]  # fmt: skip
WORKFLOW = Workflow(
    name="w",
    title="W",
    time="t",
    fields=(Field(name="t", type=FieldType.TIMESTAMP, required=True),),
)


def scored(count: int, **columns: Any) -> Scored:
    table = np.zeros(count, dtype=TYPES)
    table["as_of"] = np.arange(count) * DAY_MICROSECONDS
    table["ticket"] = np.arange(count)
    for name, values in columns.items():
        table[name] = values
    return Scored(table, np.full(count, -1, dtype=np.int8))


def gathered(count: int = 10, plan: ReleasePlan | None = None, **columns: Any) -> Gathered:
    """Evidence of a candidate by rules alone on tickets of a day each."""
    tickets = scored(count, **columns)
    nothing = np.zeros(count)
    return Gathered(
        stage=Stage.PROMOTION,
        plan=plan or ReleasePlan(),
        seed=1,
        scored=tickets,
        slices={},
        coverage=Coverage(None, None, 0, 1.0, None),
        candidate=Policy.build(WORKFLOW, RuleSet()),
        model_problem="",
        production=None,
        base_seq=1,
        production_seq=1,
        scores_again=Again(count, 0, 0, 0.001),
        decisions_again=NOTHING,
        missing=None,
        backtest=None,
        backtest_problem="There is none.",
        canary=None,
        reviewed=(0, 0),
        label_problem="",
        compared=None,
        ranking=(nothing, nothing),
        usable=np.zeros(count, dtype=np.bool_),
    )


def modelled() -> Policy:
    """A policy that names a model; nobody asks it."""
    policy = Policy.build(WORKFLOW, RuleSet())
    return replace(policy, parts=replace(policy.parts, bundle_digest="0" * 64))


@pytest.mark.parametrize(
    ("precedence", "absent", "told"),
    [
        (("outcome",), "negative", ""),
        (("outcome", "review"), "unknown", ""),
        (("outcome", "adjudicated"), "negative", "negative only where nobody reviewed it"),
        (("adjudicated", "outcome"), "unknown", "in the order adjudicated, outcome"),
        (("review",), "unknown", "do not read reviews yet"),
    ],
)
def test_where_reviews_may_speak_labels_of_outcomes_alone_are_no_evidence(
    precedence: Any, absent: Any, told: str
) -> None:
    label = Label(name="bad", sql="x", maturity_days=1, precedence=precedence, absent=absent)
    problem = label_problem(label)
    assert (told in problem) if told else problem == ""
    found = {r.gate: r for r in judge(replace(gathered(), label_problem=problem))}
    if problem:
        for gate in ("labels", "pr_auc", "auc", "recall"):
            assert found[gate].verdict is Verdict.NO_EVIDENCE
            assert found[gate].sentence == problem
            assert "label.precedence" in found[gate].hint


def test_every_gate_is_either_limited_or_always_there() -> None:
    assert LIMITED.keys() == Gates.model_fields.keys()
    assert [gate.__name__ for gate in ALWAYS] == ["current", "signature", "floors", "canary"]
    left = Gates(shift=None, leakage=None)
    assert LIMITED.keys() - limits_of(left).keys() == {"shift", "leakage"}
    found = judge(gathered(plan=ReleasePlan(gates=left)))
    assert len(found) == len(ALWAYS) + len(LIMITED) - 2
    assert len({result.gate for result in found}) == len(found)


@pytest.mark.parametrize(
    ("count", "days", "passes"), [(10, 9, True), (11, 9, False), (10, 10, False)]
)
def test_volume_needs_tickets_and_days(count: int, days: float, passes: bool) -> None:
    found = gates_shadow.volume(gathered(10), VolumeLimits(tickets=count, days=days))
    assert (found.verdict is Verdict.PASS) is passes
    assert passes or found.verdict is Verdict.NO_EVIDENCE


def test_flips_are_limited_and_falls_below_high_more_so() -> None:
    few = gathered(band=[2] * 9 + [3], band_before=[2] * 10)
    assert gates_shadow.flips(few, FlipLimits(share=0.1, lowered=0)).verdict is Verdict.PASS
    assert gates_shadow.flips(few, FlipLimits(share=0.09, lowered=0)).verdict is Verdict.FAIL
    fallen = gathered(band=[2] * 9 + [1], band_before=[2] * 10)
    assert gates_shadow.flips(fallen, FlipLimits(share=0.5, lowered=0.05)).verdict is Verdict.FAIL
    assert gates_shadow.flips(gathered(0), FlipLimits()).verdict is Verdict.NO_EVIDENCE


@pytest.mark.parametrize(
    ("judged", "count", "verdict"),
    [
        ((0, 0), 0, Verdict.PASS),
        ((4, 4), 5, Verdict.NO_EVIDENCE),
        ((6, 3), 5, Verdict.PASS),
        ((6, 2), 5, Verdict.FAIL),
    ],
)
def test_reviewed_flips(judged: tuple[int, int], count: int, verdict: Verdict) -> None:
    evidence = replace(gathered(), reviewed=judged)
    found = gates_shadow.reviewed_flips(evidence, ReviewedFlipLimits(count=count, agreeing=0.5))
    assert found.verdict is verdict


def test_a_floor_is_that_of_either_policy() -> None:
    for floors in ({"floor": 2}, {"floor_before": 2}):
        found = gates_shadow.floors(gathered(band=[2] * 9 + [1], **floors))
        assert (found.verdict, found.figure) == (Verdict.FAIL, 1)
    assert gates_shadow.floors(gathered(band=2, floor=2)).verdict is Verdict.PASS


def test_what_is_left_out_or_in_quarantine_are_errors() -> None:
    limits = ErrorLimits(share=0.1)
    for left, verdict in ((1, Verdict.PASS), (2, Verdict.FAIL)):
        evidence = gathered(10)
        evidence = replace(evidence, coverage=replace(evidence.coverage, unscored=left))
        assert gates_shadow.errors(evidence, limits).verdict is verdict
    evidence = replace(evidence, coverage=replace(evidence.coverage, quarantine="Too slow."))
    assert "Too slow." in gates_shadow.errors(evidence, limits).sentence


def test_latency_is_the_slow_end() -> None:
    evidence = gathered(100, seconds=[0.01] * 94 + [1.0] * 6)
    assert gates_shadow.latency(evidence, LatencyLimits(seconds=0.1)).verdict is Verdict.FAIL
    evidence = gathered(100, seconds=[0.01] * 98 + [1.0] * 2)
    assert gates_shadow.latency(evidence, LatencyLimits(seconds=0.1)).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("score", "before", "verdict"),
    [
        (0.24, 0.9, Verdict.PASS),
        (0.4, 0.2, Verdict.FAIL),
        (0.4, 0.43, Verdict.FAIL),
        (0.4, 0.6, Verdict.PASS),  # it mends what is in production
    ],
)
def test_calibration_is_near_enough_or_mends(score: float, before: float, verdict: Verdict) -> None:
    truth = np.arange(1_000) % 5 == 0
    evidence = gathered(1_000, score=score, score_before=before)
    tickets, columns = evidence.scored, (evidence.scored["score"], evidence.scored["score_before"])
    evidence = replace(
        evidence,
        scored=replace(tickets, truth=truth.astype(np.int8)),
        candidate=modelled(),
        production=modelled(),
        usable=np.ones(1_000, dtype=np.bool_),
        compared=compare(*columns, truth, share=0.1, seed=1),
    )
    assert gates_quality.calibration(evidence, CalibrationLimits(error=0.05)).verdict is verdict


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(0.0006, Verdict.PASS), (0.004, Verdict.PASS), (0.006, Verdict.FAIL)]
)
def test_times_of_production_count_where_they_are_noticed(seconds: float, verdict: Verdict) -> None:
    evidence = replace(
        gathered(),
        production=modelled(),
        scores_again=Again(10, 0, 0, seconds),
        decisions_again=Again(10, 0, 0, 0.001 if seconds > 0.001 else 0.0001),
    )
    assert gates_shadow.latency(evidence, LatencyLimits(times=5)).verdict is verdict


def test_production_that_moved_fails() -> None:
    assert gates_origin.current(replace(gathered(), production_seq=2)).verdict is Verdict.FAIL


STEPS = (CanaryStep(percent=10, hours=1, tickets=100),)


@pytest.mark.parametrize(
    ("asked", "stage", "ran", "verdict"),
    [
        ("optional", Stage.PROMOTION, None, Verdict.PASS),
        ("required", Stage.PROMOTION, None, Verdict.NO_EVIDENCE),
        ("required", Stage.CANARY, None, Verdict.PASS),
        ("required", Stage.PROMOTION, CanaryRun(True, 100, 0, 0), Verdict.PASS),
        ("required", Stage.PROMOTION, CanaryRun(True, 99, 0, 0), Verdict.NO_EVIDENCE),
        ("optional", Stage.PROMOTION, CanaryRun(False, 100, 0, 0), Verdict.NO_EVIDENCE),
        ("required", Stage.PROMOTION, CanaryRun(True, 100, 1, 0), Verdict.FAIL),
        ("required", Stage.PROMOTION, CanaryRun(True, 100, 0, 1), Verdict.FAIL),
    ],
)
def test_the_canary(asked: Any, stage: Stage, ran: CanaryRun | None, verdict: Verdict) -> None:
    plan = ReleasePlan(canary=asked, canary_steps=STEPS)
    found = gates_origin.canary(replace(gathered(plan=plan), stage=stage, canary=ran))
    assert found.verdict is verdict


def test_steps_cut_short_are_told() -> None:
    ran = CanaryRun(True, 100, 0, 0, early=("quiet night", "few tickets"))
    told = gates_origin.canary(replace(gathered(), stage=Stage.PROMOTION, canary=ran)).sentence
    assert told.endswith("Steps cut short, because: quiet night; few tickets.")


def test_what_came_of_an_earlier_quarantine_is_told() -> None:
    evidence = gathered(10)
    coverage = replace(evidence.coverage, earlier=("Too slow.",), share=0.5)
    found = gates_shadow.errors(replace(evidence, coverage=coverage), ErrorLimits())
    assert found.verdict is Verdict.PASS
    assert "It was in quarantine before: Too slow." in found.sentence
    assert "Its share of 50.00% selects them." in found.sentence


def test_erased_tickets_are_told_where_there_are_any() -> None:
    few = replace(gathered(), scores_again=Again(3, 0, 0, 0.001))
    assert "erased" not in gates_origin.replay(few, ReplayLimits()).hint
    gone = replace(few, scores_again=Again(3, 0, 0, 0.001, erased=7))
    assert "7 of the sampled tickets are erased" in gates_origin.replay(gone, ReplayLimits()).hint


def test_costs_of_missed_and_needless_are_weighed_together() -> None:
    figures = {
        "tickets": 5_000,
        "flips": 10,
        "missed": {"before": 100, "after": 108},
        "needless_reviews": {"before": 1_000, "after": 900},
        "reviewer_hours": {"before": 10.0, "after": 9.0},
    }
    window = {"since": "2026-01-01T00:00:00+00:00", "until": "2026-03-01T00:00:00+00:00"}
    evidence = replace(gathered(), backtest={"figures": figures, "window": window})
    limits = BacktestLimits(cost=0.05)
    assert gates_origin.backtest(evidence, limits).verdict is Verdict.PASS
    for missed, verdict in ((10, Verdict.PASS), (1_000, Verdict.FAIL)):
        plan = ReleasePlan(missed_cost=missed, needless_cost=1)
        found = gates_origin.backtest(replace(evidence, plan=plan), limits)
        assert found.verdict is verdict
