"""Lines of a stream: numbers, limits, and nothing lost at chunk borders."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiebreak.web.bodies import Line, read_lines


async def chunks_of(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def lines_of(*parts: bytes, limit: int = 100) -> list[Line]:
    return [line async for line in read_lines(chunks_of(*parts), limit)]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((), []),
        ((b"",), []),
        ((b"a\nb\n",), [Line(1, b"a"), Line(2, b"b")]),
        ((b"a\nb",), [Line(1, b"a"), Line(2, b"b")]),
        ((b"a", b"a\n", b"\n  \nb\r\n"), [Line(1, b"aa"), Line(4, b"b\r")]),
        ((b"\n\n\n",), []),
    ],
)
async def test_lines_are_numbered_and_blank_ones_skipped(
    parts: tuple[bytes, ...], expected: list[Line]
) -> None:
    assert await lines_of(*parts) == expected


async def test_a_line_over_the_limit_is_told_once_and_the_next_one_is_whole() -> None:
    found = await lines_of(b"x" * 8, b"x" * 8, b"x\nok\n" + b"y" * 11, limit=10)
    assert found == [Line(1, None), Line(2, b"ok"), Line(3, None)]


async def test_a_line_of_exactly_the_limit_is_taken() -> None:
    assert await lines_of(b"x" * 10 + b"\n", limit=10) == [Line(1, b"x" * 10)]


@given(
    text=st.text(alphabet="ab\n ", max_size=60).map(str.encode),
    cuts=st.lists(st.integers(0, 60), max_size=8),
)
async def test_chunk_borders_change_nothing(text: bytes, cuts: list[int]) -> None:
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    parts = [text[a:b] for a, b in pairwise(borders)]
    assert await lines_of(*parts, limit=7) == await lines_of(text, limit=7)
