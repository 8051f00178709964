"""The process that lets candidates run: one supervised worker each in shadow, and the canaries.

    python -m tiebreak.embedded.candidates

Of several on one database one works; the others wait until it is gone. Nothing is kept here: what
is to be done stands in the database.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import structlog

from tiebreak.audit.lanes import Lane
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.signing import BundleKeys
from tiebreak.embedded.children import HUNG, Child, Program, ended
from tiebreak.errors import TiebreakError
from tiebreak.registry.policies import PolicyLibrary
from tiebreak.release import shadow
from tiebreak.release.canary import control
from tiebreak.release.canary_plan import CanaryPlan
from tiebreak.release.demotion import CountersignatureOverdue, note_overdue
from tiebreak.release.releases import Office, get
from tiebreak.release.shadow_worker import TEMPORARY
from tiebreak.settings import Keyring, Settings
from tiebreak.store import shadows
from tiebreak.store.database import Database, is_connection_failure

log = structlog.get_logger()

TICK_SECONDS = 0.25
LOOK_SECONDS = 1.0
GUARD_SECONDS = 5.0
AWAY_SECONDS = 2.0
HANG_SECONDS = 10.0  # beyond the time a batch may take
MOST_DEATHS = 3  # without a step forward in between
POOL_SIZE = 3


@dataclass
class Ward:
    """A candidate's process, and how often it died where it stands."""

    child: Child
    deaths: int = 0
    died_at: datetime | None = None


@dataclass
class Candidates:
    """Runs what the database says shall run."""

    db: Database
    settings: Settings
    office: Office
    plan: CanaryPlan | None = None  # of all canaries; else each workflow's own
    wards: dict[UUID, Ward] = field(default_factory=dict[UUID, Ward])

    async def look(self) -> None:
        """Begin and end processes as candidates come and go."""
        wanted = {a.subject.release_id for a in await shadow.assignments(self.db)}
        for gone in self.wards.keys() - wanted:
            self._end(self.wards.pop(gone))
        for new in wanted - self.wards.keys():
            self.wards[new] = Ward(Child(self._program(new)))

    async def watch(self) -> None:
        """Start, restart or kill processes as needed, and quarantine those that do not bear it."""
        for release_id, ward in list(self.wards.items()):
            had = ward.child.pid
            ward.child.watch()
            if had is not None and ward.child.pid is None:
                await self._ended(release_id, ward)

    async def guard(self) -> None:
        """Step canaries that do well, roll back those that do harm, and say who signs late."""
        for release in await control(self.office, self.plan):
            log.info("canary_moved", release=str(release.release_id), state=release.state)
        for late in await note_overdue(self.office, now=datetime.now(UTC)):
            log.error(CountersignatureOverdue.code, workflow=late.workflow, seq=late.seq)

    def close(self) -> None:
        """End all processes; what they have not finished is found at the next start."""
        for ward in self.wards.values():
            self._end(ward)

    async def _ended(self, release_id: UUID, ward: Ward) -> None:
        log.warning("shadow_ended", release=str(release_id), how=ward.child.last_end)
        if ward.child.last_end == ended(TEMPORARY):
            return
        done = await shadows.progress(self.db, release_id)
        through = None if done is None else done.through
        ward.deaths = ward.deaths + 1 if through == ward.died_at else 1
        ward.died_at = through
        is_hung = ward.child.last_end == HUNG
        if is_hung or ward.deaths >= MOST_DEATHS:
            release = await get(self.db, release_id)
            cause = "hung" if is_hung else "died"
            message = f"Its process {ward.child.last_end}."
            await shadow.quarantine(
                self.office.lane, self.office.keyring, release, cause=cause, message=message
            )

    def _end(self, ward: Ward) -> None:
        ward.child.terminate()
        ward.child.wait_ended(time.monotonic())

    def _program(self, release_id: UUID) -> Program:
        name = f"shadow-{str(release_id)[:8]}"
        worker = ("tiebreak.release.shadow_worker", "--release", str(release_id))
        return Program(
            name=name,
            arguments=(*worker, "--heartbeat-fd", "{heartbeat}"),
            log=self.settings.data_dir / "logs" / f"{name}.log",
            environment=dict(os.environ),
            hang_seconds=self.settings.shadow.batch_seconds + HANG_SECONDS,
        )


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Let candidates run until told to stop."""
    keyring = Keyring.load(settings)
    address = settings.database.url
    assert address is not None
    db = await Database.open(address.get_secret_value(), POOL_SIZE)
    keys = BundleKeys.of(keyring)
    library = PolicyLibrary(db, ArtifactStore.of(settings), keys)
    office = Office(db, await Lane.open(db, "candidates", keyring), keyring, library)
    candidates = Candidates(db, settings, office)
    try:
        while not stop.is_set():
            try:
                await _alone(db, candidates, stop)
            except Exception as error:
                if not isinstance(error, TiebreakError) and not is_connection_failure(error):
                    raise
                log.warning("candidates_trouble", error=type(error).__name__)
                await _wait(stop, AWAY_SECONDS)
    finally:
        candidates.close()
        await db.close()


async def _alone(db: Database, candidates: Candidates, stop: asyncio.Event) -> None:
    """Work for as long as nobody else does."""
    connection = await db.connect()
    try:
        while not await connection.fetchval(_TAKE):
            if await _wait(stop, AWAY_SECONDS):
                return
        await _work(connection, candidates, stop)
    finally:
        await connection.close(timeout=1)


async def _work(
    connection: asyncpg.Connection, candidates: Candidates, stop: asyncio.Event
) -> None:
    looked = guarded = 0.0
    while not stop.is_set():
        now = time.monotonic()
        if now - looked > LOOK_SECONDS:
            await connection.execute("SELECT")  # the lock is ours for as long as this answers
            await candidates.look()
            looked = now
        if now - guarded > GUARD_SECONDS:
            await candidates.guard()
            guarded = now
        await candidates.watch()
        await _wait(stop, TICK_SECONDS)


async def _wait(stop: asyncio.Event, seconds: float) -> bool:
    """Whether it is time to stop, after this time at the latest."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True


async def _main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    settings = Settings.load()
    await run(settings, stop)


_TAKE = "SELECT pg_try_advisory_lock(hashtextextended('tiebreak candidates', 0))"

if __name__ == "__main__":
    asyncio.run(_main())
