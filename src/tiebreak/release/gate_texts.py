"""What texts tell of scored tickets: their labels, and the slices that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tiebreak.core.expressions import Type, compile_expression
from tiebreak.core.scopes import event_scope
from tiebreak.core.tickets import Schema, outcome_schema
from tiebreak.core.workflow import EventKind, Label, Workflow
from tiebreak.release.gate_columns import DAY_MICROSECONDS, Ints, span
from tiebreak.store.columns import Columns, moments, texts
from tiebreak.store.database import Database

MOST_SLICES = 40  # of a field
Keep = Callable[[pl.DataFrame], pl.DataFrame]
Slices = dict[str, Ints]


def label_problem(label: Label | None) -> str:
    """Why outcomes alone do not tell the labels of a workflow; empty where they do.

    The gates read no reviews. Outcomes that are believed first are right for their tickets, and the
    other tickets are left out only where silence says nothing.
    """
    if label is None or label.precedence == ("outcome",):
        return ""
    told = ", ".join(label.precedence)
    if label.precedence[0] != "outcome":
        return f"Labels are believed in the order {told}, and the gates do not read reviews yet."
    if label.absent != "unknown":
        return (
            f"A ticket without an outcome is {label.absent} only where nobody reviewed it "
            f"(precedence: {told}), and the gates do not read reviews yet."
        )
    return ""


async def read_truth(
    db: Database, columns: Columns, workflow: Workflow, *, known_by: datetime
) -> NDArray[np.int8]:
    """What became of scored tickets, by the newest label that was told of by then and is mature.

    1 is a bad end, 0 a good one, -1 stands for what is not known or not mature, and for everything
    where there is a `label_problem`.
    """
    label = workflow.label
    if label is None or label_problem(label):
        return np.full(len(columns), -1, dtype=np.int8)
    absent = {"unknown": -1, "negative": 0, "positive": 1}[label.absent]
    truth = np.full(len(columns), absent, dtype=np.int8)
    schema = {"ticket": pl.Int64, "ordinal": pl.Int32, "content": pl.String}
    keep = _labels(columns, workflow, label)
    told = await texts(db, _OUTCOMES, workflow.name, known_by, schema=schema, keep=keep)
    told = told.sort("ordinal")  # of several places that are equal the last one is assigned
    truth[told["place"].to_numpy()] = told["label"].to_numpy()
    mature_at = moments(columns["as_of"]) + int(label.maturity_days * DAY_MICROSECONDS)
    is_mature = mature_at <= int(known_by.timestamp() * 1e6)
    return np.where(is_mature, truth, -1).astype(np.int8)


async def read_slices(
    db: Database, workflow: str, columns: Columns, fields: Sequence[str]
) -> dict[str, Slices]:
    """The scored tickets of each value of each field, the largest slices first; as places."""
    if not fields or not len(columns):
        return {field: {} for field in fields}
    names = [f"value{i}" for i in range(len(fields))]
    chosen = ", ".join(f"content::json ->> ${i + 4} AS {name}" for i, name in enumerate(names))
    schema = {"ticket": pl.Int64, "revision": pl.Int32, **dict.fromkeys(names, pl.String)}
    arguments = (workflow, *span(columns), *fields)
    query = _FIELDS.format(chosen=chosen)
    found = await texts(db, query, *arguments, schema=schema, keep=_placed(columns))
    return {
        field: _largest(found.select("place", value=name))
        for field, name in zip(fields, names, strict=True)
    }


def _labels(columns: Columns, workflow: Workflow, label: Label) -> Keep:
    """Outcomes of scored tickets as `place`, `ordinal`, `label`, where they tell of it."""
    scope = event_scope(workflow, EventKind.OUTCOME)
    expression = compile_expression(label.sql, scope, expect=frozenset({Type.BOOLEAN}))
    fields = outcome_schema(workflow).fields
    schema = Schema(tuple(field for field in fields if field.name in expression.names))

    def keep(part: pl.DataFrame) -> pl.DataFrame:
        place, is_scored = _places(columns, part)
        part = part.with_columns(place=place).filter(is_scored)
        content = part.select("content").unique()  # often there are a few only
        told = schema.load_frame(content["content"].to_list()).select(label=expression.value)
        by_content = pl.concat([content, told], how="horizontal").drop_nulls("label")
        return part.join(by_content, on="content").select("place", "ordinal", "label")

    return keep


def _placed(columns: Columns) -> Keep:
    """Revisions that are scored, by their place."""

    def keep(part: pl.DataFrame) -> pl.DataFrame:
        place, is_scored = _places(columns, part)
        is_newest = columns["revision"][place] == part["revision"].to_numpy()
        placed = part.with_columns(place=place).filter(is_scored & is_newest)
        return placed.drop("ticket", "revision")

    return keep


def _places(columns: Columns, part: pl.DataFrame) -> tuple[Ints, NDArray[np.bool_]]:
    """Where each row's ticket is among the scored ones, and whether it is."""
    if not len(columns):
        return np.zeros(part.height, dtype=np.int64), np.zeros(part.height, dtype=np.bool_)
    asked = part["ticket"].to_numpy()
    place = np.searchsorted(columns["ticket"], asked).clip(max=len(columns) - 1)
    return place, columns["ticket"][place] == asked


def _largest(found: pl.DataFrame) -> Slices:
    grouped = (
        found.group_by("value")
        .agg(pl.col("place").sort())
        .sort(pl.col("place").list.len(), "value", descending=[True, False])
        .head(MOST_SLICES)
    )
    return {
        "(none)" if value is None else value: place.to_numpy()
        for value, place in zip(grouped["value"], grouped["place"], strict=True)
    }


_OUTCOMES = """
    SELECT hashtextextended(ticket_id, 0) AS ticket, ordinal, content FROM outcomes
    WHERE workflow = $1 AND kind = 'outcome' AND known_at <= $2 AND content IS NOT NULL
"""
_FIELDS = """
    SELECT hashtextextended(ticket_id, 0) AS ticket, revision, {chosen} FROM tickets
    WHERE workflow = $1 AND as_of BETWEEN $2 AND $3 AND content IS NOT NULL
"""
