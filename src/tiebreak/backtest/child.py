"""The process that runs one backtest that was asked for: `python -m tiebreak.backtest.child < JOB`.

The job is JSON: the run's id. Settings and keys are those of the installation, by the environment.
It keeps the evidence and notes it in the journal; `backtest.supervising` is its parent's side.
"""

from __future__ import annotations

import asyncio
import os
import sys
import uuid

import orjson

from tiebreak.errors import TiebreakError
from tiebreak.settings import Keyring, Settings
from tiebreak.supervised.failures import crashed, is_short_of_memory, told
from tiebreak.supervised.limits import MOST_RESERVED, confine
from tiebreak.supervised.told import Teller

NICENESS = 10
FILE_BYTES = 1 << 36  # of history that is computed anew
POOL_SIZE = 2


def main() -> None:
    """Do the job on standard input."""
    teller = Teller.on_standard_output()
    job = orjson.loads(sys.stdin.buffer.read())
    settings = Settings.load()
    os.nice(NICENESS)  # production goes first
    confine(MOST_RESERVED * settings.backtest.memory_bytes, FILE_BYTES)
    try:
        made = asyncio.run(_made(settings, uuid.UUID(job["run_id"]), teller))
    except TiebreakError as error:
        teller.say({"refused": told(error)})
    except BaseException as error:  # noqa: BLE001 - Polars panics; the text may quote tickets
        teller.say({"out_of_memory": True} if is_short_of_memory(error) else crashed(error))
    else:
        teller.say({"made": made})
    teller.end()


async def _made(settings: Settings, run_id: uuid.UUID, teller: Teller) -> str:
    # Imported here, where the limits hold already.
    from tiebreak.audit.lanes import Lane
    from tiebreak.backtest.orders import Orders
    from tiebreak.backtest.run import Runner
    from tiebreak.bundles.signing import BundleKeys
    from tiebreak.store.database import Database

    def progress(step: str, share: float) -> None:
        teller.say({"step": step, "share": share})

    order, keyring = Orders.of(settings).get(run_id).order, Keyring.load(settings)
    address = settings.database.url
    assert address is not None
    db = await Database.open(address.get_secret_value(), POOL_SIZE)
    try:
        lane = await Lane.open(db, "backtest", keyring)
        runner = Runner(db, lane, settings, BundleKeys.of(keyring), order.author)
        made = await runner.run(
            order.request,
            jobs=settings.backtest.processes,
            minutes_a_review=order.minutes_a_review,
            progress=progress,
        )
    finally:
        await db.close()
    return made.id


if __name__ == "__main__":
    main()
