"""Rows of files: a bad row is its own problem only."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from tiebreak.errors import Problem
from tiebreak.ingest.files import read_rows
from tiebreak.ingest.rejects import Rejects
from tiebreak.ingest.rows import MAX_ROW_BYTES, FileUnreadable, Row


def read(folder: Path, name: str, content: bytes) -> list[Row]:
    path = folder / name
    path.write_bytes(content)
    return list(read_rows(path))


def codes(rows: list[Row]) -> dict[int, str]:
    return {row.number: row.problems[0].code for row in rows if row.problems}


def test_ndjson_numbers_lines_and_passes_over_empty_ones(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.ndjson", b'\xef\xbb\xbf{"a": 1}\n\n{"a": 2}')
    assert [(row.number, row.cells) for row in rows] == [(1, {"a": 1}), (3, {"a": 2})]


def test_ndjson_bad_lines_spoil_only_themselves(tmp_path: Path) -> None:
    deep = b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}"
    lines = [
        b'{"a": 1}',
        b'{"a": "\xff"}',
        b"[1]",
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        deep,
        b'{"a": "' + b"x" * MAX_ROW_BYTES + b'"}',
        b'{"a": "half',
        b'{"a": 2}',
    ]
    rows = read(tmp_path, "a.jsonl", b"\n".join(lines) + b"\n")
    assert [row.number for row in rows] == list(range(1, 10))
    assert codes(rows) == {
        2: "invalid_utf8",
        3: "not_an_object",
        4: "duplicate_key",
        5: "not_json",
        6: "too_deep",
        7: "too_long",
        8: "not_json",
    }
    assert rows[-1].cells == {"a": 2}


def test_csv_reads_quotes_newlines_and_a_byte_order_mark(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.csv", b'\xef\xbb\xbfa,b\r\n1,"x\r\ny, ""z"""\r\n\r\n2,\r\n')
    assert [(row.number, row.cells) for row in rows] == [
        (1, {"a": "1", "b": 'x\r\ny, "z"'}),
        (2, {"a": "2", "b": ""}),
    ]


def test_csv_bad_rows_spoil_only_themselves(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.csv", b"a,b\n1,2\n\xff,2\n1\n1,2,3\n3,4\n")
    assert codes(rows) == {2: "invalid_utf8", 3: "wrong_cells", 4: "wrong_cells"}
    assert rows[1].problems[0].where == "a"
    assert rows[-1].cells == {"a": "3", "b": "4"}


def test_csv_huge_cell_is_its_own_problem(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.csv", b"a,b\n1," + b"x" * 10_000_000 + b"\n3,4\n")
    assert codes(rows) == {1: "not_csv"}
    assert rows[-1].cells == {"a": "3", "b": "4"}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "header"),
        ("a.csv", b"\xff,b\n", "header"),
        ("a.csv", b"a,a\n1,2\n", "same name"),
        ("a.xlsx", b"", "known kind"),
        ("a.parquet", b"PAR1 nonsense", "Parquet"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    with pytest.raises(FileUnreadable, match=says):
        read(tmp_path, name, content)


@pytest.mark.parametrize("name", ["a.csv", "a.ndjson", "a.parquet"])
def test_a_missing_file_says_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileUnreadable, match="No such file"):
        list(read_rows(tmp_path / name))


def test_parquet_keeps_native_values(tmp_path: Path) -> None:
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    path = tmp_path / "a.parquet"
    pl.DataFrame({"a": [moment, None], "b": [["x", "y"], []]}).write_parquet(path)
    assert [(row.number, row.cells) for row in read_rows(path)] == [
        (1, {"a": moment, "b": ["x", "y"]}),
        (2, {"a": None, "b": []}),
    ]


def test_rejects_name_row_and_reason_and_hold_no_contents(tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    stale = tmp_path / "a.csv.rejects.ndjson"
    stale.write_text("from an earlier run")
    rejects = Rejects(source)
    assert not stale.exists()
    rejects.add(3, (Problem("depth", "too_large", "is more than 200"),))
    rejects.file.close()
    assert [json.loads(line) for line in rejects.file.path.read_text().splitlines()] == [
        {
            "file": "a.csv",
            "row": 3,
            "problems": [
                {"where": "depth", "code": "too_large", "message": "is more than 200", "hint": ""}
            ],
        }
    ]
    assert rejects.count == 1


def test_csv_that_ends_inside_a_quote_is_told(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.csv", b'a,b\n1,2\n3,"cut')
    assert codes(rows) == {2: "not_csv"}
    assert "quote" in rows[1].problems[0].message


def test_csv_rows_without_end_are_broken_off(tmp_path: Path) -> None:
    many_cells = b"1," * MAX_ROW_BYTES + b"\n"
    many_lines = b'"' + b'x\n","' * (MAX_ROW_BYTES // 4) + b'"\n'
    rows = read(tmp_path, "a.csv", b"a,b\n" + many_cells + b"3,4\n" + many_lines)
    assert rows[0].problems[0].code == "not_csv"
    assert "1,048,576" in rows[0].problems[0].message
    assert rows[1].cells == {"a": "3", "b": "4"}
    assert "1,048,576" in rows[2].problems[0].message


@pytest.mark.parametrize("name", ["a.csv", "a.ndjson"])
def test_how_far_the_reading_is_grows_to_the_end(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    line = '{"a": 1}\n' if name.endswith("json") else "1\n"
    path.write_text(("" if name.endswith("json") else "a\n") + line * 50_000)
    told: list[float] = []
    assert sum(1 for _ in read_rows(path, told.append)) == 50_000
    assert told == sorted(told)
    assert told[0] < 0.5
    assert told[-1] == 1.0
