"""Cursors come back as they went out, and nothing else is a cursor."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiebreak.web.cursors import InvalidCursor, read_cursor, write_cursor

MOMENTS = st.datetimes(
    min_value=datetime(1970, 1, 1),
    max_value=datetime(9999, 12, 31),
    timezones=st.just(UTC),
)


@given(MOMENTS, st.uuids())
def test_a_cursor_reads_back_to_the_microsecond(moment: datetime, key: uuid.UUID) -> None:
    assert read_cursor(write_cursor((moment, key))) == (moment, key)


@pytest.mark.parametrize("text", ["", "x", "AAAA", "é", "A" * 33, "_" * 32, "A" * 31 + "="])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidCursor):
        read_cursor(text)


@given(st.text(max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        read_cursor(text)
    except InvalidCursor:
        return
