"""Whatever comes in: a value in normal form, or a problem; never an exception, never two forms."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from tiebreak.core.tickets import Schema, parse_submission, read_submission
from tiebreak.core.workflow import Field, FieldType

FIELDS = (
    Field(name="text", type=FieldType.TEXT, max_length=30),
    Field(name="category", type=FieldType.CATEGORY, values=("gas", "water", "é")),
    Field(name="integer", type=FieldType.INTEGER),
    Field(name="number", type=FieldType.NUMBER),
    Field(name="boolean", type=FieldType.BOOLEAN),
    Field(
        name="timestamp",
        type=FieldType.TIMESTAMP,
        timezone="America/New_York",
        ambiguous="latest",
        nonexistent="forward",
    ),
    Field(name="date", type=FieldType.DATE),
    Field(name="tags", type=FieldType.TAGS),
)
SCHEMA = Schema(FIELDS)

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
moments = st.datetimes(datetime(1900, 1, 2), datetime(2200, 12, 30))
values = st.fixed_dictionaries(
    {},
    optional={
        "text": texts,
        "category": st.sampled_from(["gas", "water", "é"]),
        "integer": st.integers(-(2**63), 2**63 - 1),
        "number": st.floats(allow_nan=False, allow_infinity=False),
        "boolean": st.booleans(),
        "timestamp": moments.map(lambda m: m.replace(tzinfo=UTC)),
        "date": moments.map(datetime.date),
        "tags": st.lists(texts, max_size=4, unique=True),
    },
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | moments | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
names = st.sampled_from([*SCHEMA.names, "ticket_id", "revision", "fields", "texd"])


@given(values)
def test_content_is_one_text_and_comes_back_equal(given_values: dict[str, Any]) -> None:
    body = orjson.dumps(given_values)
    first = SCHEMA.parse(body)
    assert isinstance(first, dict), first
    content = SCHEMA.canonical(first)
    assert SCHEMA.load(content) == first
    again = SCHEMA.parse(content)
    assert again == first
    assert SCHEMA.canonical(first) == content
    assert SCHEMA.read(given_values) in (first, SCHEMA.read(first))


@given(st.lists(values, min_size=1, max_size=60))
def test_frames_do_not_depend_on_the_batch(rows: list[dict[str, Any]]) -> None:
    parsed = [SCHEMA.parse(orjson.dumps(row)) for row in rows]
    whole = SCHEMA.frame(parsed)  # type: ignore[arg-type]
    for i, row in enumerate(parsed):
        assert isinstance(row, dict)
        single = SCHEMA.frame([row])
        assert single.equals(whole[i])
        expected = {name: row.get(name) for name in SCHEMA.names}
        if expected["tags"] is not None:
            expected["tags"] = list(expected["tags"])
        assert single.row(0, named=True) == expected


@given(st.dictionaries(names | st.text(max_size=9), anything, max_size=8))
def test_no_row_and_no_body_raises(row: dict[str, Any]) -> None:
    read_submission(SCHEMA, row, "ticket_id")
    SCHEMA.check(row)
    try:
        body = orjson.dumps(row)
    except TypeError:
        return
    parse_submission(SCHEMA, body)
    parse_submission(SCHEMA, b'{"ticket_id":"x","fields":' + body + b"}")


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda t: t.encode(errors="replace")))
def test_no_bytes_raise(body: bytes) -> None:
    SCHEMA.parse(body)
    SCHEMA.parse(b'{"text":"' + body + b'"}')
    parse_submission(SCHEMA, b'{"fields":' + body + b"}")


@given(st.lists(values, max_size=8))
def test_texts_decoded_at_once_give_the_same_columns(rows: list[dict[str, Any]]) -> None:
    parsed = [SCHEMA.parse(orjson.dumps(row)) for row in rows]
    texts = [SCHEMA.canonical(row).decode() for row in parsed]  # type: ignore[arg-type]
    decoded = SCHEMA.load_frame(texts)
    expected = SCHEMA.frame([SCHEMA.load(text) for text in texts])
    assert decoded.schema == expected.schema
    assert decoded.equals(expected)
    numbers = [frame["number"].fill_null(0.0).to_numpy() for frame in (decoded, expected)]
    assert numbers[0].tobytes() == numbers[1].tobytes()  # equality forgives the sign of zero
