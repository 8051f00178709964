"""Tickets that are admitted and not decided, as a killed worker leaves them."""

from __future__ import annotations

from tiebreak.decisions.active import Active
from tiebreak.decisions.batcher import Pending
from tiebreak.decisions.service import DecisionService
from tiebreak.store.admission import Admission


async def admit(service: DecisionService, active: Active, batch: list[Pending]) -> Admission:
    """Admit a batch and leave it there."""
    serving = service._serving
    assert serving is not None
    async with serving.admitting(active, batch) as (_, admitted):
        pass
    return admitted
