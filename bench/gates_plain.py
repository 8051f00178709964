"""The figures of the gates as one would write them by hand: pandas, scikit-learn, a bootstrap loop.

One query joins scores, decisions, fields and outcomes; each replicate draws as many rows as there
are, with replacement. No replay, no coverage, no calibration, no shift.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score
from sqlalchemy import create_engine, text

CAPACITY = 0.1


def main() -> None:
    """Answer the question on standard input."""
    asked = json.loads(sys.stdin.read())
    begun = time.monotonic()
    engine = create_engine(asked["url"].replace("postgresql://", "postgresql+psycopg://"))
    names = ("workflow", "candidate", "production")
    with engine.connect() as conn:
        rows = pd.read_sql(text(_QUERY), conn, params={name: asked[name] for name in names})
    rows["truth"] = [json.loads(content)["damage"] for content in rows["outcome"]]
    rows["place"] = [json.loads(content)["place"] for content in rows["content"]]
    read = time.monotonic()
    figures = {"whole": _figures(rows)}
    for place, part in rows.groupby("place"):
        figures[str(place)] = _areas(part)
    figured = time.monotonic()
    random = np.random.default_rng(1)
    for _ in range(asked["looped"]):
        _figures(rows.iloc[random.integers(0, len(rows), len(rows))])
    a_replicate = (time.monotonic() - figured) / asked["looped"]
    seconds = {
        "reading_seconds": round(read - begun, 2),
        "figures_seconds": round(figured - read, 2),
        "seconds_a_replicate": round(a_replicate, 3),
        "seconds": round(figured - begun + asked["replicates"] * a_replicate, 1),
    }
    print(json.dumps({"rows": len(rows), **seconds, "figures": figures["whole"]}))


def _figures(rows: pd.DataFrame) -> dict[str, Any]:
    precision = [average_precision_score(rows["truth"], rows[n]) for n in ("score", "points")]
    first = int(len(rows) * CAPACITY)
    found = [
        rows["truth"].to_numpy()[np.argsort(-rows[n].to_numpy())[:first]].sum()
        / rows["truth"].sum()
        for n in ("score", "points")
    ]
    return {"pr_auc": precision, "recall": found, **_areas(rows)}


def _areas(rows: pd.DataFrame) -> dict[str, Any]:
    return {"auc": [roc_auc_score(rows["truth"], rows[n]) for n in ("score", "points")]}


_QUERY = """
    SELECT s.score, d.rules_points AS points, s.band, d.band AS band_before, s.seconds,
           t.content, o.content AS outcome
    FROM ml_shadow_scores s
    JOIN decisions d USING (as_of, workflow, ticket_id, revision)
    JOIN tickets t USING (as_of, workflow, ticket_id, revision)
    JOIN outcomes o USING (workflow, ticket_id)
    WHERE workflow = :workflow AND s.policy_hash = :candidate AND d.policy_hash = :production
"""

if __name__ == "__main__":
    main()
