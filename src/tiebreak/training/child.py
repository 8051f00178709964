"""The process that trains one model: `python -m tiebreak.training.child < JOB`.

The job is JSON: the request, the workflow, limits, and what it takes to read: a read-only database
address and the key by which the history log knows entities. It gets no key that signs, writes
nothing but its progress, and hands over the unsigned parts of a bundle. `training.process` is its
parent's side.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import orjson

from tiebreak.errors import TiebreakError
from tiebreak.supervised.failures import crashed, is_short_of_memory, told
from tiebreak.supervised.limits import MOST_RESERVED, allow_cpu, confine
from tiebreak.supervised.told import Teller

VALIDATION_SHARE = 0.2  # of the tickets, the latest ones, where no `valid_from` is given
FILE_BYTES = 1 << 28  # of compiled code that is kept for the next time
TELL_EVERY_SECONDS = 0.1
NO_MEMORY = b'{"out_of_memory":true}\n'


def main() -> None:
    """Do the job on standard input."""
    teller = Teller.on_standard_output()
    job = orjson.loads(sys.stdin.buffer.read())
    confine(MOST_RESERVED * job["memory_bytes"], FILE_BYTES)
    allow_cpu(job["cpu_seconds"])
    try:
        parts = asyncio.run(_trained(job, teller))
    except TiebreakError as error:
        teller.say({"refused": told(error)})
    except MemoryError:
        teller.say_bytes(NO_MEMORY)
    except BaseException as error:  # noqa: BLE001 - Polars panics; the text may quote tickets
        teller.say({"out_of_memory": True} if is_short_of_memory(error) else crashed(error))
    else:
        teller.hand_over(parts)
    teller.end()


async def _trained(job: dict[str, Any], teller: Teller) -> bytes:
    # Imported here, where the limits hold already.
    from dataclasses import asdict, replace

    from tiebreak.bundles.format import pack
    from tiebreak.core.workflow import Workflow
    from tiebreak.fingerprint import engine_fingerprint
    from tiebreak.store.database import Database
    from tiebreak.training import handover
    from tiebreak.training.requests import Request
    from tiebreak.training.snapshot import read_snapshot
    from tiebreak.training.train import train

    request, workflow = Request.load(job["request"]), Workflow.model_validate_json(job["workflow"])
    progress = _Progress(teller)
    progress("read", 0.0)
    db = await Database.open(job["database_url"], pool_size=2)
    try:
        snapshot = await read_snapshot(
            db,
            workflow,
            known_by=request.known_by,
            entity_secret=bytes.fromhex(job["entity_key"]),
        )
    finally:
        await db.close()
    as_of = snapshot.as_of.sort()
    parameters = replace(
        request.parameters,
        valid_from=request.valid_from or as_of[int(len(as_of) * (1.0 - VALIDATION_SHARE))],
        family=request.family or workflow.family,
    )
    data = {"data_hash": snapshot.data_hash, "parameters": asdict(parameters)}
    teller.say({"data": data})
    result = train(snapshot, parameters, progress, fingerprint=engine_fingerprint().hash)
    return pack(handover.wrap(snapshot, result))


class _Progress:
    """Tells each step, and the share of it that is done some times a second."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._step = ""
        self._at = 0.0

    def __call__(self, step: str, share: float) -> None:
        now = time.monotonic()
        if step == self._step and share < 1.0 and now - self._at < TELL_EVERY_SECONDS:
            return
        self._step, self._at = step, now
        self._teller.say({"step": step, "share": share})


if __name__ == "__main__":
    main()
