"""Verification: every sealed record, every leaf and every chain of seals, in one walk."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tiebreak.audit import access, checkpoints, crosschecks
from tiebreak.audit.checkpoints import CheckpointForged, Heads
from tiebreak.audit.records import Peekable, Place, Record, lane_text, records, seals, tombstones
from tiebreak.audit.seals import LEAF_BYTES, NO_HEAD, Seal, leaf, remainder
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.settings import Keyring
from tiebreak.store.database import Database
from tiebreak.store.keyed import content_key

KEPT = 100  # findings named in a report; the rest is counted
PROGRESS_EVERY = 1_000
SEAL = -1  # in place of a position: the seal itself

Progress = Callable[[int, int], None]  # leaves done, leaves in all


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was sealed."""

    cause: str  # stable code
    message: str
    table: str | None = None
    key: dict[str, str] | None = None
    lane: str | None = None
    seq: int | None = None
    position: int | None = None


@dataclass(slots=True)
class Report:
    """What a verification found; `findings` in the order of the walk."""

    lanes: int = 0
    seals: int = 0
    verified: int = 0  # records that are what was sealed
    erased: int = 0  # records whose content was erased, with a tombstone
    broken: int = 0
    findings: list[Finding] = field(default_factory=list[Finding])

    @property
    def is_intact(self) -> bool:
        """Whether everything is as it was sealed."""
        return not self.broken

    @property
    def first(self) -> Finding | None:
        """The first broken record or seal."""
        return self.findings[0] if self.findings else None

    def add(self, finding: Finding) -> None:
        """Count a finding, and keep it when it is among the first."""
        self.broken += 1
        if len(self.findings) < KEPT:
            self.findings.append(finding)


async def verify(
    db: Database, artifacts: ArtifactStore, keyring: Keyring, progress: Progress | None = None
) -> Report:
    """Check everything that is sealed against its seals and the newest checkpoint.

    One snapshot is read while others write; memory does not grow with the tables. The stated
    limit: what was sealed after the newest checkpoint and is cut off the end is not missed.
    """
    report = Report()
    # The checkpoint is read first: what it names is then surely in the snapshot.
    heads = _heads(artifacts, keyring, report)
    async with (
        db.connection() as conn,
        conn.transaction(isolation="repeatable_read", readonly=True),
    ):
        leaves = await conn.fetchval("SELECT coalesce(sum(length(leaves)), 0) FROM audit_seals")
        walk = _Walk(report, keyring, heads, progress or _quietly, int(leaves) // LEAF_BYTES)
        await walk.run(conn)
        for check in crosschecks.CROSS_CHECKS:
            keys = await crosschecks.run(conn, check, KEPT)
            if keys is None:
                message = f"The server fails to say whether: {check.message}"
                report.add(Finding("check_failed", message, check.table))
            for key in keys or ():
                report.add(Finding(check.cause, check.message, check.table, key))
        for each in await access.contradictions(conn):
            report.add(Finding(each.cause, each.message, each.table, each.key))
    return report


def _heads(artifacts: ArtifactStore, keyring: Keyring, report: Report) -> Heads:
    """The heads of the newest checkpoint; a forged one is a finding."""
    try:
        return checkpoints.newest(artifacts, keyring) or {}
    except CheckpointForged as error:
        report.add(Finding("checkpoint_forged", f"{error.message} {error.fields['name']}"))
        return {}


def _quietly(_done: int, _total: int) -> None:
    """Progress that nobody watches."""


class _Walk:
    """Goes through seals, records and tombstones side by side, all in the order of places."""

    def __init__(
        self, report: Report, keyring: Keyring, heads: Heads, progress: Progress, total: int
    ) -> None:
        self._report = report
        self._keyring = keyring
        self._heads = {lane.bytes: head for lane, head in heads.items()}
        self._progress = progress
        self._total = total
        self._done = 0
        self._lane = b""
        self._seq = 0
        self._head: bytes | None = NO_HEAD  # None behind a gap, where no seal can be checked

    async def run(self, conn: Any) -> None:
        """Walk to the end."""
        self._records = Peekable(records(conn))
        self._tombstones = Peekable(tombstones(conn))
        await self._records.advance()
        await self._tombstones.advance()
        async for row in seals(conn):
            self._chain(row)
            await self._unsealed_before((row["lane"].bytes, row["seq"], 0))
            seal = Seal(row["lane"], row["seq"], row["sealed_at"], row["leaves"], row["key_id"])
            for position in range(seal.size):
                await self._leaf(seal, position)
        self._end_lane()
        await self._unsealed_before(None)
        for lane in self._heads:
            self._broken("lane_deleted", "A checkpoint names a lane that is gone.", (lane, 1, SEAL))
        self._progress(self._total, self._total)

    def _chain(self, row: Any) -> None:
        """Check that this seal follows the one before, and its MAC."""
        lane, seq = row["lane"].bytes, row["seq"]
        if lane != self._lane:
            self._end_lane()
            self._lane, self._seq, self._head = lane, 0, NO_HEAD
            self._report.lanes += 1
            if not row["is_open"]:
                self._broken(
                    "lane_unregistered", "The lane is not in audit_lanes.", (lane, seq, SEAL)
                )
        if seq != self._seq + 1:
            message = f"Seals {self._seq + 1} to {seq - 1} are missing."
            self._broken("seal_missing", message, (lane, self._seq + 1, SEAL))
            self._head = None
        self._report.seals += 1
        seal = Seal(row["lane"], seq, row["sealed_at"], row["leaves"], row["key_id"])
        key = self._keyring.seal_keys.get(row["key_id"])
        if key is None:
            self._broken("seal_key_unknown", "No key of this id is at hand.", (lane, seq, SEAL))
        elif self._head is not None and not hmac.compare_digest(
            seal.head(self._head, key), row["head"]
        ):
            self._broken("seal_altered", "The seal's MAC does not fit.", (lane, seq, SEAL))
        known = self._heads.get(lane)
        if known is not None and known.seq == seq and known.head != row["head"]:
            self._broken("seal_replaced", "A checkpoint has another head.", (lane, seq, SEAL))
        self._seq, self._head = seq, row["head"]

    def _end_lane(self) -> None:
        known = self._heads.pop(self._lane, None)
        if known is not None and known.seq > self._seq:
            message = f"A checkpoint names seals up to {known.seq}; they end at {self._seq}."
            self._broken("lane_truncated", message, (self._lane, self._seq + 1, SEAL))

    async def _unsealed_before(self, place: Place | None) -> None:
        """Records that claim a place where no leaf stands."""
        while (record := self._records.next) is not None:
            if place is not None and record.place >= place:
                return
            await self._records.advance()
            self._broken("record_unsealed", "No leaf stands for this record.", record.place, record)

    async def _leaf(self, seal: Seal, position: int) -> None:
        """Check the one record that this leaf stands for."""
        self._done += 1
        if self._done % PROGRESS_EVERY == 0:
            self._progress(self._done, self._total)
        place = (seal.lane.bytes, seal.seq, position)
        count = 0
        while (record := self._records.next) is not None and record.place == place:
            await self._records.advance()
            count += 1
            if count > 1:
                message = "Another record claims the same leaf."
                self._broken("record_unsealed", message, place, record)
            elif record.row["salt"] is None:
                await self._erased(record, place)
            else:
                self._whole(record, place, seal.leaf(position))
        if not count:
            self._broken("record_missing", "The record of this leaf is gone.", place)

    def _whole(self, record: Record, place: Place, expected: bytes) -> None:
        row = record.row
        if not hmac.compare_digest(leaf(record.table, row, row["salt"]), expected):
            self._broken("record_altered", "The record is not what was sealed.", place, record)
            return
        if record.table.name == "tickets":
            digest = hashlib.sha256(row["content"].encode()).digest()
            if content_key(self._keyring.entity_key, digest) != row["content_key"]:
                message = "ticket_keys holds another content hash."
                self._broken("ticket_key_altered", message, place, record)
                return
        self._report.verified += 1

    async def _erased(self, record: Record, place: Place) -> None:
        """Content may be gone where a tombstone names this leaf, and nothing else with it."""
        while (entry := self._tombstones.next) is not None and entry[0] < place:
            await self._tombstones.advance()
        if entry is None or entry[0] != place:
            message = "Its salt is gone and no tombstone names it."
            self._broken("erased_without_tombstone", message, place, record)
        elif remainder(record.table, record.row) != entry[1]:
            message = "What erasure left of the record was altered."
            self._broken("record_altered", message, place, record)
        else:
            self._report.erased += 1

    def _broken(self, cause: str, message: str, place: Place, record: Record | None = None) -> None:
        self._report.add(
            Finding(
                cause=cause,
                message=message,
                table=None if record is None else record.table.name,
                key=None if record is None else record.key,
                lane=lane_text(place),
                seq=place[1],
                position=None if place[2] == SEAL else place[2],
            )
        )
