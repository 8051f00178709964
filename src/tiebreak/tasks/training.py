"""Training runs that were queued, and those that nobody supervises any more."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

from tiebreak.audit.lanes import Lane
from tiebreak.errors import TiebreakError
from tiebreak.settings import Keyring, Settings
from tiebreak.store.database import Database
from tiebreak.tasks.app import app
from tiebreak.tasks.site import run
from tiebreak.training import queue, turns
from tiebreak.training.runs import Trainer

SENT_AGAIN_AFTER = timedelta(minutes=1)


@app.task(name=queue.TASK, ignore_result=True)
def run_queued(run_id: str) -> str:
    """See one queued run through; the digest of its bundle, or why there is none."""

    async def work(db: Database, settings: Settings, keyring: Keyring) -> str:
        trainer = Trainer(db, await Lane.open(db, "training", keyring), settings, keyring)
        try:
            done = await trainer.run_queued(uuid.UUID(run_id))
        except TiebreakError as error:  # on record already
            return error.code
        return "none" if done is None else done.digest

    return run(work)


@app.task(name="training.sweep")
def sweep() -> list[str]:
    """Record runs that were left, and send those again that still wait; the runs it touched."""

    async def work(db: Database, settings: Settings, keyring: Keyring) -> list[str]:
        trainer = Trainer(db, await Lane.open(db, "training", keyring), settings, keyring)
        async with db.connection() as conn:
            before = await turns.everyone(conn)
        for turn in before:
            await trainer.settle(turn.workflow)
        async with db.connection() as conn:
            left = {turn.run_id for turn in await turns.everyone(conn)}
        late = datetime.now(UTC) - SENT_AGAIN_AFTER
        waiting = [t for t in before if t.state == "queued" and t.run_id in left]
        again = [t.run_id for t in waiting if t.asked_at < late and queue.send(settings, t.run_id)]
        return [str(each) for each in [*again, *({t.run_id for t in before} - left)]]

    return run(work)
