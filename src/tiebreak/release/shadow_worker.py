"""The process of one candidate in shadow, which may be killed at any moment.

    python -m tiebreak.release.shadow_worker --release ID [--heartbeat-fd N]

It has little memory and low priority. What it does wrong itself it says by quarantining itself;
that it gives no sign of life, or dies again and again, is noticed by who started it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import sys
from uuid import UUID

import structlog

from tiebreak.audit.lanes import Lane
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.signing import BundleKeys
from tiebreak.errors import TiebreakError
from tiebreak.fingerprint import engine_fingerprint
from tiebreak.registry.policies import PolicyLibrary
from tiebreak.release.releases import get
from tiebreak.release.scoring import CandidateFailed, Scorer, stored_columns
from tiebreak.release.shadow import assignments, check_ready, quarantine
from tiebreak.settings import Keyring, Settings
from tiebreak.store import shadows
from tiebreak.store.database import Database, DatabaseUnavailable

log = structlog.get_logger()

IDLE_SECONDS = 0.25
AWAY_SECONDS = 2.0
NICENESS = 10
POOL_SIZE = 2
TEMPORARY = os.EX_TEMPFAIL  # the candidate is not to blame for it


def main() -> None:
    """Score for one candidate until told otherwise."""
    parser = argparse.ArgumentParser(description="Score stored tickets by one candidate.")
    parser.add_argument("--release", type=UUID, required=True, help="the release's id")
    parser.add_argument("--heartbeat-fd", type=int, help="an inherited pipe to tell that we live")
    arguments = parser.parse_args()
    settings = Settings.load()
    _limit(settings.shadow.memory_mib << 20)
    asyncio.run(_work(settings, arguments.release, arguments.heartbeat_fd))


async def _work(settings: Settings, release_id: UUID, heartbeat: int | None) -> None:
    keyring = Keyring.load(settings)
    address = settings.database.url
    assert address is not None
    db = await Database.open(address.get_secret_value(), POOL_SIZE)
    try:
        await _guarded(db, settings, keyring, release_id, heartbeat)
    finally:
        await db.close()


async def _guarded(
    db: Database, settings: Settings, keyring: Keyring, release_id: UUID, heartbeat: int | None
) -> None:
    try:
        scorer = await _scorer(db, settings, keyring, release_id)
        if scorer is not None:
            await _score_on(scorer, heartbeat)
    except DatabaseUnavailable:
        sys.exit(TEMPORARY)
    except MemoryError:
        await _accuse(db, keyring, release_id, "out_of_memory", "It took more memory than it may.")
    except CandidateFailed as error:
        await _accuse(db, keyring, release_id, error.cause, error.message)
    except TiebreakError as error:
        await _accuse(db, keyring, release_id, error.code, error.message)


async def _scorer(
    db: Database, settings: Settings, keyring: Keyring, release_id: UUID
) -> Scorer | None:
    mine = [a for a in await assignments(db) if a.subject.release_id == release_id]
    done = await shadows.progress(db, release_id)
    if not mine or done is None:
        return None
    keys = BundleKeys.of(keyring)
    library = PolicyLibrary(db, ArtifactStore.of(settings), keys)
    await check_ready(db, library, await get(db, release_id))
    subject = mine[0].subject
    loaded = await library.get(subject.policy_hash)
    if loaded.problem is not None:  # by rules alone it would be another candidate
        raise CandidateFailed(loaded.problem.code, loaded.problem.message)
    return Scorer(
        db=db,
        keyring=keyring,
        assignment=mine[0],
        policy=loaded.policy,
        stored=await stored_columns(db, library, subject.workflow, done.through),
        batch_seconds=settings.shadow.batch_seconds,
        fingerprint=engine_fingerprint().hash,
    )


async def _score_on(scorer: Scorer, heartbeat: int | None) -> None:
    while True:
        if heartbeat is not None:
            with contextlib.suppress(OSError):  # full or closed: enough was seen
                os.write(heartbeat, b".")
        try:
            if await scorer.step() is None:
                await asyncio.sleep(IDLE_SECONDS)
        except DatabaseUnavailable:
            await asyncio.sleep(AWAY_SECONDS)


async def _accuse(
    db: Database, keyring: Keyring, release_id: UUID, cause: str, message: str
) -> None:
    lane = await Lane.open(db, "shadow", keyring)
    release = await get(db, release_id)
    if await quarantine(lane, keyring, release, cause=cause, message=message):
        log.warning("shadow_quarantined", release=str(release_id), cause=cause)


def _limit(memory_bytes: int) -> None:
    os.nice(NICENESS)  # production goes first
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
