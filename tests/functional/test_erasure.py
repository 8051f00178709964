"""What is erased is gone from everywhere that the data map does not except."""

from __future__ import annotations

import io
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from unittest.mock import patch

import asyncpg
import httpx
import orjson
import polars as pl
import pytest
from redis import Redis
from tests.databases import run
from tests.functional.machines import Machine, machine

from tiebreak.embedded.stack import Services, stack
from tiebreak.ingest.simulator import Simulation
from tiebreak.settings import Settings

MARKER = "Ottokar-Quendel"
IMPORTED, LIVE, OF_FILE = "marked-imported", "marked-live", "marked-of-file"
MARKED = {"caller": MARKER, "street": f"{MARKER} Street", "remarks": f"ring {MARKER} twice"}
FEATURES = """
  said: {sql: remarks, kind: text}
"""
RULES = """
  marked:
    when: contains(caller, 'Quendel')
    effect: points
    points: 1
    message: A caller to be tested with.
"""


def marked(known: Simulation) -> Simulation:
    """History with a marked ticket, told of in outcome and review."""
    ticket = known.tickets[1_000].with_columns(ticket_id=pl.lit(IMPORTED), **_literals(MARKED))
    opened_at = ticket["opened_at"][0]
    told = pl.DataFrame({"ticket_id": [IMPORTED] * 2, "known_at": [opened_at] * 2}).with_columns(
        known_at=pl.col("known_at").dt.offset_by("3d"),
        kind=pl.Series(["outcome", "feedback"]),
        response_late=pl.Series([True, None]),
        reviewer=pl.Series([None, "ann"]),
        band=pl.Series([None, "high"]),
        note=pl.Series([None, MARKER]),
        story=pl.Series([MARKER, None]),
    )
    tickets = pl.concat([known.tickets, ticket]).sort("opened_at", maintain_order=True)
    events = pl.concat([known.events, told], how="diagonal_relaxed").sort("known_at")
    return Simulation(known.seed, tickets, events)


def _literals(values: dict[str, str]) -> dict[str, pl.Expr]:
    return {name: pl.lit(value) for name, value in values.items()}


@pytest.fixture
def place() -> Generator[Machine]:
    """Where texts train a model, a rule reads the caller, and outcomes tell stories."""
    made = machine("erasing")
    try:
        for role in ("ml_engineer", "approver", "admin"):
            for person in ("ann", "bob"):
                key = made.tiebreak(f"keys create --person {person} --role {role}")
        made.names["SENDER"] = key["key"]
        made.edit_workflow("features.yaml", lambda text: text + FEATURES)
        made.edit_workflow("rules.yaml", lambda text: text + RULES)
        story = "outcome_fields:\n  story: {type: text, pii: true}\n"
        made.edit_workflow("workflow.yaml", lambda text: text.replace("outcome_fields:\n", story))
        made.learn(marked)
        made.shell("tiebreak up --detach")
        made.ready("ready")
        yield made
    finally:
        made.down()


def live(made: Machine) -> None:
    """Marked tickets over HTTP, good and bad, and in a file; then a backtest of them."""
    body = orjson.loads(next(made.tickets))
    fields = {**body["fields"], **MARKED}
    base = f"{made.url}/v1/workflows/locate"
    headers = {"Authorization": f"Bearer {made.names['SENDER']}"}
    with httpx.Client(headers=headers, timeout=60) as client:
        for crew in (3, 4):
            given = {"ticket_id": LIVE, "fields": {**fields, "crew_size": crew}}
            assert client.post(f"{base}/decisions", json=given).json()["revision"] == crew - 2
        told = {"kind": "outcome", "fields": {"damage": True, "story": MARKER}}
        assert client.post(f"{base}/tickets/{LIVE}/outcomes", json=told).status_code == 201
        bad = orjson.dumps({"ticket_id": "bad", "fields": {**fields, "depth_ft": MARKER}})
        assert client.post(
            f"{base}/decisions", content=bad, headers={"Content-Type": "application/json"}
        ).is_client_error
        for lines in (bad, bad[:-9], MARKER.encode()):
            client.post(
                f"{base}/decisions:batch",
                content=lines,
                headers={"Content-Type": "application/x-ndjson"},
            )
    row = {"ticket_id": OF_FILE, **fields}
    (made.folder / "rows.ndjson").write_bytes(orjson.dumps(row))
    made.shell("tiebreak decide rows.ndjson --workflow locate --as ann")
    made.shell("tiebreak backtest run locate --set points.high=36 --by ticket_type --as ann")
    made.shell("tiebreak train locate --trees 5 --depth 2 --reason again --report r.html --as ann")


def found(services: Services, needle: str) -> set[str]:
    """Tables, statistics, files and keys in Valkey that hold the text."""
    data_dir = services.settings.data_dir
    return run(_tables(services, needle)) | set(_files(data_dir, needle)) | _keys(services, needle)


async def _tables(services: Services, needle: str) -> set[str]:
    """Every table, and what the planner keeps of its values."""
    assert services.postgres is not None
    conn = await asyncpg.connect(services.postgres.url("tiebreak"))
    try:
        await conn.execute("ANALYZE")  # as the server does by itself
        tables = await conn.fetch("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r'")
        query = "SELECT EXISTS (SELECT FROM {} t WHERE t::text LIKE '%' || $1 || '%')"
        return {
            table
            for (table,) in tables
            for written in (needle, needle.encode().hex())
            if await conn.fetchval(query.format(table), written)
        }
    finally:
        await conn.close()


def _files(data_dir: Path, needle: str) -> Iterator[str]:
    """Every file but those of the database itself, which the data map excepts."""
    databases = [path.parent for path in data_dir.rglob("PG_VERSION")]
    assert databases
    for path in data_dir.rglob("*"):
        if path.is_file() and not any(path.is_relative_to(folder) for folder in databases):
            content = path.read_bytes()
            if path.suffix == ".parquet":
                content = pl.read_parquet(io.BytesIO(content)).write_ndjson().encode()
            if needle.encode() in content:
                yield str(path.relative_to(data_dir))


def _keys(services: Services, needle: str) -> set[str]:
    """Every key of Valkey."""
    assert services.valkey is not None
    with Redis.from_url(services.valkey.url) as client:
        read = {
            b"string": client.get,
            b"list": lambda key: client.lrange(key, 0, -1),
            b"set": client.smembers,
            b"zset": lambda key: client.zrange(key, 0, -1),
            b"hash": client.hgetall,
            b"stream": client.xrange,
        }
        return {
            f"valkey {key}"
            for key in client.scan_iter()
            if needle in repr((key, read[client.type(key)](key)))
        }


@pytest.mark.full
@pytest.mark.timeout(600)
def test_what_is_erased_is_found_nowhere(place: Machine) -> None:
    live(place)
    with patch.dict(os.environ, place.environment), stack(Settings.load()) as services:
        before = found(services, MARKER)
        tables = {name.partition("_y20")[0] for name in before if "." not in name}
        assert tables >= {"tickets", "decisions", "outcomes", "ml_feedback"}
        snapshots = {name for name in before if name.endswith(".parquet")}
        assert snapshots
        assert before - snapshots == {name for name in before if "/" not in name}
        for ticket_id in (IMPORTED, LIVE, OF_FILE):
            erase = f"tickets erase locate {ticket_id} --reason asked --yes --as ann"
            assert place.tiebreak(erase)["erased_records"] > 0
        assert found(services, MARKER) == set()
        assert place.tiebreak("audit verify")["intact"]
