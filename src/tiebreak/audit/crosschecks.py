"""Cross-checks: the keys that are not sealed agree with the sealed records they stand for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CrossCheck:
    """A query for what should not be; it takes the most rows to give, each a key."""

    table: str
    cause: str
    message: str
    query: str


_SAME_TICKET = """
    t.as_of = k.as_of AND t.workflow = k.workflow AND t.ticket_id = k.ticket_id
    AND t.revision = k.revision
"""
_SAME_DECISION = """
    d.decision_id = k.decision_id AND d.workflow = k.workflow AND d.ticket_id = k.ticket_id
    AND d.revision = k.revision AND d.ordinal = k.ordinal
"""

CROSS_CHECKS = (
    CrossCheck(
        "ticket_keys",
        "ticket_missing",
        "A ticket key has no ticket.",
        f"""
        SELECT k.workflow, k.ticket_id, k.revision FROM ticket_keys k
        WHERE NOT EXISTS (SELECT FROM tickets t WHERE {_SAME_TICKET} AND t.origin = k.origin)
        ORDER BY k.as_of, k.ticket_id LIMIT $1
        """,  # noqa: S608
    ),
    CrossCheck(
        "tickets",
        "ticket_key_missing",
        "A ticket has no key.",
        f"""
        SELECT t.workflow, t.ticket_id, t.revision FROM tickets t
        WHERE NOT EXISTS (SELECT FROM ticket_keys k WHERE {_SAME_TICKET})
        ORDER BY t.as_of, t.ticket_id LIMIT $1
        """,  # noqa: S608
    ),
    CrossCheck(
        "decision_keys",
        "decision_missing",
        "A decision key has no decision.",
        f"""
        SELECT k.workflow, k.ticket_id, k.revision, k.ordinal FROM decision_keys k
        WHERE NOT EXISTS (SELECT FROM decisions d WHERE {_SAME_DECISION})
        ORDER BY k.workflow, k.ticket_id, k.revision, k.ordinal LIMIT $1
        """,  # noqa: S608
    ),
    CrossCheck(
        "decisions",
        "decision_key_missing",
        "A decision has no key.",
        f"""
        SELECT d.workflow, d.ticket_id, d.revision, d.ordinal FROM decisions d
        WHERE NOT EXISTS (SELECT FROM decision_keys k WHERE {_SAME_DECISION})
        ORDER BY d.as_of, d.decision_id LIMIT $1
        """,  # noqa: S608
    ),
    CrossCheck(
        "decisions",
        "decided_ticket_missing",
        "A decision has no ticket.",
        f"""
        SELECT k.workflow, k.ticket_id, k.revision, k.ordinal FROM decisions k
        WHERE NOT EXISTS (SELECT FROM tickets t WHERE {_SAME_TICKET})
        ORDER BY k.as_of, k.decision_id LIMIT $1
        """,  # noqa: S608
    ),
)
