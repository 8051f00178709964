"""Under pressure: a full queue, a decision that takes too long, bodies that do not arrive."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
from tests.databases import DatabaseUrls
from tests.functional.serving import TICKET, Site, prepare, raw, serving, settings_for

from tiebreak.access.roles import Role
from tiebreak.settings import Keyring
from tiebreak.web import bodies

PATH = "/v1/workflows/repairs/decisions"


@contextmanager
def held(url: str) -> Generator[None]:
    """Hold the workflow's history lock, so that nothing is admitted for as long as the block."""
    is_held, release = threading.Event(), threading.Event()

    async def hold() -> None:
        connection = await asyncpg.connect(url)
        async with connection.transaction():
            await connection.execute("SELECT FROM workflow_clocks FOR UPDATE")
            is_held.set()
            await asyncio.to_thread(release.wait)
        await connection.close()

    thread = threading.Thread(target=lambda: asyncio.run(hold()))
    thread.start()
    assert is_held.wait(10)
    try:
        yield
    finally:
        release.set()
        thread.join()


def ticket(ticket_id: str) -> dict[str, Any]:
    return {"ticket_id": ticket_id, "fields": dict(TICKET)}


def test_a_full_queue_is_a_503_and_what_was_taken_is_answered(
    database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path
) -> None:
    tokens = prepare(database_urls, keyring)
    settings = settings_for(database_urls, tmp_path, queue_size=2, batch_max=1)
    headers = {"Authorization": f"Bearer {tokens[Role.SERVICE]}"}
    with serving(settings, keyring) as (url, _):

        def send(name: str) -> httpx.Response:
            return httpx.post(url + PATH, json=ticket(name), headers=headers, timeout=30)

        assert send("first").status_code == 200
        with ThreadPoolExecutor(12) as threads:
            with held(database_urls.admin):
                sent = [threads.submit(send, f"t{number}") for number in range(12)]
                deadline = time.monotonic() + 10
                while sum(one.done() for one in sent) < 9:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            answers = [one.result() for one in sent]
        refused = [answer for answer in answers if answer.status_code == 503]
        assert {answer.status_code for answer in answers} == {200, 503}
        assert 9 <= len(refused) <= 10
        for answer in refused:
            assert answer.json()["code"] == "overloaded"
            assert answer.headers["retry-after"] == "1"
        listed = httpx.get(url + PATH, headers=headers).json()["decisions"]
        assert len(listed) == 1 + 12 - len(refused)


def test_a_decision_that_takes_too_long_is_a_503_and_a_retry_gets_it(
    database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path
) -> None:
    tokens = prepare(database_urls, keyring)
    settings = settings_for(database_urls, tmp_path, decide_timeout_seconds=0.4)
    headers = {"Authorization": f"Bearer {tokens[Role.SERVICE]}"}
    with serving(settings, keyring) as (url, _):
        post = httpx.Client(base_url=url, headers=headers, timeout=30).post
        assert post(PATH, json=ticket("first")).status_code == 200
        with held(database_urls.admin):
            late = post(PATH, json=ticket("late"))
        assert (late.status_code, late.json()["code"]) == (503, "decision_timeout")
        assert post(PATH, json=ticket("late")).json()["revision"] == 1


def test_a_batch_waits_where_single_tickets_are_turned_away(
    database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path
) -> None:
    tokens = prepare(database_urls, keyring)
    settings = settings_for(database_urls, tmp_path, queue_size=2, batch_max=1)
    headers = {
        "Authorization": f"Bearer {tokens[Role.SERVICE]}",
        "content-type": "application/x-ndjson",
    }
    content = b"".join(orjson.dumps(ticket(f"t{number}")) + b"\n" for number in range(100))
    with serving(settings, keyring) as (url, _):
        response = httpx.post(f"{url}{PATH}:batch", content=content, headers=headers, timeout=60)
        statuses = [orjson.loads(line)["status"] for line in response.content.splitlines()]
        assert statuses == [200] * 100


def test_a_batch_leaves_room_for_single_tickets(
    database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path
) -> None:
    tokens = prepare(database_urls, keyring)
    settings = settings_for(database_urls, tmp_path, queue_size=8, batch_max=1)
    headers = {"Authorization": f"Bearer {tokens[Role.SERVICE]}"}
    content = b"".join(orjson.dumps(ticket(f"t{number}")) + b"\n" for number in range(100))
    lines = headers | {"content-type": "application/x-ndjson"}
    with serving(settings, keyring) as (url, _), ThreadPoolExecutor(2) as threads:
        assert httpx.post(url + PATH, json=ticket("first"), headers=headers).status_code == 200
        with held(database_urls.admin):
            batch = threads.submit(
                httpx.post, f"{url}{PATH}:batch", content=content, headers=lines, timeout=60
            )
            time.sleep(1)
            single = threads.submit(
                httpx.post, url + PATH, json=ticket("single"), headers=headers, timeout=60
            )
            time.sleep(0.5)
            assert not single.done()
        assert single.result().status_code == 200
        statuses = [orjson.loads(line)["status"] for line in batch.result().content.splitlines()]
        assert statuses == [200] * 100


def head(site: Site, path: str, kind: str) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.tokens[Role.SERVICE]}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: 1000\r\n\r\n"
    ).encode()


def test_a_body_that_does_not_arrive_is_given_up(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.3)
    found = raw(site.url, head(site, PATH, "application/json") + b'{"ticket', close=False)
    assert found.startswith(b"HTTP/1.1 408")
    assert b'"code":"body_too_slow"' in found


@pytest.mark.full
def test_a_batch_whose_lines_stop_coming_is_given_up(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.3)
    line = orjson.dumps(ticket("only")) + b"\n"
    path = f"{PATH}:batch"
    found = raw(site.url, head(site, path, "application/x-ndjson") + line, close=False)
    assert b'"status":200' in found
    assert b'{"line":2,"status":408' in found
