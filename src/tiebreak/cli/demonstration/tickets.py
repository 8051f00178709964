"""The demo's simulated tickets: two years of history, then live ones that no run has sent yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from tiebreak.ingest.simulator import Simulation, simulate

SEED = 811  # after the number one calls in North America before digging
HISTORY_DAYS = 730
LIVE_DAYS = 245
TICKETS = 84_000
WEEK = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which simulation a data folder's demo draws from, and how many live tickets it has sent."""

    until: str  # where history ends and live tickets begin
    sent: int = 0
    rounds: int = 0  # how often the live tickets were used up

    @classmethod
    def of(cls, data_dir: Path, now: datetime) -> Plan:
        """The data folder's plan; a new one ends its history at the last midnight (UTC)."""
        try:
            return cls(**orjson.loads(_path(data_dir).read_bytes()))
        except FileNotFoundError:
            midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
            plan = cls(midnight.isoformat())
            plan.keep(data_dir)
            return plan

    def keep(self, data_dir: Path) -> None:
        """Remember the plan for the next start."""
        path = _path(data_dir)
        draft = path.with_suffix(".draft")
        draft.write_bytes(orjson.dumps(asdict(self)))
        draft.rename(path)

    @property
    def end_of_history(self) -> datetime:
        """The moment up to which tickets are imported."""
        return datetime.fromisoformat(self.until)

    def simulation(self) -> Simulation:
        """All tickets, history and live; always the same ones for the same plan."""
        start = self.end_of_history - timedelta(days=HISTORY_DAYS)
        return simulate(SEED, TICKETS, start, HISTORY_DAYS + LIVE_DAYS)

    def next_live(self, simulation: Simulation, count: int) -> tuple[Live, Plan]:
        """The next `count` live tickets, and the plan once they are sent."""
        live = simulation.opened_from(self.end_of_history)
        count = min(count, live.tickets.height)
        if self.sent + count > live.tickets.height:
            return replace(self, sent=0, rounds=self.rounds + 1).next_live(simulation, count)
        tickets = live.tickets.slice(self.sent, count)
        suffix = f"-{self.rounds + 1}" if self.rounds else ""
        return Live(tickets, live.events, suffix), replace(self, sent=self.sent + count)


@dataclass(frozen=True)
class Live:
    """Tickets of the live stream, and what the simulation knows will become of them."""

    tickets: pl.DataFrame
    events: pl.DataFrame
    suffix: str  # tells tickets that are sent another time from the first ones

    def bodies(self, now: datetime, fields: Sequence[str]) -> list[bytes]:
        """Each ticket as the API takes it, moved by whole weeks so that it opened within the last.

        Whole weeks keep the hour and the day of the week, on which the simulated work depends.
        """
        frame = self.tickets.select("ticket_id", *fields)
        ago = (pl.lit(now) - pl.col("opened_at")).dt.total_seconds(fractional=True)
        shift = pl.duration(weeks=(ago / WEEK.total_seconds()).floor().cast(pl.Int64))
        moved = [pl.col(name) + shift for name, kind in frame.schema.items() if kind.is_temporal()]
        return [_body(row, self.suffix) for row in frame.with_columns(moved).iter_rows(named=True)]

    def ends(self) -> dict[str, bool]:
        """Whether each ticket comes to a bad end: answered late, or a facility hit."""
        bad = (
            self.events.filter(pl.col("kind") == "outcome")
            .group_by("ticket_id")
            .agg(
                (pl.col("damage").fill_null(False) | pl.col("response_late").fill_null(False)).any()
            )
        )
        known = dict(bad.iter_rows())
        return {
            ticket_id + self.suffix: known.get(ticket_id, False)
            for ticket_id in self.tickets["ticket_id"]
        }


def _path(data_dir: Path) -> Path:
    return data_dir / "demo.json"


def _body(row: dict[str, Any], suffix: str) -> bytes:
    ticket_id = row.pop("ticket_id") + suffix
    fields = {name: value for name, value in row.items() if value is not None}
    return orjson.dumps({"ticket_id": ticket_id, "fields": fields}, option=orjson.OPT_UTC_Z)


def now_utc() -> datetime:
    """The present moment."""
    return datetime.now(UTC)
