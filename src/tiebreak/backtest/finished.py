"""Finished: the sealed word of the journal that a backtest was run and found what its file says.

The id of a backtest is the hash of what it found, so anybody who may write the folder can make a
file whose id is right. What the journal tells of it, only who has the seal key can write.
"""

from __future__ import annotations

from typing import Final

import orjson

from tiebreak.audit.genuine import is_genuine
from tiebreak.backtest.evidence import Backtest
from tiebreak.errors import IntegrityFailure
from tiebreak.settings import Keyring
from tiebreak.store import tables
from tiebreak.store.unit import Connection, Unit

ACTION: Final = "backtest.finished"


class UnsealedBacktest(IntegrityFailure):
    """No sealed entry of the journal says that this backtest was run."""

    code = "unsealed_backtest"


def note(unit: Unit, backtest: Backtest, *, person: str) -> None:
    """Say in the journal that `person` ran it; its id is the hash of what it found."""
    evidence = backtest.evidence
    detail = {
        "backtest": backtest.id,
        "baseline": evidence["baseline"]["production"],
        "window": evidence["window"],
        "tickets": evidence["figures"]["tickets"],
    }
    unit.note(person, ACTION, _subject(backtest), detail)


async def check_sealed(conn: Connection, keyring: Keyring, backtest: Backtest) -> None:
    """Raises `UnsealedBacktest` unless a seal by one of our keys commits to an entry about it."""
    for row in await conn.fetch(_ENTRIES, ACTION, _subject(backtest)):
        # Only what is genuine is read: anything may stand in an entry that somebody forged.
        is_ours = await is_genuine(conn, keyring, tables.system_audit, row)
        if is_ours and orjson.loads(row["detail"])["backtest"] == backtest.id:
            return
    raise UnsealedBacktest(
        hint=f"Delete backtests/{backtest.id}.json from the data folder, find out who wrote it, "
        "and run `tiebreak backtest run`.",
        backtest=backtest.id,
    )


def _subject(backtest: Backtest) -> str:
    return f"{backtest.evidence['workflow']}/{backtest.evidence['policy_hash']}"


_ENTRIES = "SELECT * FROM system_audit WHERE action = $1 AND subject = $2 ORDER BY at DESC"
