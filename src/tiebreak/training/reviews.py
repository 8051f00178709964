"""Labels that reviews give: what reviewers agree on, or one alone says, and how likely it was.

A review is a label of the tickets that were looked at, and what is looked at is no fair sample: a
row counts by the inverse of the probability with which its ticket was sent to review, which stands
on its decision.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import text

from tiebreak.core.bands import Band
from tiebreak.core.workflow import BandLabel
from tiebreak.store.database import Database

MOST_WEIGHT = 20.0  # a ticket of a 1% sample would count a hundredfold: few would decide all


@dataclass(frozen=True, slots=True)
class Word:
    """The last word of a reviewer on a ticket: whether it ends badly; `given_at` is when."""

    reviewer: str
    is_bad: bool
    given_at: datetime
    is_lead: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the words on a ticket come to, since when, and whether more than one stands behind."""

    value: bool
    known_at: datetime
    is_adjudicated: bool


def verdict(words: Iterable[Word]) -> Verdict | None:
    """The verdict of a ticket's words, one a reviewer; None where they contradict each other.

    A lead's word settles it, the latest of several. Else the side with more reviewers does, two at
    least. One word that nobody contradicts is a verdict too, though not an adjudicated one.
    """
    ordered = sorted(words, key=lambda word: (word.given_at, word.reviewer))
    leads = [word for word in ordered if word.is_lead]
    if leads:
        return Verdict(leads[-1].is_bad, leads[-1].given_at, is_adjudicated=True)
    bad, good = ([w for w in ordered if w.is_bad is side] for side in (True, False))
    if len(bad) == len(good):
        return None
    more, fewer = (bad, good) if len(bad) > len(good) else (good, bad)
    if len(more) > 1:
        deciding = more[max(1, len(fewer))]  # the first with whom its side is the larger one
        known_at = max([deciding.given_at, *(word.given_at for word in fewer)])
        return Verdict(deciding.is_bad, known_at, is_adjudicated=True)
    return Verdict(more[0].is_bad, more[0].given_at, is_adjudicated=False)


def weight(probability: float | None) -> float:
    """What a row counts whose ticket was sent to review with this probability, 20 at most.

    Without a decision, or where somebody looked though nothing had sent the ticket, it counts 1.
    """
    if not probability:
        return 1.0
    return min(1.0 / probability, MOST_WEIGHT)


async def read_verdicts(
    db: Database,
    workflow: str,
    *,
    known_by: datetime,
    review_from: BandLabel,
    ticket_ids: Collection[str] | None = None,
) -> dict[str, Verdict]:
    """The verdicts on tickets, of all or of these, by the words that were given by then.

    A reviewer's newest word counts. Who held a lead's key when it was given is a lead.
    """
    bad_from = Band.of(review_from)
    rows = await _rows(db, _WORDS, workflow, known_by, ticket_ids)
    found: dict[str, Verdict] = {}
    for ticket_id, told in groupby(rows, key=lambda row: row["ticket_id"]):
        words = [
            Word(row["reviewer"], row["band"] >= bad_from, row["given_at"], row["is_lead"])
            for row in told
        ]
        settled = verdict(words)
        if settled is not None:
            found[ticket_id] = settled
    return found


async def read_weights(
    db: Database, workflow: str, *, known_by: datetime, ticket_ids: Collection[str] | None = None
) -> dict[str, float]:
    """The weights of reviewed tickets, by the first decision on their newest decided revision."""
    rows = await _rows(db, _PROBABILITIES, workflow, known_by, ticket_ids)
    return {row["ticket_id"]: weight(row["review_probability"]) for row in rows}


async def _rows(
    db: Database,
    query: str,
    workflow: str,
    known_by: datetime,
    ticket_ids: Collection[str] | None,
) -> list[Mapping[str, Any]]:
    values = {
        "workflow": workflow,
        "known_by": known_by,
        "ticket_ids": None if ticket_ids is None else list(ticket_ids),
    }
    async with db.read() as conn:
        return [dict(row) for row in (await conn.execute(text(query), values)).mappings()]


_WORDS = """
    SELECT DISTINCT ON (f.ticket_id, f.reviewer)
        f.ticket_id, f.reviewer, f.band, f.given_at, EXISTS (
            SELECT FROM api_keys k LEFT JOIN api_key_revocations r USING (key_id)
            WHERE k.person = split_part(f.reviewer, '/', 1) AND 'lead' = ANY (k.roles)
              AND k.created_at <= f.given_at
              AND (k.expires_at IS NULL OR k.expires_at > f.given_at)
              AND (r.revoked_at IS NULL OR r.revoked_at > f.given_at)) AS is_lead
    FROM ml_feedback f
    WHERE f.workflow = :workflow AND f.given_at <= :known_by
      AND (CAST(:ticket_ids AS text[]) IS NULL OR f.ticket_id = ANY (CAST(:ticket_ids AS text[])))
    ORDER BY f.ticket_id, f.reviewer, f.given_at DESC, f.ordinal DESC
"""
_PROBABILITIES = """
    SELECT DISTINCT ON (d.ticket_id) d.ticket_id, d.review_probability
    FROM (
        SELECT DISTINCT ticket_id FROM ml_feedback
        WHERE workflow = :workflow AND given_at <= :known_by
          AND (CAST(:ticket_ids AS text[]) IS NULL OR ticket_id = ANY (CAST(:ticket_ids AS text[])))
    ) AS f
    JOIN decision_keys k ON k.workflow = :workflow AND k.ticket_id = f.ticket_id AND k.ordinal = 1
    JOIN ticket_keys t ON (t.workflow, t.ticket_id, t.revision)
        = (k.workflow, k.ticket_id, k.revision)
    JOIN decisions d ON (d.as_of, d.decision_id) = (t.as_of, k.decision_id)
    ORDER BY d.ticket_id, k.revision DESC
"""
