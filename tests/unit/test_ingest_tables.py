"""Columnar files from strangers: native values, limits, and never more than a clear error."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tiebreak.ingest import arrow, child
from tiebreak.ingest.files import read_rows
from tiebreak.ingest.foreign import command
from tiebreak.ingest.rows import FileUnreadable, Row

Write = Callable[[pl.DataFrame, Path], None]


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    frame.write_parquet(path, row_group_size=100)


def write_file(frame: pl.DataFrame, path: Path) -> None:
    frame.write_ipc(path, compression="zstd")


def write_stream(frame: pl.DataFrame, path: Path) -> None:
    frame.write_ipc_stream(path, compression="lz4")


KINDS = {"a.parquet": write_parquet, "a.feather": write_file, "a.arrow": write_stream}
each_kind = pytest.mark.parametrize(("name", "write"), KINDS.items(), ids=KINDS)


def read(frame: pl.DataFrame, write: Write, path: Path) -> list[Row]:
    write(frame, path)
    return list(read_rows(path))


def refusal(path: Path) -> FileUnreadable:
    with pytest.raises(FileUnreadable) as caught:
        list(read_rows(path))
    assert path.name in caught.value.message
    assert caught.value.hint
    return caught.value


@each_kind
def test_rows_keep_their_values_and_order(tmp_path: Path, name: str, write: Write) -> None:
    count = 9_001
    moment = datetime(2024, 5, 1, 12, 30, 15, 123456, tzinfo=UTC)
    frame = pl.DataFrame(
        {
            "n": range(count),
            "t": ["ä\n\"'"] * (count - 1) + [None],
            "at": [moment] * count,
            "local": [moment.replace(tzinfo=None)] * count,
            "on": [date(2024, 5, 1)] * count,
            "tags": [["x", "y"]] * (count - 1) + [[]],
            "kind": pl.Series(["a", "b", "c"] * (count // 3) + ["a"] * (count % 3)).cast(
                pl.Categorical
            ),
            "yes": [True] * count,
        }
    )
    rows = read(frame, write, tmp_path / name)
    assert [row.number for row in rows] == list(range(1, count + 1))
    assert [dict(row.cells) for row in rows] == frame.rows(named=True)
    assert not any(row.problems for row in rows)


@each_kind
def test_values_that_no_field_takes_spoil_no_row_and_no_file(
    tmp_path: Path, name: str, write: Write
) -> None:
    frame = pl.DataFrame(
        {
            "nan": [float("nan"), float("inf")],
            "bytes": [b"\xff", b""],
            "price": [Decimal("1.50"), None],
            "clock": [time(1, 2), None],
            "inner": [{"a": 1}, {"a": None}],
        }
    )
    rows = read(frame, write, tmp_path / name)
    assert rows[0].cells["price"] == "1.50"
    assert rows[0].cells["inner"] == {"a": 1}
    assert [row.cells["nan"] for row in rows] == ["nan", "inf"]
    assert isinstance(rows[0].cells["bytes"], dict)


@each_kind
def test_a_time_that_python_cannot_hold_and_a_huge_row_are_their_own_problems(
    tmp_path: Path, name: str, write: Write
) -> None:
    frame = pl.DataFrame(
        {"at": [1, 2**61, 3], "text": ["a", "b", "x" * (child.MAX_ROW_BYTES + 1)]},
    ).with_columns(pl.col("at").cast(pl.Datetime("us")))
    rows = read(frame, write, tmp_path / name)
    assert [[p.code for p in row.problems] for row in rows] == [[], ["unreadable"], ["too_long"]]


@each_kind
def test_an_empty_table_has_no_rows(tmp_path: Path, name: str, write: Write) -> None:
    assert read(pl.DataFrame({"a": []}, schema={"a": pl.Int64}), write, tmp_path / name) == []


def test_dictionaries_that_change_between_batches_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.arrows"
    streams: list[bytes] = []
    for letters in (["a", "b"], ["c", "d"]):
        categories = pl.Categorical(pl.Categories.random())
        write_stream(pl.DataFrame({"kind": pl.Series(letters, dtype=categories)}), path)
        streams.append(path.read_bytes())
    first, second = streams
    path.write_bytes(first.removesuffix(arrow.END) + second[second.index(b"\xff\xff\xff\xff", 8) :])
    assert [row.cells["kind"] for row in read_rows(path)] == ["a", "b", "c", "d"]


def test_a_dictionary_in_parts_is_refused_and_not_taken_for_whole() -> None:
    message = struct.pack("<I6H", 16, 12, 24, 0, 4, 8, 16)  # vtable of the message, after its root
    message += struct.pack("<iB3xI4xq", 12, arrow.Header.DICTIONARY, 32, 0)
    dictionary = struct.pack("<5H6x", 10, 16, 8, 0, 4) + struct.pack("<iB3xq", 16, True, 7)
    head = message + dictionary
    stream = arrow.CONTINUATION + struct.pack("<i", len(head)) + head
    with pytest.raises(arrow.NotArrow, match="in parts"):
        list(arrow.batches(io.BytesIO(stream)))


@pytest.mark.full
@each_kind
def test_a_file_cut_off_anywhere_is_told_and_never_crashes(
    tmp_path: Path, name: str, write: Write
) -> None:
    path = tmp_path / name
    write(pl.DataFrame({"a": range(500), "b": ["text"] * 500}), path)
    whole = path.read_bytes()
    for size in (0, 3, len(whole) // 3, len(whole) - 20):
        path.write_bytes(whole[:size])
        if name == "a.arrow" and size == 0:
            continue  # covered below: a stream without a schema
        refusal(path)


def test_a_stream_without_a_schema_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.arrows"
    path.write_bytes(b"")
    assert "schema" in refusal(path).message


@pytest.mark.full
@each_kind
def test_damaged_bytes_end_in_rows_or_a_clear_error(
    tmp_path: Path, name: str, write: Write
) -> None:
    path = tmp_path / name
    write(pl.DataFrame({"a": range(300), "b": ["text", None, "more"] * 100}), path)
    whole, chance = path.read_bytes(), random.Random(1)
    for _ in range(8):
        damaged = bytearray(whole)
        for _ in range(6):
            damaged[chance.randrange(len(whole))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            rows = list(read_rows(path))
        except FileUnreadable:
            continue
        assert [row.number for row in rows] == list(range(1, len(rows) + 1))


@pytest.mark.full
def test_a_small_file_that_expands_without_end_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"ticket_id": ["x" * 4_000] * 100_000}).write_parquet(path)
    assert path.stat().st_size < 100_000
    assert "times its size" in refusal(path).message


def test_a_batch_that_claims_too_much_memory_kills_only_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.feather"
    pl.DataFrame({"a": ["x" * 1_000] * 1_500_000}).write_ipc(
        path, compression="zstd", record_batch_size=1_500_000
    )
    assert "memory" in refusal(path).message


@each_kind
def test_too_deep_and_too_wide_tables_are_refused(tmp_path: Path, name: str, write: Write) -> None:
    path = tmp_path / name
    deep: Any = 1
    for _ in range(12):
        deep = [deep]
    write(pl.DataFrame({"id": ["a"], "deep": [deep]}), path)
    assert "`deep`" in refusal(path).message
    write(pl.DataFrame({f"c{i}": [i] for i in range(2_001)}), path)
    assert "2,001 columns" in refusal(path).message


def test_an_arrow_message_that_claims_a_huge_body_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.arrows"
    write_stream(pl.DataFrame({"a": [1]}), path)
    whole = path.read_bytes()
    second = whole.index(b"\xff\xff\xff\xff", 8)
    path.write_bytes(whole[: second + 4] + struct.pack("<i", 2**31 - 1) + whole[second + 8 :])
    assert "2,147,483,647" in refusal(path).message


def test_reading_stops_when_nobody_wants_more(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(pl.DataFrame({"a": range(100_000)}), path)
    rows = read_rows(path)
    assert next(rows).cells == {"a": 0}
    rows.close()  # type: ignore[attr-defined]
    name = command(child.Kind.PARQUET, path.name)[-1]
    assert name == "a.parquet"
