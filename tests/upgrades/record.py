"""Writes what this version of Tiebreak stores, as rows that later versions must upgrade from.

    python -m tests.upgrades.record

puts them into `tests/upgrades/<schema version>.json`. Run it before a migration is added that
changes a table; what is there already is never written again.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

import asyncpg
import httpx
import orjson
from tests.databases import DatabaseUrls
from tests.functional.serving import REPAIRS, RULES, TICKET, prepare, serving, settings_for
from tests.keys import KEYRING

from tiebreak.access.roles import Role
from tiebreak.audit.lanes import Lane
from tiebreak.core.workflow import Entity, HistoryFeature, Rule, RuleSet
from tiebreak.embedded import postgres
from tiebreak.store import migrate, partitions, roles
from tiebreak.store.database import Database
from tiebreak.store.erasure import erase
from tiebreak.store.tables import metadata

FOLDER = Path(__file__).parent
PASSWORD = "a-password-for-tests"
ERASED = "t3"
WORKFLOW = REPAIRS.model_copy(
    update={
        "entities": (Entity(name="kind", key=("kind",)),),
        "features": (
            HistoryFeature(name="seen", entity="kind", aggregate="count"),
            HistoryFeature(name="cost_sum", entity="kind", aggregate="sum", value="people"),
        ),
    }
)
SEEN = Rule(id="seen", when="seen > 3", effect="points", points=60, message="Seen often.")


def write(urls: DatabaseUrls, folder: Path) -> None:
    """Decide tickets, tell outcomes and erase a ticket, as a user would."""
    rules = RuleSet(rules=(*RULES.rules, SEEN))
    tokens = prepare(urls, KEYRING, workflow=WORKFLOW, rules=rules)
    with (
        serving(settings_for(urls, folder), KEYRING) as (url, _),
        httpx.Client(
            base_url=f"{url}/v1/workflows/repairs",
            headers={"Authorization": f"Bearer {tokens[Role.SERVICE]}"},
        ) as client,
    ):
        for number in range(12):
            fields = {**TICKET, "cost": 300.1 * number, "people": number, "remarks": "Ünïcode 水"}
            fields["urgent"] = number == 7
            for revision in range(1 + number % 2):
                fields["marks"] = [f"mark {revision}"]
                ticket = {"ticket_id": f"t{number}", "fields": fields}
                client.post("/decisions", json=ticket).raise_for_status()
            outcome = {"kind": "outcome", "fields": {"damage": number % 3 == 0}}
            client.post(f"/tickets/t{number}/outcomes", json=outcome).raise_for_status()
    asyncio.run(_erase(urls))


async def _erase(urls: DatabaseUrls) -> None:
    db = await Database.open(urls.app, pool_size=2)
    lane = await Lane.open(db, "tests", KEYRING)
    async with lane.unit() as unit:
        await erase(unit, WORKFLOW.name, ERASED, actor="dpo", reason="asked")
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
    target = FOLDER / f"{migrate.head()}.json"
    folder = Path(tempfile.mkdtemp(prefix="tiebreak-record-"))
    folder.chmod(0o711)
    server = postgres.start(folder, PASSWORD, postgres.FORGETFUL)
    try:
        urls = asyncio.run(empty(server, "record", migrate.head()))
        write(urls, folder)
        data = asyncio.run(rows(urls.admin))
        with target.open("xb") as file:
            file.write(orjson.dumps(data, option=orjson.OPT_INDENT_2))
    finally:
        postgres.stop(folder)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
