"""What another policy's model says of tickets that were decided: its scores, and what it takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiebreak.core.decide import decide
from tiebreak.core.policy import Policy
from tiebreak.core.stored import loaded_columns
from tiebreak.core.tickets import ticket_schema
from tiebreak.errors import InvalidInput
from tiebreak.store import reading
from tiebreak.store.contexts import complete
from tiebreak.store.database import Database
from tiebreak.store.kept import kept

Row = Mapping[str, Any]


class NoModelBeside(InvalidInput):
    """The policy to put beside the decisions has no model."""

    code = "no_model_beside"


@dataclass(frozen=True, eq=False)
class Beside:
    """Scores (n,) of a model, and processor time a ticket to decide and explain in bulk."""

    scores: NDArray[np.float64]
    microseconds_a_ticket: float


async def scored_beside(
    db: Database, policy: Policy, decided: Sequence[Row], entity_secret: bytes
) -> Beside:
    """The model's scores of decided tickets, in the order of these rows of their decisions.

    It decides what is stored of them, by the function that decides; context that they were not
    given comes from the history log. A ticket erased meanwhile has NaN. Raises `NoModelBeside`.
    """
    if policy.model is None:
        raise NoModelBeside(hint="Name a model that loads: `tiebreak model list`.")
    places = {(row["ticket_id"], row["revision"]): place for place, row in enumerate(decided)}
    scores, seconds, count = np.full(len(decided), np.nan), 0.0, 0
    async for batch in reading.pairs(db, policy.workflow.name, batch=10_000):
        chosen = {
            place: ticket
            for decision, ticket in batch
            if decision["ordinal"] == 1
            and ticket["content"] is not None
            and (place := places.get((ticket["ticket_id"], ticket["revision"]))) is not None
        }
        if not chosen:
            continue
        fields, context = loaded_columns(
            list(chosen.values()),
            ticket_schema(policy.workflow),
            policy.features_plan.history.context_columns,
        )
        async with db.connection() as conn:
            log = await kept(conn, policy.workflow.name, policy.features_plan.history)
            context = await complete(conn, log, fields, context, entity_secret)
        begun = time.process_time()
        decisions = await asyncio.to_thread(decide, fields, context, policy)
        seconds, count = seconds + time.process_time() - begun, count + len(chosen)
        assert decisions.model is not None
        scores[list(chosen)] = decisions.model.score
    return Beside(scores, seconds / max(count, 1) * 1e6)
