"""Writes what this version of Tiebreak stores, as rows that later versions must upgrade from.

    python -m tests.upgrades.record

puts them into `tests/upgrades/<schema version>.json`, and the signed model that decided into
`<schema version>.bundle`. Run it before a migration is added that changes a table; what is there
already is never written again. Up to 0003 they are from a time without models and releases.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import httpx
import numpy as np
import orjson
import polars as pl
from tests import releases
from tests.databases import DatabaseUrls
from tests.functional.serving import REPAIRS, RULES, TICKET, prepare, serving, settings_for
from tests.keys import KEYRING

from tiebreak.access.roles import Role
from tiebreak.audit.lanes import Lane
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import Folder
from tiebreak.bundles.format import make_bundle
from tiebreak.bundles.signing import BundleKeys
from tiebreak.core.policy import PolicyParts
from tiebreak.core.workflow import Entity, HistoryFeature, RowFeature, Rule, RuleSet
from tiebreak.embedded import postgres
from tiebreak.release.approvals import approve
from tiebreak.release.promotion import promote
from tiebreak.release.releases import Office
from tiebreak.release.states import Kind, Stage
from tiebreak.store import migrate, partitions, roles, schema
from tiebreak.store.database import Database
from tiebreak.store.erasure import erase
from tiebreak.store.tables import metadata
from tiebreak.training.dataset import Snapshot
from tiebreak.training.fit import Parameters
from tiebreak.training.train import train
from tiebreak.workflows import versions

FOLDER = Path(__file__).parent
PASSWORD = "a-password-for-tests"
ERASED = ("t3", "t9")  # one decided by rules alone, one by the model
BY_RULES, BY_MODEL, BY_CANARY = range(6), range(6, 12), range(12, 24)
CANARY_PERCENT = 50
WORKFLOW = REPAIRS.model_copy(
    update={
        "entities": (Entity(name="kind", key=("kind",)),),
        "features": (
            HistoryFeature(name="seen", entity="kind", aggregate="count"),
            HistoryFeature(name="cost_sum", entity="kind", aggregate="sum", value="people"),
            RowFeature(name="price", sql="cost"),
            RowFeature(name="sort", sql="kind", kind="category"),
            RowFeature(name="told", sql="remarks", kind="text"),
        ),
    }
)
SEEN = Rule(id="seen", when="seen > 3", effect="points", points=60, message="Seen often.")
FIRST_RULES = RuleSet(rules=(*RULES.rules, SEEN))
NEXT_RULES = RuleSet(rules=RULES.rules)
WORDS = ("flood", "Ünïcode 水", "lamp", "leak in the cellar")
START = datetime(2025, 1, 1, tzinfo=UTC)
ROWS = 1_000


def write(urls: DatabaseUrls, folder: Path) -> bytes:
    """Decide by rules, by a released model and beside a canary, as users do; the model's bundle."""
    tokens = prepare(urls, KEYRING, workflow=WORKFLOW, rules=FIRST_RULES)
    token = tokens[Role.SERVICE]
    _decide(urls, folder, token, BY_RULES)
    keys = BundleKeys(KEYRING.bundle_keys, KEYRING.bundle_signing_key_id)
    bundle = make_bundle(_model(), keys)
    digest = ArtifactStore(Folder(folder / "artifacts")).put_bundle(bundle)
    parts = PolicyParts(WORKFLOW.name, WORKFLOW.version, FIRST_RULES.version, digest)
    asyncio.run(_promote(urls, folder, parts))
    _decide(urls, folder, token, BY_MODEL)
    asyncio.run(_start_canary(urls, folder, parts))
    _decide(urls, folder, token, BY_CANARY)
    asyncio.run(_erase(urls))
    return bundle


def _decide(urls: DatabaseUrls, folder: Path, token: str, numbers: range) -> None:
    """Some tickets, every other one twice, and their outcomes."""
    with (
        serving(settings_for(urls, folder), KEYRING) as (url, _),
        httpx.Client(
            base_url=f"{url}/v1/workflows/repairs",
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        ) as client,
    ):
        for number in numbers:
            fields = {**TICKET, "cost": 300.1 * (number % 12), "people": number}
            fields["remarks"] = WORDS[number % len(WORDS)]
            fields["urgent"] = number == 7
            for revision in range(1 + number % 2):
                fields["marks"] = [f"mark {revision}"]
                ticket = {"ticket_id": f"t{number}", "fields": fields}
                client.post("/decisions", json=ticket).raise_for_status()
            outcome = {"kind": "outcome", "fields": {"damage": number % 3 == 0}}
            client.post(f"/tickets/t{number}/outcomes", json=outcome).raise_for_status()


def _model() -> Mapping[str, bytes]:
    """The parts of a small model with every kind of feature."""
    chance = np.random.default_rng(1)
    cost, seen = chance.uniform(0, 4_000, ROWS), chance.integers(0, 30, ROWS)
    told = chance.choice(WORDS, ROWS)
    odds = cost / 1_000 + (told == "flood") * 2 - seen / 10 - 1
    frame = pl.DataFrame(
        {
            "seen": seen,
            "cost_sum": chance.integers(0, 90, ROWS),
            "price": cost,
            "sort": chance.choice(["leak", "lamp"], ROWS),
            "told": told,
        }
    )
    snapshot = Snapshot(
        WORKFLOW,
        frame,
        label=pl.Series(chance.uniform(size=ROWS) < 1 / (1 + np.exp(-odds))),
        as_of=pl.Series([START + timedelta(hours=i) for i in range(ROWS)]),
        data_hash="recorded",
    )
    parameters = Parameters(valid_from=START + timedelta(hours=800), rounds=8, max_depth=3)
    return train(snapshot, parameters, lambda *_: None, fingerprint="recorded").parts


async def _promote(urls: DatabaseUrls, folder: Path, parts: PolicyParts) -> None:
    """A release into production: proposed, shadowed, gated and approved."""
    async with _office(urls, folder) as office:
        release = await releases.approved(office, parts)
        await promote(office, release.release_id, author="ann", reason="recorded")


async def _start_canary(urls: DatabaseUrls, folder: Path, parts: PolicyParts) -> None:
    """Other rules as the canary, which is left to be one."""
    async with _office(urls, folder) as office:
        await versions.load(office.lane, WORKFLOW, NEXT_RULES, author="ann", reason="recorded")
        candidate = replace(parts, rules_version=NEXT_RULES.version)
        release = await releases.proposed(office, candidate)
        await releases.tell(office, release, Kind.SHADOW_STARTED)
        await releases.gated(office, release, Stage.CANARY)
        await approve(office, release.release_id, Stage.CANARY, approver="bob")
        await releases.share(office, release, CANARY_PERCENT, Kind.CANARY_STARTED)


async def _erase(urls: DatabaseUrls) -> None:
    db = await Database.open(urls.app, pool_size=2)
    lane = await Lane.open(db, "tests", KEYRING)
    for ticket_id in ERASED:
        async with lane.unit() as unit:
            await erase(unit, WORKFLOW.name, ticket_id, actor="dpo", reason="asked")
    await db.close()


@asynccontextmanager
async def _office(urls: DatabaseUrls, folder: Path) -> AsyncGenerator[Office]:
    db = await Database.open(urls.app, pool_size=2)
    lane = await Lane.open(db, "tests", KEYRING)
    yield releases.office_of(db, lane, KEYRING, folder / "artifacts")
    await db.close()


async def rows(url: str) -> dict[str, object]:
    """All rows of all tables, by table."""
    connection = await asyncpg.connect(url)
    found: dict[str, object] = {}
    for table in metadata.sorted_tables:
        text = await connection.fetchval(
            f"SELECT coalesce(json_agg(t ORDER BY t::text), '[]')::text FROM {table.name} t"
        )
        found[str(table.name)] = orjson.loads(text)
    await connection.close()
    return found


async def empty(server: postgres.PostgresServer, name: str, version: str) -> DatabaseUrls:
    """A new database with the schema of this version."""
    admin = await asyncpg.connect(server.url("postgres"))
    await roles.ensure_roles(admin, dict.fromkeys(roles.ROLES, PASSWORD))
    await roles.ensure_database(admin, name)
    await admin.close()
    urls = DatabaseUrls(
        name=name,
        app=server.url(name, roles.APP, PASSWORD),
        owner=server.url(name, roles.OWNER, PASSWORD),
        readonly=server.url(name, roles.READONLY, PASSWORD),
        admin=server.url(name),
    )
    await migrate.upgrade(urls.owner, version)
    owner = await asyncpg.connect(urls.owner)
    await partitions.ensure(owner, range(2025, 2035))
    await owner.close()
    return urls


def main() -> None:
    """Record once."""
    target = FOLDER / f"{schema.newest()}.json"
    folder = Path(tempfile.mkdtemp(prefix="tiebreak-record-"))
    folder.chmod(0o711)
    server = postgres.start(folder, PASSWORD, postgres.FORGETFUL)
    try:
        urls = asyncio.run(empty(server, "record", schema.newest()))
        bundle = write(urls, folder)
        data = asyncio.run(rows(urls.admin))
        with target.open("xb") as file:
            file.write(orjson.dumps(data, option=orjson.OPT_INDENT_2))
        target.with_suffix(".bundle").write_bytes(bundle)
    finally:
        postgres.stop(folder)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
