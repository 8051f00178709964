"""Likeness: do the features of a snapshot equal those that tickets were decided by?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
import polars as pl

from tiebreak.store.unit import Connection

MOST = 500  # decided tickets that are compared in a chunk


@dataclass(slots=True)
class Likeness:
    """How many decided tickets were compared, and in how many of them each feature differed."""

    compared: int = 0
    differing: Counter[str] = field(default_factory=Counter[str])

    def count(
        self,
        names: Sequence[str],
        trained: pl.DataFrame,
        recomputed: pl.DataFrame,
        fired: Sequence[str | None],
    ) -> None:
        """Counts decided tickets whose features differ from those recomputed from the history
        log, or from the values that stand in their decisions where a rule fired."""
        differs = {name: trained[name].ne_missing(recomputed[name]).to_list() for name in names}
        rows = trained.select(names).to_dicts()
        for place, text in enumerate(fired):
            for reason in orjson.loads(text or "[]"):
                for name, value in reason["values"].items():
                    if name in differs and not _is_same(rows[place][name], value):
                        differs[name][place] = True
        self.compared += len(rows)
        self.differing.update({name: sum(told) for name, told in differs.items() if any(told)})


def _is_same(here: Any, told: Any) -> bool:
    return here == told or (told is None and here != here)  # JSON has no NaN


async def decided(
    conn: Connection, rows: Sequence[Mapping[str, Any]], *, by: datetime
) -> dict[tuple[str, int], str | None]:
    """What fired in the first decision of each of these ticket rows that had one by then."""
    if not rows:
        return {}
    moments = [row["as_of"] for row in rows]
    found = await conn.fetch(
        _DECIDED,
        rows[0]["workflow"],
        min(moments),
        max(moments),
        [row["ticket_id"] for row in rows],
        by,
    )
    return {(row["ticket_id"], row["revision"]): row["fired"] for row in found}


_DECIDED = """
    SELECT ticket_id, revision, fired FROM decisions
    WHERE workflow = $1 AND as_of BETWEEN $2 AND $3 AND ticket_id = ANY($4::text[]) AND ordinal = 1
      AND decided_at <= $5
"""
