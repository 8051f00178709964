"""Verification of the audit trail, beside Postgres hashing the same rows itself.

Ours recomputes the leaf of every sealed record, every chain of seals and what other records tell.
The alternative only digests each row where it lies, and compares it with nothing.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bench.memory import database_pids, watched
from bench.stage import stage
from tiebreak.audit.records import SEALED
from tiebreak.audit.verify import verify
from tiebreak.cli.session import opened
from tiebreak.embedded.stack import Services, stack
from tiebreak.settings import Settings


def run() -> dict[str, Any]:
    """Sealed records a second of both."""
    with stack(Settings(data_dir=stage().data_dir)) as services:
        records, (ours, our_mib), (other, other_mib) = asyncio.run(_measure(services))
    return {
        "tiebreak": {
            "records": records,
            "records_per_second": round(records / ours, 1),
            "peak_memory_mib": our_mib,
        },
        "alternative": {
            "name": "SHA-256 of each row inside Postgres, compared with nothing",
            "records_per_second": round(records / other, 1),
            "peak_memory_mib": other_mib,
        },
        "ratio": round(other / ours, 3),
    }


Figures = tuple[float, float]  # seconds, and the peak of memory in MiB, with that of Postgres


async def _measure(services: Services) -> tuple[int, Figures, Figures]:
    async with opened(services, "") as session:
        with watched(*database_pids(services)) as our_peak:
            begun = time.monotonic()
            report = await verify(session.db, session.artifacts, session.keyring)
            ours = time.monotonic() - begun
        if not report.is_intact:
            raise RuntimeError(f"the trail is broken: {report.first}")
        with watched(*database_pids(services)) as peak:
            begun = time.monotonic()
            async with session.db.connection() as conn:
                for table in SEALED:
                    query = f"SELECT count(sha256(r::text::bytea)) FROM {table.name} r"
                    await conn.fetchval(query)
            other = time.monotonic() - begun
        return report.verified, (ours, our_peak.mib), (other, peak.mib)
