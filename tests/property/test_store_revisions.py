"""Numbering revisions: a batch is numbered as its members would be one by one."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st
from tests.store_samples import ticket

from tiebreak.core.tickets import Submission
from tiebreak.store.revisions import (
    Existing,
    New,
    RevisionConflict,
    Stored,
    StoredRevisions,
    number,
)

AS_OF = datetime(2026, 1, 1, tzinfo=UTC)
SUBMISSIONS = st.lists(
    st.builds(
        lambda ticket_id, depth, revision: ticket(ticket_id, revision, depth=depth),
        st.sampled_from("AB"),
        st.integers(1, 3),
        st.one_of(st.none(), st.integers(1, 4)),
    ),
    max_size=12,
)


class Model:
    """The rules in their plainest form: a list of contents a ticket."""

    def __init__(self) -> None:
        self.contents: dict[str, list[bytes]] = {}

    def submit(self, submission: Submission) -> int | None:
        """The revision that answers, or None for a contradiction."""
        contents = self.contents.setdefault(submission.ticket_id, [])
        claim = submission.revision
        if claim is not None and claim > len(contents) + 1:
            return None
        if claim is not None and claim <= len(contents):
            return claim if contents[claim - 1] == submission.content else None
        if not contents or contents[-1] != submission.content:
            contents.append(submission.content)
        return len(contents)

    def stored(self) -> StoredRevisions:
        """Everything stored, as numbering is given it."""
        return {
            (ticket_id, i): Stored(content, Existing(i, AS_OF))
            for ticket_id, contents in self.contents.items()
            for i, content in enumerate(contents, start=1)
        }


def answer(result: object) -> int | None:
    match result:
        case New(revision, _) | Existing(revision, _):
            return revision
        case RevisionConflict():
            return None
    raise AssertionError(result)


@given(before=SUBMISSIONS, batch=SUBMISSIONS)
def test_a_batch_is_numbered_like_its_members_one_by_one(
    before: list[Submission], batch: list[Submission]
) -> None:
    model = Model()
    for submission in before:
        model.submit(submission)
    stored = model.stored()
    numbered = number(batch, [s.content for s in batch], stored)
    assert [answer(result) for result in numbered] == [model.submit(s) for s in batch]
    for submission, result in zip(batch, numbered, strict=True):
        if isinstance(result, New):
            assert batch[result.leader].content == submission.content
            assert (submission.ticket_id, result.revision) not in stored


def test_a_b_a_makes_three_revisions() -> None:
    a, b = ticket("T", depth=1), ticket("T", depth=2)
    numbered = number([a, b, a, a], [s.content for s in (a, b, a, a)], {})
    assert [answer(result) for result in numbered] == [1, 2, 3, 3]
