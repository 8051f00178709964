"""The truth table of arbitration, against a scalar reading of the documented rules."""

from __future__ import annotations

from itertools import product

import numpy as np

from tiebreak.core.arbitrate import ModelVerdict, Route, RouteReason, arbitrate
from tiebreak.core.bands import Band
from tiebreak.core.rules import RulesVerdict
from tiebreak.core.workflow import Knobs

BANDS = range(4)
SHARE = 0.25
BELOW, ABOVE = int(0.25 * 2**63) - 1, int(0.25 * 2**63)


def verdicts(rows: list[tuple[int, int, int, int, bool, float, int]]) -> tuple:
    rules_band, model_band, floor, ceiling, escalates, score, ticket_hash = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    rules = RulesVerdict(
        fired=np.zeros((len(rows), 0), dtype=bool),
        points=np.zeros(len(rows), dtype=np.int64),
        band=rules_band.astype(np.int8),
        hard_floor=floor.astype(np.int8),
        hard_ceiling=ceiling.astype(np.int8),
        escalates=escalates.astype(bool),
        errors=[],
    )
    model = ModelVerdict(
        margin=np.zeros(len(rows)),
        score=score.astype(float),
        band=model_band.astype(np.int8),
        contributions=np.zeros((len(rows), 1)),
        base_value=0.0,
    )
    return rules, model, ticket_hash.astype(np.int64)


def expected(
    row: tuple[int, int, int, int, bool, float, int], knobs: Knobs, *, model: bool, tiebreak: bool
) -> tuple:
    rules_band, model_band, floor, ceiling, escalates, score, ticket_hash = row
    band = max(rules_band, model_band) if model else rules_band
    band = max(min(band, ceiling), floor)
    distance = abs(rules_band - model_band) if model else 0
    in_zone = model and knobs.uncertain_low <= score < knobs.uncertain_high
    review_from = Band.of(knobs.review_from) if knobs.review_from else 99
    if escalates:
        reason = RouteReason.ESCALATED
    elif distance > knobs.agreement_distance:
        reason = RouteReason.DISTANCE
    elif distance > 0 and in_zone:
        reason = RouteReason.UNCERTAIN
    elif band >= review_from:
        reason = RouteReason.HIGH_BAND
    elif ticket_hash < SHARE * 2**63:
        reason = RouteReason.AUDIT_SAMPLE
    else:
        reason = RouteReason.AGREED
    is_tie = reason >= RouteReason.UNCERTAIN
    if is_tie:
        route = Route.TIEBREAK if tiebreak else Route.REVIEW
        probability = 0.0 if tiebreak else 1.0
    elif reason is RouteReason.HIGH_BAND:
        route, probability = Route.REVIEW, 1.0
    else:
        route = Route.REVIEW if reason is RouteReason.AUDIT_SAMPLE else Route.AUTO
        probability = SHARE
    return band, route, reason, is_tie, probability


ROWS = list(
    product(BANDS, BANDS, BANDS, BANDS, (False, True), (0.29, 0.3, 0.49, 0.5), (BELOW, ABOVE))
)


def test_every_combination_follows_the_documented_rules() -> None:
    rules, model, ticket_hash = verdicts(ROWS)
    for distance, review_from, tiebreak, has_model in product(
        (0, 1, 2, 3), (None, "high", "critical"), (False, True), (False, True)
    ):
        knobs = Knobs(
            agreement_distance=distance,
            uncertain_low=0.3,
            uncertain_high=0.5,
            review_from=review_from,
            audit_share=SHARE,
        )
        got = arbitrate(
            rules, model if has_model else None, ticket_hash, knobs, has_tiebreak=tiebreak
        )
        for i, row in enumerate(ROWS):
            want = expected(row, knobs, model=has_model, tiebreak=tiebreak)
            have = (
                got.band[i],
                got.route[i],
                got.reason[i],
                got.is_tie[i],
                got.review_probability[i],
            )
            assert have == want, (row, knobs, has_model, tiebreak)


def test_no_hard_floor_is_lowered_by_anything() -> None:
    rules, model, ticket_hash = verdicts(ROWS)
    for has_model in (False, True):
        got = arbitrate(
            rules, model if has_model else None, ticket_hash, Knobs(), has_tiebreak=False
        )
        assert (got.band >= rules.hard_floor).all()


def test_an_audit_share_of_zero_samples_nobody_and_of_one_everybody() -> None:
    rules, _, ticket_hash = verdicts([(0, 0, 0, 3, False, 0.0, h) for h in (0, 2**63 - 1)])
    none = arbitrate(rules, None, ticket_hash, Knobs(audit_share=0), has_tiebreak=False)
    everybody = arbitrate(rules, None, ticket_hash, Knobs(audit_share=1), has_tiebreak=False)
    assert (none.route == Route.AUTO).all()
    assert (everybody.route == Route.REVIEW).all()
