"""What gates read, paired outside Postgres, is what a plain join of the tables says."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta

import asyncpg
import numpy as np
import polars as pl
import pytest
from tests.databases import DatabaseUrls

from tiebreak.core.workflow import Field, FieldType, Label, Workflow
from tiebreak.release.gate_columns import Pair, keys_of, read_sides
from tiebreak.release.gate_texts import MOST_SLICES, read_slices, read_truth
from tiebreak.store import columns, partitions
from tiebreak.store.columns import texts
from tiebreak.store.database import Database

NAME = "paired"
START = datetime(2027, 12, 31, 12, tzinfo=UTC)  # so that two partitions hold them
KNOWN_BY = START + timedelta(days=2)
LATER = START + timedelta(days=60)
TICKETS = 300
WORKFLOW = Workflow(
    name=NAME,
    title="Paired",
    time="opened_at",
    fields=(
        Field(name="opened_at", type=FieldType.TIMESTAMP, required=True),
        Field(name="place", type=FieldType.TEXT),
        Field(name="size", type=FieldType.INTEGER),
    ),
    outcome_fields=(Field(name="damage", type=FieldType.BOOLEAN),),
    label=Label(name="damage", sql="damage", maturity_days=1),
)
PAIR = Pair(NAME, "candidate", "production")
HARD = ("", " ", "a,b", 'say "so"', "two\nlines", "\r\n", "\\N", "Ünï", "tab\t", '"', "\\")


def hours(number: float) -> datetime:
    return START + timedelta(hours=number)


class World:
    """Random rows of every kind that the readers meet, put where only a superuser may."""

    def __init__(self, conn: asyncpg.Connection, seed: int) -> None:
        self.conn, self.random = conn, random.Random(seed)

    async def fill(self) -> None:
        await self.conn.execute("SET session_replication_role = replica")
        for number in range(TICKETS):
            for revision in range(1, self.random.choice((2, 2, 2, 4))):
                at = hours(self.random.randint(0, 36))  # many share one
                await self.ticket(f"t{number}", revision, at)
            for ordinal in range(1, self.random.choice((1, 2, 3))):
                await self.outcome(f"t{number}", ordinal)

    async def ticket(self, key: str, revision: int, at: datetime) -> None:
        chance = self.random.random
        origin = "live" if chance() < 0.7 else "import"
        await self.conn.execute(_KEY, key, revision, at, origin)
        place = self.random.choice((*HARD, None))
        content = json.dumps({"place": place, "size": self.random.randint(0, 90)})
        await self.conn.execute(_TICKET, key, revision, at, content if chance() < 0.9 else None)
        for ordinal in range(1, self.random.choice((1, 2, 2, 3))):
            policy = "production" if chance() < 0.85 else "earlier"
            await self.conn.execute(
                _DECISION, key, revision, at, ordinal, policy, self.score(), self.band(),
                self.floor(), self.route(), "[]" if chance() < 0.9 else None,
            )  # fmt: skip
        for policy in ("candidate", "another"):
            if chance() < 0.8:
                await self.conn.execute(
                    _SCORE, key, revision, at, policy, self.score(), self.band(), self.floor(),
                    self.route(), chance(),
                )  # fmt: skip

    async def outcome(self, key: str, ordinal: int) -> None:
        damage = self.random.choice((True, False, None))
        content = None if self.random.random() < 0.1 else json.dumps({"damage": damage})
        kind = self.random.choice(("outcome", "outcome", "closed"))
        at = hours(self.random.randint(0, 60))
        await self.conn.execute(_OUTCOME, key, ordinal, kind, at, content)

    def score(self) -> float | None:
        return self.random.choice((None, self.random.random()))

    def floor(self) -> int | None:
        return self.random.choice((None, 1, 2))

    def band(self) -> int:
        return self.random.randint(0, 3)

    def route(self) -> str:
        return self.random.choice(("auto", "tiebreak", "review"))


@pytest.fixture(params=range(3))
async def world(
    request: pytest.FixtureRequest, database_urls: DatabaseUrls
) -> AsyncGenerator[asyncpg.Connection]:
    conn = await asyncpg.connect(database_urls.admin)
    await partitions.ensure(conn, {2027, 2028})
    await World(conn, request.param).fill()
    yield conn
    await conn.close()


@pytest.fixture
async def db(database_urls: DatabaseUrls) -> AsyncGenerator[Database]:
    found = await Database.open(database_urls.readonly, pool_size=4)
    yield found
    await found.close()


async def hashes(conn: asyncpg.Connection) -> dict[str, int]:
    rows = await conn.fetch("SELECT DISTINCT ticket_id AS id, hashtextextended(ticket_id, 0) AS h "
                            "FROM ticket_keys")  # fmt: skip
    return {row["id"]: row["h"] for row in rows}


@pytest.mark.parametrize("known_by", [LATER, hours(20)])
async def test_scores_are_paired_as_a_join_pairs_them(
    world: asyncpg.Connection, db: Database, known_by: datetime
) -> None:
    sides = await read_sides(db, PAIR, None, None, known_by=known_by)
    found = sides.paired()
    expected = await world.fetch(_JOINED, known_by)
    by_ticket = {row["ticket"]: row for row in found}
    of = await hashes(world)
    assert len(found) == len(expected) > 100
    assert all(row["as_of"] <= known_by for row in expected)
    assert (np.diff(found["ticket"]) > 0).all()
    for row in expected:
        mine = by_ticket[of[row["ticket_id"]]]
        for name in ("revision", "ordinal", "band", "floor", "route", "seconds", "points_before",
                     "band_before", "floor_before", "route_before", "is_live"):  # fmt: skip
            assert mine[name] == row[name], name
        for name in ("score", "score_before"):
            same = np.isnan(mine[name]) if row[name] is None else mine[name] == row[name]
            assert same, name
        assert columns.moments(mine["as_of"]) == (row["as_of"] - EPOCH) // MICROSECOND


async def test_without_production_the_candidates_rules_stand_beside_it(
    world: asyncpg.Connection, db: Database
) -> None:
    sides = await read_sides(db, Pair(NAME, "candidate", None), None, None, known_by=LATER)
    found = {row["ticket"]: row for row in sides.paired()}
    expected = await world.fetch(_NEWEST)
    of = await hashes(world)
    assert len(found) == len(expected)
    for row in expected:
        mine = found[of[row["ticket_id"]]]
        assert mine["revision"] == row["revision"]
        assert mine["band_before"] == mine["points_before"] == row["rules_band"]
        assert np.isnan(mine["score_before"])
    assert len(sides.unscored(START, KNOWN_BY)) == 0


async def test_unscored_tickets_are_those_that_an_anti_join_counts(
    world: asyncpg.Connection, db: Database
) -> None:
    for since, through in ((0, 40), (-50, 90), (7, 21), (30, 3)):
        sides = await read_sides(db, PAIR, hours(since), hours(through), known_by=LATER)
        expected = await world.fetchval(_UNSCORED, hours(since), hours(through))
        found = sides.unscored(hours(since), hours(through))
        assert len(np.unique(keys_of(found))) == expected
        assert expected or since > through


async def test_labels_and_slices_are_those_of_each_ticket(
    world: asyncpg.Connection, db: Database
) -> None:
    found = (await read_sides(db, PAIR, None, None, known_by=LATER)).paired()
    truth = await read_truth(db, found, WORKFLOW, known_by=KNOWN_BY)
    ids = {number: key for key, number in (await hashes(world)).items()}
    told: dict[str, bool] = {}
    for row in await world.fetch("SELECT * FROM outcomes ORDER BY ordinal"):
        if row["kind"] == "outcome" and row["content"] and row["known_at"] <= KNOWN_BY:
            damage = json.loads(row["content"])["damage"]
            told |= {} if damage is None else {row["ticket_id"]: damage}
    late = int((KNOWN_BY - timedelta(days=1) - EPOCH) / MICROSECOND)
    for row, label in zip(found, truth, strict=True):
        is_mature = columns.moments(row["as_of"]) <= late
        assert label == (int(told.get(ids[row["ticket"]], -1)) if is_mature else -1)
    assert {-1, 0, 1} == set(truth.tolist())

    slices = await read_slices(db, NAME, found, ["place", "size"])
    contents = {
        (row["ticket_id"], row["revision"]): json.loads(row["content"])
        for row in await world.fetch("SELECT * FROM tickets WHERE content IS NOT NULL")
    }
    for field in ("place", "size"):
        expected: dict[str, list[int]] = {}
        for place, row in enumerate(found):
            fields = contents.get((ids[row["ticket"]], row["revision"]))
            if fields is not None:
                value = fields[field]
                expected.setdefault("(none)" if value is None else str(value), []).append(place)
        sizes = sorted((len(places) for places in expected.values()), reverse=True)[:MOST_SLICES]
        assert [len(places) for places in slices[field].values()] == sizes
        assert all(expected[name] == places.tolist() for name, places in slices[field].items())


async def test_texts_arrive_as_they_are_whatever_the_pieces(
    database_urls: DatabaseUrls, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(n, (*HARD, None)[n % (len(HARD) + 1)]) for n in range(500)]
    schema = {"n": pl.Int64, "t": pl.String}
    query = "SELECT * FROM json_to_recordset($1::json) AS r (n bigint, t text)"
    given = json.dumps([{"n": n, "t": t} for n, t in rows])
    for piece in (1, 64, 1 << 20):
        monkeypatch.setattr(columns, "PIECE_BYTES", piece)
        found = await texts(db, query, given, schema=schema, keep=lambda part: part)
        assert found.rows() == rows
        assert found.schema == schema


def test_a_piece_ends_with_a_whole_row() -> None:
    rows = (b'1,"a\nb"\n', b'2,""\n', b"3,\n", b'4,"""\n"\n', b'5,"\n"""\n')
    ends = list(itertools.accumulate(map(len, rows), initial=0))
    whole = b"".join(rows)
    for length in range(len(whole) + 1):
        expected = max(end for end in ends if end <= length)
        assert columns._whole_rows(bytearray(whole[:length])) == expected


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
_KEY = f"INSERT INTO ticket_keys VALUES ('{NAME}', $1, $2, '', $3, $4)"
_TICKET = f"""
    INSERT INTO tickets (workflow, ticket_id, revision, as_of, content, received_at, origin, actor,
        context, ticket_hash, salt, lane, seal_seq, seal_position)
    VALUES ('{NAME}', $1, $2, $3, $4, $3, 'live', '', '{{}}', 0, '', gen_random_uuid(), 0, 0)
"""
_DECISION = f"""
    INSERT INTO decisions (workflow, ticket_id, revision, as_of, ordinal, policy_hash, score, band,
        hard_floor, route, fired, decision_id, decided_at, fingerprint, route_reason, is_tie,
        review_probability, rules_band, rules_points, model_status, errors, salt, lane, seal_seq,
        seal_position)
    VALUES ('{NAME}', $1, $2, $3, $4, $5, $6, $7::int2, $8, $9, $10, gen_random_uuid(), $3, '', '',
        false, 0, 0, $7::int2 * 10, 'absent', '[]', '', gen_random_uuid(), 0, 0)
"""
_SCORE = f"""
    INSERT INTO ml_shadow_scores (workflow, ticket_id, revision, as_of, policy_hash, score, band,
        hard_floor, route, seconds, scored_at, rules_band, is_tie, fingerprint)
    VALUES ('{NAME}', $1, $2, $3, $4, $5, $6::int2, $7, $8, $9, $3, ($6::int2 + 1) % 4, false,
        '')
"""
_OUTCOME = f"""
    INSERT INTO outcomes (workflow, ticket_id, ordinal, kind, known_at, content, received_at, actor,
        content_hash, salt, lane, seal_seq, seal_position)
    VALUES ('{NAME}', $1, $2, $3, $4, $5, $4, '', '', '', gen_random_uuid(), 0, 0)
"""
_ROUTE = "CASE {0}.route WHEN 'review' THEN 2 WHEN 'tiebreak' THEN 1 ELSE 0 END"
_JOINED = f"""
    SELECT DISTINCT ON (s.ticket_id) s.ticket_id, s.revision, s.as_of, s.score, s.band, s.seconds,
        coalesce(s.hard_floor, 0) AS floor, {_ROUTE.format("s")} AS route,
        d.ordinal, d.score AS score_before, d.rules_points AS points_before,
        d.band AS band_before, coalesce(d.hard_floor, 0) AS floor_before,
        {_ROUTE.format("d")} AS route_before, (k.origin <> 'import')::int AS is_live
    FROM ml_shadow_scores s JOIN decisions d USING (as_of, workflow, ticket_id, revision)
    JOIN ticket_keys k USING (workflow, ticket_id, revision)
    WHERE s.policy_hash = 'candidate' AND d.policy_hash = 'production' AND s.as_of <= $1
    ORDER BY s.ticket_id, s.revision DESC, d.ordinal DESC
"""
_NEWEST = """
    SELECT DISTINCT ON (ticket_id) * FROM ml_shadow_scores WHERE policy_hash = 'candidate'
    ORDER BY ticket_id, revision DESC
"""
_UNSCORED = """
    SELECT count(DISTINCT (d.ticket_id, d.revision)) FROM decisions d
    WHERE d.policy_hash = 'production' AND d.as_of >= $1 AND d.as_of <= $2
      AND d.fired IS NOT NULL AND NOT EXISTS (
        SELECT FROM ml_shadow_scores s
        WHERE s.as_of = d.as_of AND s.workflow = d.workflow AND s.ticket_id = d.ticket_id
          AND s.revision = d.revision AND s.policy_hash = 'candidate')
"""
