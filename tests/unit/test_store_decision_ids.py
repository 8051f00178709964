"""Decision ids carry `as_of` and follow from the key."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiebreak.store.decision_ids import NotADecisionId, as_of_of, decision_id

MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))


@given(as_of=MOMENTS, ticket_id=st.text(min_size=1), revision=st.integers(1, 9))
def test_the_time_survives_to_the_microsecond(
    as_of: datetime, ticket_id: str, revision: int
) -> None:
    made = decision_id(as_of, "w", ticket_id, revision, 1)
    assert as_of_of(made) == as_of
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made == decision_id(as_of, "w", ticket_id, revision, 1)


@given(first=MOMENTS, second=MOMENTS)
def test_ids_sort_by_time(first: datetime, second: datetime) -> None:
    a, b = (decision_id(moment, "w", "T", 1, 1) for moment in (first, second))
    assert (a.int >> 64 < b.int >> 64) == (first < second)


def test_every_part_of_the_key_counts() -> None:
    as_of = datetime(2026, 1, 1, tzinfo=UTC)
    keys = [
        ("w", "T", 1, 1),
        ("v", "T", 1, 1),
        ("w", "U", 1, 1),
        ("w", "T", 2, 1),
        ("w", "T", 1, 2),
    ]
    assert len({decision_id(as_of, *key) for key in keys}) == 5


@pytest.mark.parametrize("other", [uuid.uuid4(), uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)])
def test_other_uuids_are_refused(other: uuid.UUID) -> None:
    with pytest.raises(NotADecisionId):
        as_of_of(other)


def test_an_impossible_remainder_is_refused() -> None:
    with pytest.raises(NotADecisionId):
        as_of_of(uuid.UUID("019d2f3a-1c00-7fff-8000-0123456789ab"))
