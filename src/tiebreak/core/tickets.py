"""Tickets on their way in: bytes or rows become typed values, or every mistake by field.

Values of a ticket are a plain dict that holds each known field once in its normal form
(`core.values`) and nothing for fields that are missing or null. Canonical bytes of it are what is
stored, hashed and replayed.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, cast

import orjson
import polars as pl

from tiebreak.core.bare import Column, converted, framed, maker, named
from tiebreak.core.bodies import MAX_PROBLEMS, Problems, load_object
from tiebreak.core.suggestions import did_you_mean
from tiebreak.core.values import Reader, Unfit, reader
from tiebreak.core.workflow import Field, FieldType, Workflow
from tiebreak.errors import Problem

MAX_TICKET_ID = 200
MAX_REVISION = 2**31 - 1

COLUMN_TYPES: dict[FieldType, pl.DataType] = {
    FieldType.TEXT: pl.String(),
    FieldType.CATEGORY: pl.String(),
    FieldType.INTEGER: pl.Int64(),
    FieldType.NUMBER: pl.Float64(),
    FieldType.BOOLEAN: pl.Boolean(),
    FieldType.TIMESTAMP: pl.Datetime("us", "UTC"),
    FieldType.DATE: pl.Date(),
    FieldType.TAGS: pl.List(pl.String()),
}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT = "%Y-%m-%dT%H:%M:%S%.fZ"  # as `canonical` writes it, with or without a fraction
_FEW_ROWS = 128  # up to here values are faster made into columns than decoded again (measured)

_integers = maker(pl.Int64())

Values = dict[str, Any]


class Schema:
    """The fields of a ticket or an outcome, compiled once.

    Raises `zoneinfo.ZoneInfoNotFoundError` when a field names an unknown time zone.
    """

    def __init__(self, fields: tuple[Field, ...]) -> None:
        self.fields = fields
        self.names = tuple(field.name for field in fields)
        self.columns = {
            name: COLUMN_TYPES[f.type] for name, f in zip(self.names, fields, strict=True)
        }
        self._strict = {field.name: reader(field, is_lax=False) for field in fields}
        self._lax: list[tuple[str, str, bool, Reader]] = [
            (f.name, f.source or f.name, f.required, reader(f, is_lax=True)) for f in fields
        ]
        self._makers = [(name, _maker(kind)) for name, kind in self.columns.items()]
        self._required = frozenset(field.name for field in fields if field.required)
        self._times = [f.name for f in fields if f.type is FieldType.TIMESTAMP]
        self._dates = [f.name for f in fields if f.type is FieldType.DATE]
        self._tags = [f.name for f in fields if f.type is FieldType.TAGS]
        self._decoded = pl.Struct({name: _json_type(kind) for name, kind in self.columns.items()})
        self._typed = [
            _typed(name, kind) for name, kind in self.columns.items() if kind.is_temporal()
        ]

    def parse(self, body: bytes) -> Values | Problems:
        """The values in a JSON object of fields, or everything that is wrong with it."""
        loaded = load_object(body, depth=1)
        return loaded if isinstance(loaded, tuple) else self.check(loaded)

    def check(self, fields: Mapping[str, Any], prefix: str = "") -> Values | Problems:
        """The values of a decoded JSON object, or its problems, `prefix` before each `where`."""
        readers = self._strict
        values: Values = {}
        problems: list[Problem] = []
        for name, given in fields.items():
            read = readers.get(name)
            if read is None:
                problems.append(_unknown(name, self.names, prefix))
            elif given is not None:
                try:
                    values[name] = read(given)
                except Unfit as unfit:
                    problems.append(_problem(prefix + name, unfit))
            if len(problems) >= MAX_PROBLEMS:
                return tuple(problems)
        if not self._required <= values.keys():
            problems += [
                Problem(prefix + name, "missing", "is required")
                for name in self.names
                if name in self._required and fields.get(name) is None
            ]
        return tuple(problems[:MAX_PROBLEMS]) if problems else values

    def read(self, row: Mapping[str, object]) -> Values | Problems:
        """The values in a row of a file, keyed by source column; other columns are not looked at.

        Texts may hold numbers, booleans, times and tags (separated by `;`), native values count
        as they are, and an empty text is null; otherwise the rules of `parse` hold. `where` of a
        problem is the source column.
        """
        values: Values = {}
        problems: list[Problem] = []
        for name, source, is_required, read in self._lax:
            given = row.get(source)
            if given is None or (isinstance(given, str) and not given.strip()):
                if is_required:
                    problems.append(Problem(source, "missing", "is required"))
                continue
            try:
                values[name] = read(given)
            except Unfit as unfit:
                problems.append(_problem(source, unfit))
        return tuple(problems[:MAX_PROBLEMS]) if problems else values

    def canonical(self, values: Mapping[str, Any]) -> bytes:
        """The one JSON text of these values: schema order, nulls left out, times in UTC with Z."""
        ordered = {name: value for name in self.names if (value := values.get(name)) is not None}
        return orjson.dumps(ordered, option=orjson.OPT_UTC_Z)

    def load(self, content: bytes | str) -> Values:
        """The values of canonical bytes; these are trusted, nothing is checked."""
        values: Values = orjson.loads(content)
        for name in self._times:
            if name in values:
                values[name] = datetime.fromisoformat(values[name])
        for name in self._dates:
            if name in values:
                values[name] = date.fromisoformat(values[name])
        for name in self._tags:
            if name in values:
                values[name] = tuple(values[name])
        return values

    def frame(self, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
        """Rows of values as typed columns in schema order, (len(rows), fields); missing is null."""
        return framed([make(name, [row.get(name) for row in rows]) for name, make in self._makers])

    def load_frame(self, contents: Sequence[str]) -> pl.DataFrame:
        """Canonical texts as `frame` gives their values; several times as fast for many."""
        if not self.names:
            return pl.DataFrame(height=len(contents))
        decoded = pl.Series(contents, dtype=pl.String).str.json_decode(self._decoded)
        return decoded.struct.unnest().with_columns_seq(self._typed)

    def submitted(self, submissions: Sequence[Submission]) -> pl.DataFrame:
        """The values of submissions as `frame` gives them."""
        if len(submissions) <= _FEW_ROWS:
            return self.frame([each.values for each in submissions])
        return self.load_frame([each.content.decode() for each in submissions])

    def json_schema(self) -> dict[str, Any]:
        """The JSON Schema of the fields' object, for the API's description."""
        return {
            "type": "object",
            "additionalProperties": False,
            "properties": {field.name: _field_schema(field) for field in self.fields},
            "required": [field.name for field in self.fields if field.required],
        }


def ticket_schema(workflow: Workflow) -> Schema:
    """What may be submitted: the fields of a ticket that are not after the fact."""
    return Schema(tuple(field for field in workflow.fields if not field.after))


def outcome_schema(workflow: Workflow) -> Schema:
    """What an outcome may tell."""
    return Schema(workflow.outcome_fields)


@dataclass(frozen=True, slots=True)
class Submission:
    """A valid ticket as it came in; equal content has equal bytes."""

    ticket_id: str
    revision: int | None  # as claimed by the sender; None: the next, or the equal latest one
    values: Values
    content: bytes
    content_hash: bytes  # sha256 of `content`


def parse_submission(schema: Schema, body: bytes) -> Submission | Problems:
    """A submission from JSON `{"ticket_id": …, "revision": …?, "fields": {…}}`, or its problems."""
    loaded = load_object(body, depth=2)
    if isinstance(loaded, tuple):
        return loaded
    problems = [_unknown(name, _ENVELOPE) for name in loaded if name not in _ENVELOPE]
    ticket_id: Any = loaded.get("ticket_id")
    revision: Any = loaded.get("revision")
    problems += _ticket_id_problems(ticket_id) + _revision_problems(revision)
    fields = loaded.get("fields")
    if not isinstance(fields, dict):
        message = "is required" if fields is None else "must be an object"
        problems.append(Problem("fields", "missing" if fields is None else "wrong_type", message))
        return tuple(problems[:MAX_PROBLEMS])
    values = schema.check(cast("dict[str, Any]", fields), "fields.")
    if isinstance(values, tuple):
        return (*problems, *values)[:MAX_PROBLEMS]
    return tuple(problems[:MAX_PROBLEMS]) or submission(schema, ticket_id, revision, values)


def read_submission(
    schema: Schema, row: Mapping[str, object], ticket_id_column: str
) -> Submission | Problems:
    """A submission from a row of a file, or its problems."""
    ticket_id = row.get(ticket_id_column)
    if type(ticket_id) is int:
        ticket_id = str(ticket_id)
    values = schema.read(row)
    problems = _ticket_id_problems(ticket_id, ticket_id_column)
    if isinstance(values, tuple):
        return (*problems, *values)
    return tuple(problems) or submission(schema, cast("str", ticket_id), None, values)


def submission(schema: Schema, ticket_id: str, revision: int | None, values: Values) -> Submission:
    """The submission of values that are already in normal form."""
    content = schema.canonical(values)
    return Submission(ticket_id, revision, values, content, hashlib.sha256(content).digest())


_ENVELOPE = ("ticket_id", "revision", "fields")


def _ticket_id_problems(given: object, where: str = "ticket_id") -> list[Problem]:
    if given is None or given == "":
        return [Problem(where, "missing", "is required")]
    if type(given) is not str:
        return [Problem(where, "wrong_type", "must be a text")]
    if len(given) > MAX_TICKET_ID:
        return [Problem(where, "too_long", f"has more than {MAX_TICKET_ID} characters")]
    if not given.isprintable() or given != given.strip():
        message = "must be printable characters without spaces around them"
        return [Problem(where, "not_printable", message)]
    return []


def _revision_problems(given: object) -> list[Problem]:
    if given is None or (type(given) is int and 1 <= given <= MAX_REVISION):
        return []
    return [Problem("revision", "wrong_type", "must be an integer from 1")]


def _problem(where: str, unfit: Unfit) -> Problem:
    return Problem(where, unfit.code, unfit.message, unfit.hint)


def _unknown(name: str, known: Iterable[str], prefix: str = "") -> Problem:
    shown = name if len(name) <= 80 else name[:80] + "…"
    message = f"`{shown}` is not a field"
    return Problem(prefix + shown, "unknown_field", message, did_you_mean(name, known))


def _maker(kind: pl.DataType) -> Callable[[str, list[Any]], Column]:
    """What makes a bare column of values; handing Polars moments takes twice as long."""
    if kind == COLUMN_TYPES[FieldType.TIMESTAMP]:
        return _moments
    return maker(kind)


def _json_type(kind: pl.DataType) -> pl.DataType:
    """The column type in which canonical JSON holds values of this one."""
    return pl.String() if kind.is_temporal() else kind


def _typed(name: str, kind: pl.DataType) -> pl.Expr:
    """The column of this temporal type, from what canonical JSON holds."""
    if kind == COLUMN_TYPES[FieldType.TIMESTAMP]:
        return pl.col(name).str.to_datetime(_MOMENT, time_unit="us", time_zone="UTC")
    return pl.col(name).str.to_date("%Y-%m-%d")


def moments(name: str, values: Iterable[datetime | None]) -> pl.Series:
    """Moments as a column (Datetime us UTC)."""
    made = _moments(name, values)
    return named(made, name, made.len())


def _moments(name: str, values: Iterable[datetime | None]) -> Column:
    since = [None if moment is None else _microseconds(moment) for moment in values]
    return converted(_integers(name, since), COLUMN_TYPES[FieldType.TIMESTAMP])


def _microseconds(moment: datetime) -> int:
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _field_schema(field: Field) -> dict[str, Any]:
    schema = copy.deepcopy(_JSON_TYPES[field.type])
    if field.description:
        schema["description"] = field.description
    entry = schema["items"] if field.type is FieldType.TAGS else schema
    if field.values:
        entry["enum"] = list(field.values)
    elif field.type in (FieldType.TEXT, FieldType.CATEGORY):
        schema["maxLength"] = field.max_length
    if field.minimum is not None:
        schema["minimum"] = field.minimum
    if field.maximum is not None:
        schema["maximum"] = field.maximum
    if not field.required:
        schema["type"] = [schema["type"], "null"]
        if "enum" in schema:
            schema["enum"].append(None)
    return schema


_JSON_TYPES: dict[FieldType, dict[str, Any]] = {
    FieldType.TEXT: {"type": "string"},
    FieldType.CATEGORY: {"type": "string"},
    FieldType.INTEGER: {"type": "integer"},
    FieldType.NUMBER: {"type": "number"},
    FieldType.BOOLEAN: {"type": "boolean"},
    FieldType.TIMESTAMP: {"type": "string", "format": "date-time"},
    FieldType.DATE: {"type": "string", "format": "date"},
    FieldType.TAGS: {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
}
