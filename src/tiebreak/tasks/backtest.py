"""Backtests that were asked for, and those that nobody supervises any more."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

from tiebreak.audit.lanes import Lane
from tiebreak.backtest.orders import TASK
from tiebreak.backtest.supervising import Supervisor
from tiebreak.settings import Keyring, Settings
from tiebreak.store.database import Database
from tiebreak.supervised import queue
from tiebreak.tasks.app import app
from tiebreak.tasks.site import run

SENT_AGAIN_AFTER = timedelta(minutes=1)


@app.task(name=TASK, ignore_result=True)
def run_asked(run_id: str) -> str:
    """See one order through; how it ended."""

    async def work(db: Database, settings: Settings, keyring: Keyring) -> str:
        supervisor = Supervisor(await Lane.open(db, "backtest", keyring), settings)
        return await supervisor.run(uuid.UUID(run_id)) or "none"

    return run(work)


@app.task(name="backtest.sweep")
def sweep() -> list[str]:
    """End orders that were left, and send those again that still wait; the orders it sent."""

    async def work(db: Database, settings: Settings, keyring: Keyring) -> list[str]:
        supervisor = Supervisor(await Lane.open(db, "backtest", keyring), settings)
        late = datetime.now(UTC) - SENT_AGAIN_AFTER
        waiting = [each for each in await supervisor.settle() if each.state == "queued"]
        ids = [each.order.run_id for each in waiting if each.order.asked_at < late]
        return [str(each) for each in ids if queue.send(settings.redis.url, TASK, each)]

    return run(work)
