"""A simulator of locate tickets: every ticket, name and outcome that it makes is invented.

docs/simulator.md documents the generating process.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

from tiebreak.errors import InvalidInput
from tiebreak.ingest.simulation.outcomes import draw_outcomes
from tiebreak.ingest.simulation.tables import event_table, ticket_table
from tiebreak.ingest.simulation.tickets import draw_tickets
from tiebreak.ingest.simulation.trades import TRADES
from tiebreak.ingest.simulation.world import build_world

NOTICE = "Simulated data: every ticket, name, place and outcome is invented."
DRIFT_FROM_SHARE = 0.6  # of the days, when drift is on


class SimulationRefused(InvalidInput):
    """The simulation cannot be made as asked."""

    code = "simulation_refused"


@dataclass(frozen=True, slots=True)
class Simulation:
    """Simulated tickets in time order and what became known about them.

    `tickets` has the columns of the `locate` workflow, `events` those of an events file:
    `ticket_id`, `kind` (outcome, closed, acted, feedback), `known_at` and what became known.
    """

    seed: int
    tickets: pl.DataFrame
    events: pl.DataFrame

    def known_by(self, moment: datetime) -> Simulation:
        """The tickets opened before `moment` with what was known of them before `moment`."""
        tickets = self.tickets.filter(pl.col("opened_at") < moment)
        events = self.events.filter(pl.col("known_at") < moment)
        return Simulation(self.seed, tickets, events)

    def opened_from(self, moment: datetime) -> Simulation:
        """The tickets opened at or after `moment` with all that becomes known of them."""
        tickets = self.tickets.filter(pl.col("opened_at") >= moment)
        events = self.events.join(tickets.select("ticket_id"), on="ticket_id", how="semi")
        return Simulation(self.seed, tickets, events)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write `simulated_tickets.parquet` and `simulated_events.parquet`; their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        tickets = folder / "simulated_tickets.parquet"
        events = folder / "simulated_events.parquet"
        self.tickets.write_parquet(tickets, metadata={"notice": NOTICE})
        self.events.write_parquet(events, metadata={"notice": NOTICE})
        return tickets, events


def simulate(
    seed: int, tickets: int, start: datetime, days: int, *, drift: bool = False
) -> Simulation:
    """`tickets` simulated tickets over `days` days from `start`; the same arguments, the same bits.

    `drift` switches on, after 60% of the days: a fiber rollout, excavators that get worse and
    facility owners with less staff. Raises `SimulationRefused`.
    """
    if start.tzinfo is None:
        raise SimulationRefused("`start` has no time zone.", hint="Give it one, such as UTC.")
    if seed < 0 or tickets < 1 or days < 1:
        raise SimulationRefused("`seed` is at least 0, `tickets` and `days` are at least 1.")
    worlds, drawn, ends_seed, details = np.random.SeedSequence(seed).spawn(4)
    drift_from_day = int(days * DRIFT_FROM_SHARE) if drift else 10 * days + 1_000
    world = build_world(worlds, start, days, trades=len(TRADES), drift_from_day=drift_from_day)
    draft = draw_tickets(drawn, world, tickets, drift_from_day)
    ends = draw_outcomes(ends_seed, world, draft, drift_from_day)
    label = f"SIM{seed}"
    return Simulation(
        seed=seed,
        tickets=ticket_table(details, label, world, draft, ends),
        events=event_table(label, draft, ends),
    )
