"""A real server for functional tests: workflow in production, keys, and uvicorn on a free port."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.databases import DatabaseUrls, run

from tiebreak.access.keys import create_key
from tiebreak.access.persons import ensure_person
from tiebreak.access.roles import Role
from tiebreak.audit.lanes import Lane
from tiebreak.core.policy import PolicyParts
from tiebreak.core.workflow import Cuts, Field, FieldType, Knobs, Rule, RuleSet, Workflow
from tiebreak.registry import records
from tiebreak.settings import ApiSettings, DatabaseSettings, Keyring, Settings
from tiebreak.store.database import Database
from tiebreak.web import worker
from tiebreak.web.metrics import Metrics
from tiebreak.workflows import versions

REPAIRS = Workflow(
    name="repairs",
    title="Repairs",
    time="opened_at",
    fields=(
        Field(name="opened_at", type=FieldType.TIMESTAMP, required=True),
        Field(name="kind", type=FieldType.CATEGORY, values=("leak", "lamp"), required=True),
        Field(name="cost", type=FieldType.NUMBER, minimum=0, maximum=1e6),
        Field(name="people", type=FieldType.INTEGER, minimum=0),
        Field(name="remarks", type=FieldType.TEXT, pii=True, max_length=100_000),
        Field(name="marks", type=FieldType.TAGS),
        Field(name="due_on", type=FieldType.DATE),
        Field(name="urgent", type=FieldType.BOOLEAN),
        Field(name="fixed_at", type=FieldType.TIMESTAMP, after=True),
    ),
    outcome_fields=(Field(name="damage", type=FieldType.BOOLEAN),),
    knobs=Knobs(points=Cuts(medium=20, high=50, critical=80), audit_share=0),
)
RULES = RuleSet(
    rules=(
        Rule(id="costly", when="cost > 1000", effect="points", points=60, message="Costly."),
        Rule(
            id="urgent",
            when="urgent",
            effect="floor",
            band="critical",
            hard=True,
            message="Urgent.",
        ),
        Rule(
            id="told",
            when="contains(lower(remarks), 'flood')",
            effect="escalate",
            message="Remarks tell of a flood.",
        ),
    )
)
TICKET: Mapping[str, Any] = {"opened_at": "2026-03-02T14:30:00Z", "kind": "leak", "cost": 10.5}


@dataclass
class Site:
    """A running server and what a test needs to talk to it."""

    url: str
    settings: Settings
    keyring: Keyring
    urls: DatabaseUrls
    tokens: Mapping[Role, str]
    clients: list[httpx.Client] = field(default_factory=list)

    def client(self, role: Role | None = Role.SERVICE, **options: Any) -> httpx.Client:
        """A client with a key of this role; None: without a key."""
        headers = {} if role is None else {"Authorization": f"Bearer {self.tokens[role]}"}
        client = httpx.Client(base_url=self.url, headers=headers, timeout=30, **options)
        self.clients.append(client)
        return client

    def close(self) -> None:
        """Close the clients."""
        for client in self.clients:
            client.close()


def settings_for(urls: DatabaseUrls, folder: Path, **api: Any) -> Settings:
    """Settings of a test's server."""
    return Settings(
        data_dir=folder,
        database=DatabaseSettings(url=urls.app, owner_url=urls.owner, pool_size=4),
        api=ApiSettings(**{"max_body_bytes": 200_000, "drain_seconds": 5, **api}),
    )


def prepare(
    urls: DatabaseUrls,
    keyring: Keyring,
    *,
    workflow: Workflow = REPAIRS,
    rules: RuleSet = RULES,
    bundle_digest: str | None = None,
) -> dict[Role, str]:
    """Load the workflow, put it into production, and make a key of each role."""
    return run(_prepare(urls, keyring, workflow, rules, bundle_digest))


async def _prepare(
    urls: DatabaseUrls,
    keyring: Keyring,
    workflow: Workflow,
    rules: RuleSet,
    bundle_digest: str | None,
) -> dict[Role, str]:
    db = await Database.open(urls.app, pool_size=2)
    lane = await Lane.open(db, "tests", keyring)
    async with lane.unit() as unit:
        for person in ("ann", "bob"):
            await ensure_person(unit, person, actor="tests")
    await versions.load(lane, workflow, rules, author="ann", reason="first")
    parts = PolicyParts(workflow.name, workflow.version, rules.version, bundle_digest)
    await records.install(lane, keyring, parts, author="ann", approver="bob", reason="first")
    tokens = {
        role: str(
            await create_key(
                lane, person="ann", roles=frozenset({role}), actor="tests", expires_at=None
            )
        )
        for role in Role
    }
    await db.close()
    return tokens


@contextmanager
def serving(settings: Settings, keyring: Keyring) -> Iterator[tuple[str, worker.Worker]]:
    """A worker in a thread of this process; its address, and the server object."""
    listener = worker.listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = worker.worker(settings, keyring, Metrics())
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{port}"
    wait_until_served(url)
    try:
        yield url, server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the worker did not stop"


def wait_until_served(url: str, path: str = "/livez", seconds: float = 30) -> httpx.Response:
    """Wait until the server answers 200 on this path."""
    end = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < end:
        try:
            response = httpx.get(url + path, timeout=5)
        except httpx.TransportError as error:
            last = error
        else:
            last = response
            if response.status_code == 200:
                return response
        time.sleep(0.05)
    raise AssertionError(f"not served: {last}")


def raw(url: str, data: bytes, *, close: bool = True, seconds: float = 10) -> bytes:
    """Send bytes as they are and read until the server closes."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(data)
        if close:
            connection.shutdown(socket.SHUT_WR)
        found = bytearray()
        while part := connection.recv(65536):
            found += part
        return bytes(found)


def environment(settings: Settings) -> dict[str, str]:
    """The environment by which a worker process gets these settings."""
    database = settings.database
    assert database.url is not None
    assert database.owner_url is not None
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TIEBREAK_", "DATABASE_"))}
    return kept | {
        "TIEBREAK_DATA_DIR": str(settings.data_dir),
        "DATABASE_URL": database.url.get_secret_value(),
        "DATABASE_OWNER_URL": database.owner_url.get_secret_value(),
        "TIEBREAK_API__MAX_BODY_BYTES": str(settings.api.max_body_bytes),
        "TIEBREAK_DATABASE__POOL_SIZE": str(settings.database.pool_size),
    }
