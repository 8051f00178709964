"""What a caller is told of a decision, the same at first and at every later reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
import polars as pl

from tiebreak.core.bands import Band
from tiebreak.core.matrix import FeatureSpec
from tiebreak.core.policy import Policy
from tiebreak.core.stored import StoredTicket, columns
from tiebreak.core.tickets import Schema
from tiebreak.decisions.rows import contributions_of

Answer = dict[str, Any]
TOP_CONTRIBUTIONS = 5
TOP_WORDS = 10
_LABELS = {int(band): band.label for band in Band}


def answer(row: Mapping[str, Any], feature_names: Sequence[str] | None) -> Answer:
    """The decision as an answer; `feature_names` of its model, None when they are not at hand."""
    return {
        "decision_id": str(row["decision_id"]),
        "workflow": row["workflow"],
        "ticket_id": row["ticket_id"],
        "revision": row["revision"],
        "ordinal": row["ordinal"],
        "as_of": row["as_of"],
        "decided_at": row["decided_at"],
        "band": _label(row["band"]),
        "route": row["route"],
        "route_reason": row["route_reason"],
        "is_tie": row["is_tie"],
        "review_probability": row["review_probability"],
        "rules": {
            "band": _label(row["rules_band"]),
            "points": row["rules_points"],
            "hard_floor": _label(row["hard_floor"]),
            "fired": None if row["fired"] is None else orjson.loads(row["fired"]),
        },
        "model": _model(row, feature_names),
        "policy_hash": row["policy_hash"],
        "fingerprint": row["fingerprint"],
        "errors": orjson.loads(row["errors"]),
    }


def _label(band: int | None) -> str | None:
    return None if band is None else _LABELS[band]


def _model(row: Mapping[str, Any], feature_names: Sequence[str] | None) -> Answer:
    verdict: Answer = {"status": row["model_status"]}
    if row["model_status"] != "scored":
        return verdict
    verdict |= {
        "band": _label(row["model_band"]),
        "score": row["score"],
        "margin": row["margin"],
        "base_value": row["base_value"],
    }
    if feature_names is not None:
        contributions = contributions_of(row)
        largest = (-abs(contributions)).argsort(kind="stable")[:TOP_CONTRIBUTIONS]
        verdict["top_contributions"] = [
            {"feature": feature_names[i], "contribution": value}
            for i, value in zip(largest.tolist(), contributions[largest].tolist(), strict=True)
        ]
    return verdict


def explanation(
    row: Mapping[str, Any], ticket: StoredTicket | None, schema: Schema, policy: Policy
) -> Answer:
    """Every feature of a scored decision with its value and its part of the margin.

    Values are computed anew from the stored ticket and context; they are null when the ticket
    was erased (`ticket` None). The contributions are those stored with the decision. The value
    of a text is its score, told with the words that make most of it.
    """
    assert policy.model is not None
    features = policy.model.features
    told: list[Answer] = [{"value": None}] * len(features)
    if ticket is not None:
        plan = policy.features_plan
        given, context = columns([ticket], schema, plan.history.context_columns)
        frame, _ = plan.columns(given, context)
        told = [_value(feature, frame[feature.reads]) for feature in features]
    names = [feature.name for feature in features]
    contributions = contributions_of(row)
    order: list[int] = np.argsort(-np.abs(contributions), kind="stable").tolist()
    return {
        "decision_id": str(row["decision_id"]),
        "unit": "log-odds",
        "base_value": row["base_value"],
        "margin": row["margin"],
        "score": row["score"],
        "contributions": [
            {"feature": names[i], **told[i], "contribution": float(contributions[i])} for i in order
        ],
    }


def _value(feature: FeatureSpec, column: pl.Series) -> Answer:
    """The one value in the column; of a text its score, and its strongest words."""
    value = column[0]
    if feature.text is None or value is None:
        return {"value": value}
    words = [asdict(word) for word in feature.text.parts(value)[:TOP_WORDS]]
    return {"value": float(feature.text.scores(column)[0]), "words": words}
