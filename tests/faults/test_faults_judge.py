"""The judge notices what it is there for, and a wire is cut where it shall be."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from tests.faults.judge import Stored, compared
from tests.faults.ledger import Ledger
from tests.faults.rounds import never_cut
from tests.faults.stacks import Stack
from tests.faults.wires import COPY_BYTES, Link

EARLY, LATE = "2026-01-02T10:00:00Z", "2026-01-02T10:00:01Z"


def answer(ticket_id: str, decision_id: str = "d", as_of: str = EARLY, **more: Any) -> Any:
    told: dict[str, Any] = {"ticket_id": ticket_id, "decision_id": decision_id, "as_of": as_of}
    told["model"] = {"status": "scored"}
    return {**told, "revision": 1, "ordinal": 1, **more}


@pytest.fixture
def ledger() -> Ledger:
    """One ticket is acknowledged, another one was sent."""
    made = Ledger()
    made.send({"ticket_id": "a"})
    made.decided("single", answer("a"), 1.0)
    made.send({"ticket_id": "b"})
    return made


def stored(**changes: Any) -> Stored:
    sound: dict[str, Any] = {
        "tickets": [("a", 1), ("b", 1)],
        "decisions": {"a": ["d"]},
        "outcomes": {},
        "undecided": frozenset({"b"}),
    }
    return Stored(**{**sound, **changes})


def test_nothing_is_wrong_when_all_is_well(ledger: Ledger) -> None:
    ledger.decided("bulk", answer("a"), 2.0)
    ledger.decided("bulk", answer("b", as_of=LATE), 2.0)
    ledger.refused(503, "")
    assert ledger.contradictions == []
    assert ledger.repeats == 1
    assert compared(ledger, stored(decisions={"a": ["d"], "b": ["d"]})) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decisions": {}}, "LOST: the decision"),
        ({"decisions": {"a": ["e"]}}, "LOST: the decision"),
        ({"decisions": {"a": ["d", "e"]}}, "DOUBLED: a"),
        ({"tickets": [("a", 1), ("a", 1)]}, "DOUBLED: a"),
        ({"tickets": [("a", 1), ("a", 2)]}, "a has revision 2"),
        ({"outcomes": {"a": [(1, EARLY), (2, LATE)]}}, "DOUBLED: a"),
    ],
)
def test_what_is_lost_or_doubled_is_named(
    ledger: Ledger, changes: dict[str, Any], words: str
) -> None:
    (wrong,) = compared(ledger, stored(**changes))
    assert words in wrong


def test_a_lost_outcome_is_named(ledger: Ledger) -> None:
    ledger.told("a", {"ordinal": 1, "known_at": LATE}, 2.0)
    (wrong,) = compared(ledger, stored())
    assert "LOST: the outcome of a" in wrong


def test_answers_that_contradict_what_was_known_are_noted(ledger: Ledger) -> None:
    ledger.decided("bulk", answer("a", "e"), 2.0)  # another answer for the same ticket
    ledger.decided("bulk", answer("b"), 2.0)  # sent after `a` was answered, and not later
    ledger.decided("bulk", answer("a", revision=2), 2.0)
    ledger.told("a", {"ordinal": 1, "known_at": LATE}, 2.0)
    ledger.told("a", {"ordinal": 2, "known_at": LATE}, 2.0)
    ledger.refused(500, "failed")
    assert len(ledger.contradictions) == 6


def test_a_decision_by_rules_alone_is_noted(ledger: Ledger) -> None:
    ledger.decided("bulk", answer("b", as_of=LATE, model={"status": "failed"}), 2.0)
    (wrong,) = ledger.contradictions
    assert "b is not scored" in wrong


def test_cuts_that_never_bit_are_named() -> None:
    names = ["worker", "cut_copy", "cut_answer", "cut_copy"]
    assert never_cut(names, {"answer": 1}) == ["no connection was ever cut by cut_copy"]
    assert never_cut(names, {"answer": 1, "copy": 2}) == []


def test_a_start_that_ends_by_itself_is_told_at_once_with_its_words() -> None:
    stack = Stack(TIEBREAK_API__WORKERS="none")
    try:
        with pytest.raises(
            AssertionError, match=r"it has ended by itself\n--- up.log\n(?s:.*)WORKERS"
        ):
            stack.start_prepared()
    finally:
        stack.close()


def test_a_copy_is_cut_in_its_middle() -> None:
    link = Link("copy", random.Random(1))
    piece = message(b"d", bytes(COPY_BYTES))
    startup = struct.pack("!I", 8) + bytes(4)
    assert link.asked(startup + piece) == len(startup + piece)  # nothing is copied yet
    assert link.told(message(b"G", b"...")) == 8
    assert 0 <= link.asked(piece) < len(piece)


def test_an_answer_is_lost_after_its_request_went_on() -> None:
    link = Link("answer", random.Random(1))
    startup = struct.pack("!I", 8) + bytes(4)
    link.asked(startup)
    commit, done = message(b"Q", b"COMMIT\0"), message(b"C", b"COMMIT\0")
    for _ in range(100):
        assert link.asked(commit) == len(commit)
        if link.told(done) == 0:
            return
    pytest.fail("no answer was lost")


def message(kind: bytes, content: bytes) -> bytes:
    """A message of PostgreSQL's protocol."""
    return kind + struct.pack("!I", len(content) + 4) + content
