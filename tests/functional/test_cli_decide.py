"""Deciding files: every kind alike, through kill -9, in bounded memory."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import polars as pl
import psutil
import pytest
from tests.databases import DatabaseUrls, run
from tests.functional.places import ROOT, Place

from tiebreak.ingest.bulk import ROWS_A_MARK
from tiebreak.ingest.simulator import simulate
from tiebreak.ingest.tables import ROWS_AT_ONCE

SMALL_ROWS, LARGE_ROWS = 3 * ROWS_AT_ONCE, 20 * ROWS_AT_ONCE  # three fill what is read ahead
GOOD_EVERY = 10  # the other rows are rejected, which takes less time
BALLAST_ROWS, BALLAST_BYTES = 500, 8_000  # of a column that no field reads
GROWTH_BYTES = 64 << 20
END = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
BY_ANN = ("--as", "ann", "--reason", "test")


@pytest.fixture(scope="module")
def place(
    module_database_urls: DatabaseUrls, valkey_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Place:
    """`locate` in production by rules alone."""
    folder = tmp_path_factory.mktemp("place")
    found = Place.made(folder, module_database_urls, valkey_url)
    found.json("workflow", "load", ROOT / "workflows" / "locate", "--reason", "x", "--as", "ann")
    found.json(
        *("release", "install", "locate", "--model", "none", "--approved-by", "bob"), *BY_ANN
    )
    return found


@pytest.fixture(scope="module")
def tickets() -> pl.DataFrame:
    return simulate(8, 400, END - timedelta(days=20), 10).tickets.head(300)


def many(tickets: pl.DataFrame, count: int, prefix: str) -> pl.DataFrame:
    """That many tickets, each of its own id."""
    repeated = pl.concat([tickets] * (count // tickets.height + 1)).head(count)
    return repeated.with_columns(
        ticket_id=pl.concat_str(pl.lit(prefix), pl.int_range(pl.len()).cast(pl.String))
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def decide(place: Place, file: Path, *more: object, code: int = 0) -> Any:
    return place.json("decide", file, "--workflow", "locate", "--as", "ann", *more, code=code)


def bands(told: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["ticket_id"], each["band"]) for each in lines(Path(told["decisions"]))]


def test_an_import_tells_all_bad_rows_in_the_file_it_is_given(
    place: Place, tickets: pl.DataFrame, tmp_path: Path
) -> None:
    # First in this file: history is imported before live tickets come.
    rows = tickets.head(40).with_columns(
        ticket_id=pl.concat_str(pl.lit("old-"), "ticket_id"),
        opened_at=pl.col("opened_at") - pl.duration(days=400),
    )
    good, bad = tmp_path / "good.parquet", tmp_path / "bad.ndjson"
    rows.head(20).write_parquet(good)
    rows.tail(20).write_ndjson(bad)
    written = bad.read_text().splitlines()
    written[9] = '{"ticket_id": "old-bad", "opened_at": "yesterday"}'
    bad.write_text("\n".join(written))
    rejects = tmp_path / "why.ndjson"
    importing = ("import", "locate", good, bad, "--rejects", rejects, "--as", "ann", "--dry-run")
    error = place.json(*importing, "--strict", code=3)["error"]
    assert error["code"] == "rows_rejected"
    assert str(rejects) in error["hint"]
    told = place.json(*importing)
    assert (told["tickets"], told["rejected"], told["rejects"]) == (39, 1, [str(rejects)])
    (only,) = lines(rejects)
    assert (only["file"], only["row"]) == ("bad.ndjson", 10)
    assert only["problems"][0]["where"] == "opened_at"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bad.ndjson",
        "good.parquet",
        "why.ndjson",
    ]


def test_every_kind_of_file_gets_the_same_decisions(
    place: Place, tickets: pl.DataFrame, tmp_path: Path
) -> None:
    table = tickets.with_columns(ticket_id=pl.concat_str(pl.lit("kinds-"), "ticket_id"))
    flat = table.with_columns(pl.col(pl.List(pl.String)).list.join(";"))
    table.write_parquet(tmp_path / "a.parquet", row_group_size=70)
    table.write_ipc(tmp_path / "a.arrow")
    table.write_ipc_stream(tmp_path / "a.arrows")
    table.write_ndjson(tmp_path / "a.ndjson")
    flat.write_csv(tmp_path / "a.csv")
    found = [
        lines(Path(decide(place, tmp_path / name)["decisions"]))
        for name in ("a.parquet", "a.arrow", "a.arrows", "a.ndjson", "a.csv")
    ]
    assert [each["ticket_id"] for each in found[0]] == table["ticket_id"].to_list()
    assert all(each == found[0] for each in found[1:])


def start(place: Place, file: Path) -> subprocess.Popen[bytes]:
    code = "from tiebreak.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "decide", file, "--workflow", "locate", "--as", "ann"],
        env=place.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill_after(process: subprocess.Popen[bytes], decisions: Path, size: int) -> None:
    deadline = time.monotonic() + 60
    while not decisions.exists() or decisions.stat().st_size < size:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


async def stored(url: str, pattern: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        sql = "SELECT count(*) FROM decisions WHERE ticket_id LIKE $1"
        return await connection.fetchval(sql, pattern)
    finally:
        await connection.close()


def heavy(tickets: pl.DataFrame, count: int, file: Path) -> int:
    """Write that many tickets, each with a long text that nothing shortens; the file's bytes."""
    texts = [random.randbytes(BALLAST_BYTES // 2).hex() for _ in range(BALLAST_ROWS)]
    ballast = pl.concat([pl.Series("ballast", texts)] * (count // BALLAST_ROWS))
    good = pl.int_range(pl.len()) % GOOD_EVERY == 0
    table = many(tickets, count, f"{file.name}-").with_columns(
        ballast, pl.when(good).then("opened_at").alias("opened_at")
    )
    if file.suffix == ".parquet":
        table.write_parquet(file, row_group_size=BALLAST_ROWS, compression="uncompressed")
    elif file.suffix == ".arrow":
        table.write_ipc(file, record_batch_size=BALLAST_ROWS)
    elif file.suffix == ".csv":
        table.with_columns(pl.col(pl.List(pl.String)).list.join(";")).write_csv(file)
    else:
        table.write_ndjson(file)
    return file.stat().st_size


def most_memory(place: Place, file: Path) -> int:
    """The most bytes of its own that deciding a file took, with its children, at any moment."""
    process = start(place, file)
    os.setpriority(os.PRIO_PROCESS, process.pid, 10)  # so that its peaks are not missed
    most = 0
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            decider = psutil.Process(process.pid)
            family = [decider, *decider.children(recursive=True)]
            most = max(most, sum(own_bytes(each.pid) for each in family))
        time.sleep(0.01)
    assert process.returncode == 0
    return most


def own_bytes(pid: int) -> int:
    """Resident memory without pages of files, which cost nothing when it is short.

    What it shares with a child that was just forked counts in parts.
    """
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                return int(line.split()[1]) << 10
    return 0


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("suffix", ["ndjson", "csv", "parquet", "arrow"])
def test_memory_does_not_grow_with_the_file(
    place: Place, tickets: pl.DataFrame, tmp_path: Path, suffix: str
) -> None:
    small, large = tmp_path / f"small.{suffix}", tmp_path / f"large.{suffix}"
    longer = heavy(tickets, LARGE_ROWS, large) - heavy(tickets, SMALL_ROWS, small)
    assert longer > 4 * GROWTH_BYTES
    before, after = most_memory(place, small), most_memory(place, large)
    decided = lines(large.with_name(f"{large.name}.decisions.ndjson"))
    assert len(decided) == LARGE_ROWS // GOOD_EVERY
    assert after - before < GROWTH_BYTES, f"{before:,} bytes, then {after:,} for {longer:,} more"


@pytest.mark.full
@pytest.mark.parametrize("suffix", ["ndjson", "parquet"])
def test_killed_again_and_again_it_decides_and_writes_each_ticket_once(
    place: Place, tickets: pl.DataFrame, tmp_path: Path, suffix: str
) -> None:
    count = 5 * ROWS_A_MARK // 2
    table = many(tickets, count, f"killed-{suffix}-")
    ids = table["ticket_id"].to_list()
    for row in range(499, count, 500):
        ids[row] = None  # a bad row
    for row in range(100, count, 400):
        ids[row] = ids[row - 3]  # another revision
    table = table.with_columns(ticket_id=pl.Series(ids))
    file = tmp_path / f"a.{suffix}"
    table.write_ndjson(file) if suffix == "ndjson" else table.write_parquet(file)
    decisions = tmp_path / f"a.{suffix}.decisions.ndjson"
    for size in (500_000, 2_500_000):
        kill_after(start(place, file), decisions, size)

    told = decide(place, file)
    assert told["went_on_from"] >= 400
    assert (told["rows"], told["rejected"]) == (count, count // 500)
    written = lines(decisions)
    assert [each["ticket_id"] for each in written] == [each for each in ids if each is not None]
    assert len({each["decision_id"] for each in written}) == len(written) == told["decided"]
    assert [each["row"] for each in lines(Path(told["rejects"]))] == list(
        range(500, count + 1, 500)
    )
    assert run(stored(place.urls.admin, f"killed-{suffix}-%")) == len(written)
    assert not decisions.with_name(decisions.name + ".mark").exists()


@pytest.mark.full
def test_a_changed_file_is_decided_from_its_start(
    place: Place, tickets: pl.DataFrame, tmp_path: Path
) -> None:
    file = tmp_path / "a.ndjson"
    table = many(tickets, 3 * ROWS_A_MARK, "changed-")
    table.write_ndjson(file)
    decisions = tmp_path / "a.ndjson.decisions.ndjson"
    mark = decisions.with_name(decisions.name + ".mark")
    process = start(place, file)
    while not mark.exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    table.head(10).write_ndjson(file)
    told = decide(place, file)
    assert told["went_on_from"] is None
    assert [ticket_id for ticket_id, _ in bands(told)] == table["ticket_id"].head(10).to_list()


def test_a_dry_or_strict_run_checks_every_row_and_decides_nothing(
    place: Place, tickets: pl.DataFrame, tmp_path: Path
) -> None:
    ids = pl.concat_str(pl.lit("strict-"), "ticket_id")
    early = pl.lit(datetime.now(UTC) + timedelta(days=3)).dt.cast_time_unit("us")
    opened = pl.when(pl.int_range(pl.len()) == 4).then(early).otherwise("opened_at")
    depth = pl.when(pl.int_range(pl.len()) == 2).then(-1).otherwise("depth_ft")
    file, log = tmp_path / "strict.parquet", tmp_path / "strict.parquet.rejects.ndjson"
    good, bad = tickets.head(6).with_columns(ticket_id=ids), [3, 5]
    good.with_columns(opened_at=opened, depth_ft=depth).write_parquet(file)

    told = decide(place, file, "--dry-run")
    assert (told["rows"], told["valid"], told["rejected"]) == (6, 4, 2)
    assert [each["row"] for each in lines(log)] == bad
    log.unlink()
    error = decide(place, file, "--strict", code=3)["error"]
    assert (error["code"], error["rejected"]) == ("rows_rejected", 2)
    assert [each["where"].split()[1] for each in error["problems"]] == ["3", "5"]
    assert [each["row"] for each in lines(log)] == bad
    assert not Path(f"{file}.decisions.ndjson").exists()

    good.write_parquet(file)
    assert decide(place, file, "--dry-run")["valid"] == 6
    told = decide(place, file, "--strict")
    assert (told["decided"], told["rejected"], log.exists()) == (6, 0, False)
    assert {each["revision"] for each in lines(Path(told["decisions"]))} == {1}


def test_a_check_leaves_what_an_interrupted_run_goes_on_with(
    place: Place, tickets: pl.DataFrame, tmp_path: Path
) -> None:
    file, log = tmp_path / "begun.parquet", tmp_path / "begun.parquet.rejects.ndjson"
    tickets.head(2).with_columns(depth_ft=pl.lit(-1.0)).write_parquet(file)
    log.write_text("told before\n")
    (tmp_path / "begun.parquet.decisions.ndjson.mark").write_text("{}")
    assert decide(place, file, "--dry-run")["rejected"] == 2
    assert log.read_text() == "told before\n"


def test_what_is_read_is_never_overwritten(
    place: Place, tickets: pl.DataFrame, tmp_path: Path
) -> None:
    file = tmp_path / "a.ndjson"
    tickets.head(2).write_ndjson(file)
    before = file.read_bytes()
    for option in ("--out", "--rejects"):
        error = decide(place, file, option, file, code=3)["error"]
        assert error["code"] == "output_is_input"
    importing = ("import", "locate", file, "--rejects", file, "--as", "ann")
    assert place.json(*importing, code=3)["error"]["code"] == "output_is_input"
    error = decide(place, file, "--out", tmp_path / "none" / "out", code=3)["error"]
    assert error["code"] == "output_unwritable"
    assert file.read_bytes() == before


def test_a_file_cut_off_names_the_row_and_a_mended_one_is_decided_whole(
    place: Place, tickets: pl.DataFrame, tmp_path: Path
) -> None:
    file = tmp_path / "a.arrows"
    table = tickets.with_columns(ticket_id=pl.concat_str(pl.lit("cut-"), "ticket_id"))
    with file.open("wb") as out:
        table.write_ipc_stream(out)
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    error = decide(place, file, code=3)["error"]
    assert error["code"] == "file_unreadable"
    assert "a.arrows" in error["message"]
    assert error["hint"]
    file.write_bytes(whole)
    assert decide(place, file)["decided"] == table.height


def test_what_is_logged_never_mixes_with_the_result(
    place: Place, tickets: pl.DataFrame, tmp_path: Path
) -> None:
    file = tmp_path / "a.ndjson"
    many(tickets, 500, "logged-").write_ndjson(file)
    told = decide(place, file)
    last = lines(Path(told["decisions"]))[-1]["ticket_id"]
    place.alter(
        f"DELETE FROM decision_keys WHERE ticket_id = '{last}'",
        f"DELETE FROM decisions WHERE ticket_id = '{last}'",
    )
    words = ("decide", file, "--workflow", "locate", "--as", "ann", "--json")
    code, out, err = place.run(*words)
    assert code == 0
    assert "recovered" in err
    assert json.loads(out)["decided"] == 500
