"""Requests of citizens as the clients send them, and a small model trained on such."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from tiebreak.core.features import FeaturePlan
from tiebreak.core.stored import StoredTicket, columns
from tiebreak.core.tickets import ticket_schema
from tiebreak.fingerprint import engine_fingerprint
from tiebreak.training.dataset import SLICE, Snapshot
from tiebreak.training.fit import Parameters
from tiebreak.training.train import train
from tiebreak.workflows.check import check_folder

NAME = "boston311"
FOLDER = Path(__file__).parents[2] / "workflows" / NAME
SERVICES = ("Illegal Parking", "Abandoned Vehicle", "Other", "Sidewalk Not Shoveled")
COMPLAINTS = ("Car on the sidewalk", "Tree down", "Water leak in the street", "Broken light")
SLOW = {"Other": 0.4, "Abandoned Vehicle": 0.2, "Tree down": 0.3, "Broken light": 0.1}
ROWS, TREES = 2_000, 12
START = datetime(2025, 1, 1, tzinfo=UTC)


def fields(chance: random.Random, number: int) -> Mapping[str, Any]:
    """A request of a citizen; few addresses, so that histories grow."""
    return {
        "opened_at": "2026-01-02T10:00:00",
        "service": chance.choice(SERVICES),
        "description": f"{chance.choice(COMPLAINTS)}, {number}",
        "address": f"{chance.randrange(5000)} Main St",
        "lat": round(chance.uniform(42.2, 42.4), 4),
        "lon": round(chance.uniform(-71.2, -71.0), 4),
        "has_photo": number % 2 == 0,
    }


@cache
def model() -> Mapping[str, bytes]:
    """The parts of a model of such requests, whose history is drawn at random."""
    chance = random.Random(1)
    workflow = check_folder(FOLDER).workflow
    schema, plan = ticket_schema(workflow), FeaturePlan(workflow)
    drawn = [fields(chance, number) for number in range(ROWS)]
    names = plan.history.context_columns
    tickets = [
        StoredTicket(
            workflow=NAME,
            ticket_id=str(number),
            revision=1,
            as_of=START + timedelta(hours=number),
            ticket_hash=number,
            values=schema.read(values),
            context={name: chance.randrange(20) for name in names},
        )
        for number, values in enumerate(drawn)
    ]
    frame, _ = plan.columns(*columns(tickets, schema, names))
    frame = frame.with_columns(pl.col(name).alias(f"{SLICE}{name}") for name in workflow.slices)
    slow = [chance.random() < _odds(each) for each in drawn]
    snapshot = Snapshot(
        workflow,
        frame,
        label=pl.Series("label", slow),
        as_of=frame["as_of"],
        data_hash="requests of the clients of fault tests",
    )
    parameters = Parameters(
        valid_from=START + timedelta(hours=ROWS * 0.8), rounds=TREES, max_depth=4
    )
    fingerprint = engine_fingerprint().hash
    return train(snapshot, parameters, lambda *_: None, fingerprint=fingerprint).parts


def _odds(values: Mapping[str, Any]) -> float:
    complaint = values["description"].partition(",")[0]
    return 0.1 + SLOW.get(values["service"], 0.0) + SLOW.get(complaint, 0.0)
