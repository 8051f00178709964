"""Which revision of its ticket a submission is: a new one, one that exists, or a contradiction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tiebreak.core.tickets import Submission
from tiebreak.errors import Conflict


class RevisionConflict(Conflict):
    """The revision number given contradicts the revisions of this ticket."""

    code = "revision_conflict"


@dataclass(frozen=True, slots=True)
class Existing:
    """The submission equals a revision that is stored already."""

    revision: int
    as_of: datetime


@dataclass(frozen=True, slots=True)
class New:
    """The submission is a new revision; `leader` is the first submission of the batch that is."""

    revision: int
    leader: int


Numbered = New | Existing | RevisionConflict


@dataclass(frozen=True, slots=True)
class Stored:
    """A revision that is stored, as far as numbering needs it."""

    content_key: bytes
    found: Existing


StoredRevisions = Mapping[tuple[str, int], Stored]


def claims(submissions: Sequence[Submission]) -> tuple[list[str], list[int]]:
    """The tickets and revision numbers to look up, 0 where none is claimed."""
    pairs = dict.fromkeys((s.ticket_id, s.revision or 0) for s in submissions)
    return [ticket_id for ticket_id, _ in pairs], [revision for _, revision in pairs]


def stored(row: Mapping[str, Any]) -> dict[tuple[str, int], Stored]:
    """The latest revision of every ticket and the revisions claimed, of `admission_read`'s row."""
    if row["ids"] is None:
        return {}
    return {
        (ticket_id, revision): Stored(content_hash, Existing(revision, as_of))
        for ticket_id, revision, content_hash, as_of in zip(
            row["ids"], row["revisions"], row["content_hashes"], row["times"], strict=True
        )
    }


def number(
    submissions: Sequence[Submission], content_keys: Sequence[bytes], stored: StoredRevisions
) -> list[Numbered]:
    """Number the submissions of a batch in their order, each after those before it.

    Content equal to the latest revision is that revision; other content is the next one. A
    revision number that is claimed must be the next one or hold this very content.
    """
    latest: dict[str, int] = {}
    for ticket_id, revision in stored:
        latest[ticket_id] = max(latest.get(ticket_id, 0), revision)
    known: dict[tuple[str, int], tuple[bytes, Numbered]] = {
        key: (revision.content_key, revision.found) for key, revision in stored.items()
    }
    numbered: list[Numbered] = []
    for i, (submission, key) in enumerate(zip(submissions, content_keys, strict=True)):
        ticket_id, newest = submission.ticket_id, latest.get(submission.ticket_id, 0)
        result = _claimed(submission, key, newest, known)
        if result is None:
            content, found = known.get((ticket_id, newest), (b"", None))
            if found is not None and content == key:
                result = found
            else:
                result = New(newest + 1, i)
                latest[ticket_id] = newest + 1
                known[ticket_id, newest + 1] = (key, result)
        numbered.append(result)
    return numbered


def _claimed(
    submission: Submission,
    key: bytes,
    newest: int,
    known: Mapping[tuple[str, int], tuple[bytes, Numbered]],
) -> Numbered | None:
    """What follows from a claimed revision number; None when it is the next one, or not given."""
    claim = submission.revision
    if claim is None or claim == newest + 1:
        return None
    if claim > newest + 1:
        return RevisionConflict(
            f"Revision {claim} would leave a gap: the latest is {newest}.",
            hint=f"Send it as revision {newest + 1}, or without a number.",
            ticket_id=submission.ticket_id,
            latest=newest,
        )
    content, found = known[submission.ticket_id, claim]
    if content == key:
        return found
    return RevisionConflict(
        f"Revision {claim} exists with other content; the latest is {newest}.",
        hint=f"Send a correction as revision {newest + 1}, or without a number.",
        ticket_id=submission.ticket_id,
        latest=newest,
    )
