"""Soundness: whether what a policy that is not in production says can be decisions at all."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiebreak.core.arbitrate import ModelVerdict
from tiebreak.core.bands import Band
from tiebreak.core.decide import Decisions


class Flaw(StrEnum):
    """Why something is no decision."""

    WRONG_COUNT = "wrong_count"
    BAND_OUT_OF_RANGE = "band_out_of_range"
    NOT_FINITE = "not_finite"
    SCORE_OUT_OF_RANGE = "score_out_of_range"
    FLOOR_VIOLATED = "floor_violated"


def flaw(decisions: Decisions, count: int) -> Flaw | None:
    """What is wrong with decisions on `count` tickets; None when they are sound."""
    verdict, rules, model = decisions.arbitration, decisions.rules, decisions.model
    bands = [verdict.band, rules.band, rules.hard_floor]
    arrays: list[NDArray[Any]] = [*bands, verdict.route, verdict.is_tie]
    if model is not None:
        bands.append(model.band)
        arrays += [model.band, model.margin, model.score, model.contributions]
    if any(len(array) != count for array in arrays):
        return Flaw.WRONG_COUNT
    if any(((band < Band.LOW) | (band > Band.CRITICAL)).any() for band in bands):
        return Flaw.BAND_OUT_OF_RANGE
    if (verdict.band < rules.hard_floor).any():
        return Flaw.FLOOR_VIOLATED
    return None if model is None else _flaw_of_model(model)


def _flaw_of_model(model: ModelVerdict) -> Flaw | None:
    if not all(np.isfinite(a).all() for a in (model.margin, model.score, model.contributions)):
        return Flaw.NOT_FINITE
    if ((model.score < 0) | (model.score > 1)).any():
        return Flaw.SCORE_OUT_OF_RANGE
    return None
