"""Tickets on their way in: every kind of bad value is refused by name, good ones take one form."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import jsonschema
import orjson
import polars as pl
import pytest

from tiebreak.core.tickets import (
    Schema,
    Submission,
    outcome_schema,
    parse_submission,
    read_submission,
    ticket_schema,
)
from tiebreak.core.workflow import Field, FieldType, Workflow

FIELDS = (
    Field(name="opened_at", type=FieldType.TIMESTAMP, required=True),
    Field(name="remarks", type=FieldType.TEXT, max_length=50, pii=True, source="Free text"),
    Field(name="kind", type=FieldType.CATEGORY, values=("gas", "water"), required=True),
    Field(name="secret_kind", type=FieldType.CATEGORY, values=("a", "b"), pii=True),
    Field(name="free_kind", type=FieldType.CATEGORY, max_length=5),
    Field(name="count", type=FieldType.INTEGER, minimum=0, maximum=10),
    Field(name="any_count", type=FieldType.INTEGER),
    Field(name="depth", type=FieldType.NUMBER, minimum=0, maximum=100),
    Field(name="is_urgent", type=FieldType.BOOLEAN),
    Field(name="due_on", type=FieldType.DATE),
    Field(name="members", type=FieldType.TAGS, values=("gas", "water", "rail")),
    Field(name="labels", type=FieldType.TAGS, max_length=2),
)
SCHEMA = Schema(FIELDS)
GOOD: dict[str, Any] = {"opened_at": "2017-01-31T08:30:00Z", "kind": "gas"}


def problems(**fields: Any) -> dict[str, str]:
    """Parse good fields with some replaced; the codes by place."""
    found = SCHEMA.parse(orjson.dumps({**GOOD, **fields}))
    return {p.where: p.code for p in found} if isinstance(found, tuple) else {}


def parsed(**fields: Any) -> dict[str, Any]:
    found = SCHEMA.parse(orjson.dumps({**GOOD, **fields}))
    assert isinstance(found, dict), found
    return found


def test_values_take_their_normal_form() -> None:
    values = parsed(
        remarks="Straße 1 🚧", count=10, any_count=-(2**63), depth=3, is_urgent=False,
        due_on="2017-02-28", members=["rail", "gas"], labels=[], free_kind="x",
    )  # fmt: skip
    assert values == {
        "opened_at": datetime(2017, 1, 31, 8, 30, tzinfo=UTC),
        "kind": "gas",
        "remarks": "Straße 1 🚧",
        "count": 10,
        "any_count": -(2**63),
        "depth": 3.0,
        "is_urgent": False,
        "due_on": date(2017, 2, 28),
        "members": ("rail", "gas"),
        "labels": (),
        "free_kind": "x",
    }
    assert type(values["depth"]) is float


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("remarks", 7, "wrong_type"),
        ("remarks", ["x"], "wrong_type"),
        ("remarks", {"x": 1}, "wrong_type"),
        ("remarks", "x" * 51, "too_long"),
        ("remarks", "x" * 10_000_000, "too_long"),
        ("remarks", "a\x00b", "nul_character"),
        ("kind", "Gas", "not_allowed_value"),
        ("kind", 1, "wrong_type"),
        ("free_kind", "xxxxxx", "too_long"),
        ("count", "3", "wrong_type"),
        ("count", 3.0, "wrong_type"),
        ("count", True, "wrong_type"),
        ("count", -1, "out_of_range"),
        ("count", 11, "out_of_range"),
        ("any_count", 2**63, "out_of_range"),
        ("depth", "3.5", "wrong_type"),
        ("depth", True, "wrong_type"),
        ("depth", 100.5, "out_of_range"),
        ("depth", -0.1, "out_of_range"),
        ("is_urgent", 1, "wrong_type"),
        ("is_urgent", "true", "wrong_type"),
        ("due_on", "2017-02-29", "not_a_date"),
        ("due_on", "2017-2-8", "not_a_date"),
        ("due_on", "2017-02-28T00:00:00Z", "not_a_date"),
        ("due_on", "2201-01-01", "time_out_of_range"),
        ("due_on", 20170228, "wrong_type"),
        ("members", "gas", "wrong_type"),
        ("members", ["gas", 1], "wrong_type"),
        ("members", ["gas", "steam"], "not_allowed_value"),
        ("members", ["gas", "gas"], "repeated_tag"),
        ("labels", ["a", "b", "c"], "too_long"),
        ("labels", ["a" * 201], "too_long"),
        ("labels", ["a\x00"], "nul_character"),
        ("opened_at", "2017-01-31T08:30:00", "no_time_zone"),
        ("opened_at", "2017-01-31", "not_a_time"),
        ("opened_at", "yesterday", "not_a_time"),
        ("opened_at", "2017-13-31T08:30:00Z", "not_a_time"),
        ("opened_at", "2017-01-31T25:30:00Z", "not_a_time"),
        ("opened_at", "20170131T083000Z", "not_a_time"),
        ("opened_at", 1485851400, "wrong_type"),
        ("opened_at", "2201-01-01T00:00:00Z", "time_out_of_range"),
        ("opened_at", "9999-12-31T23:59:59-14:00", "time_out_of_range"),
        ("opened_at", "1899-12-31T23:59:59Z", "time_out_of_range"),
        ("opened_at", "0001-01-01T00:00:00+14:00", "time_out_of_range"),
    ],
)
def test_a_bad_value_is_refused_by_name(field: str, value: Any, code: str) -> None:
    assert problems(**{field: value}) == {field: code}


def test_every_problem_is_told_at_once() -> None:
    found = SCHEMA.parse(b'{"kind": "gsa", "count": -1, "depht": 3}')
    assert isinstance(found, tuple)
    assert {(p.where, p.code) for p in found} == {
        ("opened_at", "missing"),
        ("kind", "not_allowed_value"),
        ("count", "out_of_range"),
        ("depht", "unknown_field"),
    }
    hints = {p.where: p.hint for p in found}
    assert hints["kind"] == "did you mean `gas`?"
    assert hints["depht"] == "did you mean `depth`?"


def test_personal_values_are_never_repeated() -> None:
    found = SCHEMA.parse(orjson.dumps({**GOOD, "secret_kind": "Ann", "remarks": "Ann\x00"}))
    assert isinstance(found, tuple)
    assert len(found) == 2
    assert not any("Ann" in str(problem) for problem in found)


def test_null_is_missing() -> None:
    assert "remarks" not in parsed(remarks=None)
    assert problems(kind=None) == {"kind": "missing"}
    assert SCHEMA.canonical(parsed(remarks=None)) == SCHEMA.canonical(parsed())


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b'{"count": 1', "not_json"),
        (b'{"depth": NaN}', "not_json"),
        (b'{"depth": -Infinity}', "not_json"),
        (b'{"depth": 1e999}', "not_json"),
        (b"[1]", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"null", "not_an_object"),
        (b'{"remarks": "\xff"}', "invalid_utf8"),
        (b'{"remarks": "\xed\xa0\x80"}', "invalid_utf8"),
        (b'{"remarks": "\\ud800"}', "lone_surrogate"),
        (b'{"remarks": "\\udc00x"}', "lone_surrogate"),
        (b'{"remarks": ' + b"[" * 100_000, "too_deep"),
        (b'{"remarks": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001, "too_deep"),
        (b'{"count": 1, "count": 2}', "duplicate_key"),
        (b'{"count": 1, "count" : 1}', "duplicate_key"),
        (b'{"count": 1, "c\\u006funt": 1}', "duplicate_key"),
        (b'{"remarks": {"a": 1, "a": 2}, "kind": "gas"}', "duplicate_key"),
        (b'{"count": ' + b"1" * 5_000 + b', "count": 1}', "not_json"),
        (b'{"a":' + b"[" * 1_000 + b"]" * 1_000 + b', "a": 1}', "too_deep"),
    ],
)
def test_a_body_that_is_no_clear_object_is_refused(body: bytes, code: str) -> None:
    found = SCHEMA.parse(body)
    assert isinstance(found, tuple)
    assert [problem.code for problem in found] == [code]


def test_text_that_looks_like_keys_is_no_repetition() -> None:
    assert parsed(remarks='he said "count": 1, "count": 2')["remarks"].startswith("he said")


def test_a_million_mistakes_are_told_a_hundred_times() -> None:
    body = orjson.dumps({f"unknown_{i}": i for i in range(50_000)})
    found = SCHEMA.parse(body)
    assert isinstance(found, tuple)
    assert len(found) == 100


def test_a_declared_zone_places_local_times() -> None:
    def read(text: str, **policy: Any) -> Any:
        field = Field(name="at", type=FieldType.TIMESTAMP, timezone="America/New_York", **policy)
        found = Schema((field,)).parse(orjson.dumps({"at": text}))
        return found["at"] if isinstance(found, dict) else found[0].code

    assert read("2017-01-31T08:30:00") == datetime(2017, 1, 31, 13, 30, tzinfo=UTC)
    assert read("2017-07-31 08:30") == datetime(2017, 7, 31, 12, 30, tzinfo=UTC)
    assert read("2017-07-31T08:30:00+00:00") == datetime(2017, 7, 31, 8, 30, tzinfo=UTC)
    # clocks went back on 5 November: 01:30 was twice
    assert read("2017-11-05T01:30:00") == "ambiguous_time"
    early = read("2017-11-05T01:30:00", ambiguous="earliest")
    assert early == datetime(2017, 11, 5, 5, 30, tzinfo=UTC)
    assert read("2017-11-05T01:30:00", ambiguous="latest") == early + timedelta(hours=1)
    # and forward on 12 March: 02:30 was never
    assert read("2017-03-12T02:30:00") == "nonexistent_time"
    forward = read("2017-03-12T02:30:00", nonexistent="forward")
    assert forward == datetime(2017, 3, 12, 7, 30, tzinfo=UTC)
    assert forward == read("2017-03-12T03:30:00")


ROW_GOOD: dict[str, Any] = {"opened_at": "2017-01-31T08:30:00Z", "kind": "gas"}


@pytest.mark.parametrize(
    ("field", "given", "value"),
    [
        ("count", "3", 3),
        ("count", " 3 ", 3),
        ("count", "3.0", 3),
        ("count", 3.0, 3),
        ("depth", "3.5", 3.5),
        ("depth", "1e1", 10.0),
        ("depth", Decimal("3.25"), 3.25),
        ("is_urgent", "Yes", True),
        ("is_urgent", "f", False),
        ("is_urgent", 1, True),
        ("due_on", date(2017, 1, 2), date(2017, 1, 2)),
        ("due_on", datetime(2017, 1, 2), date(2017, 1, 2)),
        ("due_on", " 2017-01-02 ", date(2017, 1, 2)),
        ("members", "gas; rail", ("gas", "rail")),
        ("members", ["gas"], ("gas",)),
        ("free_kind", 12, "12"),
        (
            "opened_at",
            datetime(2017, 1, 31, 3, 30, tzinfo=timezone(timedelta(hours=-5))),
            datetime(2017, 1, 31, 8, 30, tzinfo=UTC),
        ),
    ],
)
def test_rows_may_hold_texts_and_native_values(field: str, given: Any, value: Any) -> None:
    values = SCHEMA.read({**ROW_GOOD, field: given})
    assert isinstance(values, dict), values
    assert values[field] == value
    assert type(values[field]) is type(value)


@pytest.mark.parametrize(
    ("field", "given", "code"),
    [
        ("count", "three", "wrong_type"),
        ("count", "1_0", "wrong_type"),
        ("count", "٣", "wrong_type"),
        ("count", "3.5", "wrong_type"),
        ("count", 3.5, "wrong_type"),
        ("count", "11", "out_of_range"),
        ("count", "9" * 5_000, "wrong_type"),
        ("depth", "nan", "wrong_type"),
        ("depth", "inf", "wrong_type"),
        ("depth", float("nan"), "not_finite"),
        ("depth", float("inf"), "not_finite"),
        ("depth", "1e999", "not_finite"),
        ("is_urgent", "maybe", "wrong_type"),
        ("is_urgent", 2, "wrong_type"),
        ("due_on", datetime(2017, 1, 2, 3), "wrong_type"),
        ("opened_at", datetime(2017, 1, 2, 3), "no_time_zone"),
        ("opened_at", date(2017, 1, 2), "wrong_type"),
        ("opened_at", datetime(1, 1, 1, tzinfo=UTC), "time_out_of_range"),
        ("free_kind", "\ud800", "lone_surrogate"),
        ("kind", "", "missing"),
        ("kind", "  ", "missing"),
        ("kind", None, "missing"),
    ],
)
def test_bad_values_of_rows_are_refused(field: str, given: Any, code: str) -> None:
    found = SCHEMA.read({**ROW_GOOD, field: given})
    assert isinstance(found, tuple), found
    assert [(p.where, p.code) for p in found] == [(field, code)]


def test_rows_are_read_by_source_column() -> None:
    values = SCHEMA.read({**ROW_GOOD, "Free text": "hello", "post_status": "open"})
    assert isinstance(values, dict)
    assert values["remarks"] == "hello"
    found = SCHEMA.read({**ROW_GOOD, "Free text": "x" * 51})
    assert isinstance(found, tuple)
    assert found[0].where == "Free text"


def test_canonical_content_is_one_text() -> None:
    one = parsed(depth=3, remarks="é")
    two = SCHEMA.parse(
        b'{"remarks": "\\u00e9", "depth": 3.0, "kind": "gas",'
        b' "opened_at": "2017-01-31T03:30:00-05:00"}'
    )
    assert isinstance(two, dict)
    assert SCHEMA.canonical(one) == SCHEMA.canonical(two)
    assert SCHEMA.canonical(one) == (
        '{"opened_at":"2017-01-31T08:30:00Z","remarks":"é","kind":"gas","depth":3.0}'.encode()
    )
    assert SCHEMA.canonical(parsed(depth=-0.0)) == SCHEMA.canonical(parsed(depth=0.0))
    fraction = SCHEMA.canonical(parsed(opened_at="2017-01-31T08:30:00.000001Z"))
    assert b"08:30:00.000001Z" in fraction


def test_a_frame_has_every_field_typed_whatever_its_height() -> None:
    full = parsed(
        remarks="x", count=1, any_count=-(2**63), depth=0.5, is_urgent=True, due_on="2017-02-28",
        members=["gas", "rail"], labels=[], free_kind="y", secret_kind="a",
    )  # fmt: skip
    bare = parsed()
    expected = {
        "opened_at": pl.Datetime("us", "UTC"), "remarks": pl.String, "kind": pl.String,
        "secret_kind": pl.String, "free_kind": pl.String, "count": pl.Int64,
        "any_count": pl.Int64, "depth": pl.Float64, "is_urgent": pl.Boolean, "due_on": pl.Date,
        "members": pl.List(pl.String), "labels": pl.List(pl.String),
    }  # fmt: skip
    for height in (0, 1, 24, 25, 300):
        rows = [full, bare] * height
        frame = SCHEMA.frame(rows)
        assert dict(frame.schema) == expected
        assert frame.height == len(rows)
        if height:
            assert frame.row(0, named=True) == {**full, "members": ["gas", "rail"], "labels": []}
            assert frame.drop("opened_at", "kind").row(1) == (None,) * 10


SUBMISSION = {"ticket_id": "T-1", "fields": GOOD}


def submitted(**changes: Any) -> Submission | dict[str, str]:
    found = parse_submission(SCHEMA, orjson.dumps({**SUBMISSION, **changes}))
    return {p.where: p.code for p in found} if isinstance(found, tuple) else found


def test_a_submission_carries_its_content() -> None:
    found = submitted(revision=2)
    assert isinstance(found, Submission)
    assert (found.ticket_id, found.revision) == ("T-1", 2)
    assert SCHEMA.load(found.content) == found.values
    assert len(found.content_hash) == 32


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ticket_id": None}, {"ticket_id": "missing"}),
        ({"ticket_id": ""}, {"ticket_id": "missing"}),
        ({"ticket_id": 7}, {"ticket_id": "wrong_type"}),
        ({"ticket_id": "x" * 201}, {"ticket_id": "too_long"}),
        ({"ticket_id": "a\nb"}, {"ticket_id": "not_printable"}),
        ({"ticket_id": " a"}, {"ticket_id": "not_printable"}),
        ({"ticket_id": "a\x00"}, {"ticket_id": "not_printable"}),
        ({"revision": 0}, {"revision": "wrong_type"}),
        ({"revision": True}, {"revision": "wrong_type"}),
        ({"revision": "1"}, {"revision": "wrong_type"}),
        ({"revision": 2**31}, {"revision": "wrong_type"}),
        ({"fields": None}, {"fields": "missing"}),
        ({"fields": []}, {"fields": "wrong_type"}),
        ({"feilds": {}}, {"feilds": "unknown_field"}),
        ({"fields": {**GOOD, "count": -1}}, {"fields.count": "out_of_range"}),
        ({"ticket_id": "", "fields": {"kind": "gas"}},
         {"ticket_id": "missing", "fields.opened_at": "missing"}),
    ],
)  # fmt: skip
def test_a_bad_submission_is_refused(changes: dict[str, Any], expected: dict[str, str]) -> None:
    assert submitted(**changes) == expected


def test_a_key_twice_within_the_fields_is_refused() -> None:
    body = b'{"ticket_id": "T-1", "fields": {"kind": "gas", "kind": "water"}}'
    found = parse_submission(SCHEMA, body)
    assert isinstance(found, tuple)
    assert [(p.where, p.code) for p in found] == [("kind", "duplicate_key")]


def test_rows_become_submissions() -> None:
    found = read_submission(SCHEMA, {**ROW_GOOD, "case": 17}, "case")
    assert isinstance(found, Submission)
    assert found.ticket_id == "17"
    wrong = read_submission(SCHEMA, {"kind": "gas"}, "case")
    assert isinstance(wrong, tuple)
    assert {p.where for p in wrong} == {"case", "opened_at"}


def test_the_same_ticket_from_a_row_and_from_json_has_the_same_content() -> None:
    row = {"id": "T-1", "opened_at": datetime(2017, 1, 31, 8, 30, tzinfo=UTC), "kind": "gas"}
    from_row = read_submission(SCHEMA, row, "id")
    assert isinstance(from_row, Submission)
    assert from_row == submitted()


def test_the_json_schema_says_what_parse_does() -> None:
    schema = SCHEMA.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(GOOD)
    assert validator.is_valid({**GOOD, "secret_kind": None, "members": ["gas"]})
    for bad in ({"kind": "gas"}, {**GOOD, "count": 11}, {**GOOD, "kind": None}, {**GOOD, "x": 1},
                {**GOOD, "members": ["gas", "gas"]}, {**GOOD, "remarks": "x" * 51}):  # fmt: skip
        assert not validator.is_valid(bad), bad


def test_schemas_of_a_workflow_keep_after_the_fact_fields_apart() -> None:
    workflow = Workflow(
        name="w",
        title="W",
        time="opened_at",
        fields=(*FIELDS, Field(name="closed_by", type=FieldType.TEXT, after=True)),
        outcome_fields=(Field(name="was_late", type=FieldType.BOOLEAN),),
    )
    found = ticket_schema(workflow).parse(orjson.dumps({**GOOD, "closed_by": "x"}))
    assert isinstance(found, tuple)
    assert found[0].code == "unknown_field"
    assert outcome_schema(workflow).parse(b'{"was_late": true}') == {"was_late": True}
