"""Deciding one ticket without ASGI: answered as the ASGI way answers, and only what is usual."""

from __future__ import annotations

import itertools
import math
import socket
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest
from starlette.types import Receive, Scope, Send
from tests.databases import DatabaseUrls, run
from tests.functional.serving import TICKET, Site, prepare, raw, serving, settings_for
from tests.functional.test_web_pressure import held

from tiebreak.access.keys import create_key
from tiebreak.access.roles import Role
from tiebreak.audit.lanes import Lane
from tiebreak.core.tickets import Submission
from tiebreak.decisions.batcher import Pending
from tiebreak.settings import Keyring
from tiebreak.store.database import Database
from tiebreak.web.edge import Edge
from tiebreak.web.idle import Idle
from tiebreak.web.keycache import KeyCache
from tiebreak.web.tally import Served, Tally

PATH = "/v1/workflows/repairs/decisions"
GENERAL = f"{PATH}?way=general"  # a query, which this route does not read, is unusual
JSON = {"content-type": "application/json"}


@pytest.fixture(autouse=True)
def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are believed for as long as a test takes, however slow the machine is."""
    monkeypatch.setattr(KeyCache.__init__, "__defaults__", (600.0,))


def content(ticket_id: str = "t1", **fields: Any) -> bytes:
    return orjson.dumps({"ticket_id": ticket_id, "fields": {**TICKET, **fields}})


@pytest.fixture
def general(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests to decide a ticket that the ASGI application was given."""
    seen: list[str] = []
    call = Edge.__call__

    async def noted(self: Edge, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/decisions"):
            seen.append(scope["path"])
        await call(self, scope, receive, send)

    monkeypatch.setattr(Edge, "__call__", noted)
    return seen


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Served]:
    """What the tally was told of requests to decide a ticket."""
    seen: list[Served] = []
    add = Tally.add

    def noted(self: Tally, each: Served) -> None:
        if each.route == "decide_ticket":
            seen.append(each)
        add(self, each)

    monkeypatch.setattr(Tally, "add", noted)
    return seen


def warm(site: Site, *roles: Role) -> None:
    """Let the server look up the keys of these roles."""
    for role in roles or (Role.SERVICE,):
        site.client(role).post(PATH, content=content("warm"), headers=JSON)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


REQUESTS: Mapping[str, tuple[Role | None, bytes, dict[str, str]]] = {
    "new": (Role.SERVICE, content(), JSON),
    "again": (Role.SERVICE, content(), JSON),
    "by another role": (Role.ADMIN, content(), JSON),
    "a charset": (Role.SERVICE, content(), {"content-type": 'application/json; charset="UTF-8"'}),
    "identity": (Role.SERVICE, content(), JSON | {"content-encoding": "identity"}),
    "no key": (None, content(), JSON),
    "no such key": (None, content(), JSON | {"authorization": f"Bearer tbk_{'0' * 12}_{'0' * 64}"}),
    "no token": (None, content(), JSON | {"authorization": "Basic abc"}),
    "wrong role": (Role.REVIEWER, content(), JSON),
    "wrong type": (Role.SERVICE, content(), {"content-type": "text/plain"}),
    "no type": (Role.SERVICE, content(), {}),
    "compressed": (Role.SERVICE, content(), JSON | {"content-encoding": "gzip"}),
    "too large": (Role.SERVICE, content(remarks="x" * 200_000), JSON),
    "no body": (Role.SERVICE, b"", JSON),
    "no JSON": (Role.SERVICE, b'{"ticket_id":', JSON),
    "no ticket": (Role.SERVICE, b"[]", JSON),
    "unknown field": (Role.SERVICE, content(kinds="leak"), JSON),
    "from the future": (Role.SERVICE, content(opened_at="2150-01-01T00:00:00Z"), JSON),
    "conflict": (Role.SERVICE, content(cost=3)[:-1] + b',"revision":1}', JSON),
}


def told(response: httpx.Response) -> tuple[int, list[tuple[str, str]], dict[str, Any]]:
    """What both ways must answer alike: all but the time and the request's id."""
    varying = ("date", "x-request-id")
    headers = [(k, "" if k in varying else v) for k, v in response.headers.items()]
    answer = response.json()
    assert answer.pop("request_id", response.headers["x-request-id"])
    return response.status_code, headers, answer


def test_both_ways_answer_alike(site: Site, general: list[str], served: list[Served]) -> None:
    warm(site, Role.SERVICE, Role.ADMIN, Role.REVIEWER)
    httpx.post(site.url + PATH, content=b"{}", headers=REQUESTS["no such key"][2])
    for name, (role, body, headers) in REQUESTS.items():
        client = site.client(role)
        both: list[tuple[int, list[tuple[str, str]], dict[str, Any]]] = []
        lines: list[Served] = []
        for path in (PATH, GENERAL):
            general.clear()
            served.clear()
            both.append(told(client.post(path, content=body, headers=headers)))
            assert len(general) == (path == GENERAL or name == "too large"), name
            eventually(lambda: len(served) == 1)
            lines.append(served[0]._replace(request_id="", seconds=0))
        assert both[0] == both[1], name
        assert lines[0] == lines[1], name


def test_an_unknown_workflow_is_answered_alike(site: Site, general: list[str]) -> None:
    warm(site)
    general.clear()
    path = "/v1/workflows/nothing/decisions"
    answers = [
        told(site.client().post(path + query, content=content(), headers=JSON))
        for query in ("", "?way=general")
    ]
    assert answers[0] == answers[1]
    assert answers[0][0] == 404
    assert len(general) == 1


def test_a_key_is_looked_up_the_general_way_and_then_believed(
    site: Site, general: list[str]
) -> None:
    for _ in range(2):
        response = site.client().post(PATH, content=content(), headers=JSON)
        assert response.status_code == 200
    assert len(general) == 1


def head(site: Site, *lines: str, path: str = PATH, method: str = "POST") -> bytes:
    token = site.tokens[Role.SERVICE]
    first = f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}"
    return "\r\n".join([*first, "Content-Type: application/json", *lines, "", ""]).encode()


def request(site: Site, body: bytes, *lines: str, path: str = PATH) -> bytes:
    return head(site, f"Content-Length: {len(body)}", *lines, path=path) + body


def connected(site: Site, receive_bytes: int = 1 << 17) -> socket.socket:
    host, port = site.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.settimeout(20)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.connect((host, int(port)))
    return connection


def answers(connection: socket.socket, count: int) -> list[httpx.Response]:
    """So many answers, in their order."""
    found: list[httpx.Response] = []
    data = b""
    while len(found) < count:
        start, end, rest = data.partition(b"\r\n\r\n")
        if end:
            status, *lines = start.decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            size = int(headers["content-length"])
            if len(rest) >= size:
                code = int(status.split(" ")[1])
                found.append(httpx.Response(code, headers=headers, content=rest[:size]))
                data = rest[size:]
                continue
        part = connection.recv(65536)
        assert part, data
        data += part
    return found


@pytest.mark.parametrize(("pause_seconds", "ways"), [(0.005, 0), (0.2, 1)])
def test_a_request_in_pieces_is_waited_for_a_moment(
    site: Site, general: list[str], pause_seconds: float, ways: int
) -> None:
    warm(site)
    general.clear()
    body = content("pieces")
    whole = request(site, body)
    cuts = (0, 30, len(whole) - len(body), len(whole) - 20, len(whole))
    with connected(site) as connection:
        for begin, end in itertools.pairwise(cuts):
            connection.sendall(whole[begin:end])
            time.sleep(pause_seconds)
        (answer,) = answers(connection, 1)
        assert (answer.status_code, answer.json()["ticket_id"]) == (200, "pieces")
        assert len(general) == ways
        connection.sendall(request(site, content("next")))
        assert answers(connection, 1)[0].json()["ticket_id"] == "next"


def test_a_chunked_body_is_decided(site: Site, general: list[str]) -> None:
    warm(site)
    general.clear()
    body = content("chunks")
    first = head(site, "Transfer-Encoding: chunked")
    parts = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:20], body[20:]))
    with connected(site) as connection:
        connection.sendall(first + parts + b"0\r\n\r\n")
        (whole,) = answers(connection, 1)
        assert general == []
        connection.sendall(first)
        connection.sendall(parts[:30])
        time.sleep(0.1)
        assert general == [PATH]
        connection.sendall(parts[30:] + b"0\r\n\r\n")
        assert answers(connection, 1)[0].json() == whole.json()


def test_pipelined_requests_are_answered_in_their_order(site: Site, general: list[str]) -> None:
    warm(site)
    general.clear()
    bad = request(site, b"{")
    sent = bad + b"".join(request(site, content(f"p{n}")) for n in range(3)) + bad
    with connected(site) as connection:
        connection.sendall(sent)
        found = answers(connection, 5)
    assert [each.status_code for each in found] == [400, 200, 200, 200, 400]
    assert [each.json()["ticket_id"] for each in found[1:4]] == ["p0", "p1", "p2"]
    assert len(general) == 4


@pytest.mark.parametrize("body", [content("last"), b"{"])
def test_nothing_is_decided_after_the_last_request_of_a_connection(
    site: Site, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm(site)
    monkeypatch.setattr(Idle, "begin", lambda _: None)  # it is not closed for being idle
    last = request(site, body, "Connection: close")
    found = raw(site.url, last + request(site, content("late")), close=False)
    assert found.count(b"HTTP/1.1 ") == 1
    assert b"connection: close\r\n" in found
    time.sleep(0.3)
    assert site.client().get("/v1/workflows/repairs/tickets/late").status_code == 404


@pytest.mark.parametrize("path", [PATH, GENERAL])
def test_a_client_that_goes_away_is_decided_for_all_the_same(
    site: Site, served: list[Served], path: str
) -> None:
    warm(site)
    eventually(lambda: len(served) == 1)
    with held(site.urls.admin):
        with connected(site) as connection:
            connection.sendall(request(site, content("gone"), path=path))
            time.sleep(0.3)
        time.sleep(0.2)
        assert len(served) == 1
    eventually(lambda: len(served) == 2)
    assert (served[1].status, served[1].decision_id is not None) == (200, True)
    assert site.client().post(PATH, content=content("gone"), headers=JSON).json()["revision"] == 1


@pytest.mark.parametrize("path", [PATH, GENERAL])
@pytest.mark.parametrize("wait_seconds", [0.0, 0.2])
def test_a_client_that_goes_away_within_its_body_is_noted(
    site: Site, served: list[Served], path: str, wait_seconds: float
) -> None:
    warm(site)
    with connected(site) as connection:
        connection.sendall(request(site, content("half"), path=path)[:-5])
        time.sleep(wait_seconds)
    eventually(lambda: len(served) == 2)
    assert served[1].status == 499


def test_answers_that_nobody_reads_do_not_pile_up(
    site: Site, general: list[str], served: list[Served]
) -> None:
    warm(site)
    general.clear()
    served.clear()
    mistaken = request(site, content("t", **{f"field{n}": n for n in range(90)}))
    sent = 0
    with connected(site, receive_bytes=4096) as connection:
        while not general:
            connection.sendall(mistaken)
            sent += 1
            eventually(lambda sent=sent: len(served) == sent or bool(general))
            assert sent < 2000
        time.sleep(0.1)
        assert len(served) == sent - 1
        assert [each.status_code for each in answers(connection, sent)] == [422] * sent


def test_a_client_that_asks_first_is_told_to_go_on(site: Site, general: list[str]) -> None:
    warm(site)
    general.clear()
    body = content("asked")
    with connected(site) as connection:
        connection.sendall(head(site, f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert answers(connection, 1)[0].json()["ticket_id"] == "asked"
    assert general == [PATH]
    whole = request(site, content("whole"), "Expect: 100-continue", "Connection: close")
    assert raw(site.url, whole, close=False).startswith(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"
    )


@pytest.mark.parametrize(
    "first",
    [
        f"POST {PATH} HTTP/1.0",
        f"POST {PATH.replace('pairs', '%70airs')} HTTP/1.1",
        f"POST {GENERAL} HTTP/1.1",
        f"POST http://x{PATH} HTTP/1.1",
    ],
)
def test_what_is_unusual_is_decided_too(site: Site, general: list[str], first: str) -> None:
    warm(site)
    general.clear()
    usual = request(site, content("unusual"), "Connection: close")
    found = raw(site.url, first.encode() + usual[usual.index(b"\r\n") :], close=False)
    assert found.startswith(b"HTTP/1.1 200 OK\r\n")
    assert general == [PATH]


@pytest.mark.parametrize("seconds", [0.3, 1.5])  # before and after connections are shut down
def test_an_answer_under_way_when_the_worker_stops_is_the_last_of_its_connection(
    database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Any, seconds: float
) -> None:
    tokens = prepare(database_urls, keyring)
    settings = settings_for(database_urls, tmp_path)
    with serving(settings, keyring) as (url, server):
        site = Site(url, settings, keyring, database_urls, tokens)
        warm(site)
        site.close()
        with connected(site) as connection:
            with held(database_urls.admin):
                connection.sendall(request(site, content("last")))
                time.sleep(0.2)
                server.should_exit = True
                time.sleep(seconds)
            (answer,) = answers(connection, 1)
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            assert connection.recv(1) == b""


def test_a_body_over_the_limit_is_refused_alike(
    database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Any, general: list[str]
) -> None:
    tokens = prepare(database_urls, keyring)
    settings = settings_for(database_urls, tmp_path, max_body_bytes=2000)
    with serving(settings, keyring) as (url, _):
        site = Site(url, settings, keyring, database_urls, tokens)
        warm(site)
        site.close()
        general.clear()
        body = content(remarks="x" * 3000)
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        found: list[tuple[int, list[tuple[str, str]], dict[str, Any]]] = []
        for path in (PATH, GENERAL):
            for sent in (
                request(site, body, path=path),
                head(site, "Transfer-Encoding: chunked", path=path) + chunked,
            ):
                with connected(site) as connection:
                    connection.sendall(sent)
                    found.append(told(answers(connection, 1)[0]))
        assert len(general) == 2
        assert found[0][0] == 413
        assert found == [found[0]] * 4


def test_a_key_that_expires_is_refused_at_once(site: Site) -> None:
    async def make() -> str:
        db = await Database.open(site.urls.app, pool_size=2)
        lane = await Lane.open(db, "tests", site.keyring)
        roles = frozenset({Role.SERVICE})
        token = await create_key(lane, person="ann", roles=roles, actor="tests", expires_at=soon)
        await db.close()
        return str(token)

    soon = datetime.now(UTC) + timedelta(seconds=4)
    headers = JSON | {"authorization": f"Bearer {run(make())}"}
    client = site.client(None)
    for _ in range(3):
        assert client.post(PATH, content=content(), headers=headers).status_code == 200
    time.sleep((soon - datetime.now(UTC)).total_seconds() + 0.1)
    assert client.post(PATH, content=content(), headers=headers).status_code == 401


def test_how_long_a_caller_was_away_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    away = list[float]()
    init = Pending.__init__

    def noted(self: Pending, submission: Submission, actor: str, away_seconds: float) -> None:
        away.append(away_seconds)
        init(self, submission, actor, away_seconds)

    warm(site)
    monkeypatch.setattr(Pending, "__init__", noted)
    with site.client(Role.SERVICE) as client:
        for number, pause_seconds in enumerate((0, 0, 0.3)):
            time.sleep(pause_seconds)
            client.post(PATH, content=content(f"away{number}"), headers=JSON).raise_for_status()
    first, second, third = away
    assert first == math.inf
    assert 0 <= second < third
    assert third >= 0.3 - 0.01  # the event loop's clock is told once a turn


def test_an_idle_connection_is_closed_and_a_busy_one_is_not(
    database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Any
) -> None:
    tokens = prepare(database_urls, keyring)
    settings = settings_for(database_urls, tmp_path)
    with serving(settings, keyring) as (url, server):
        server.config.timeout_keep_alive = 1
        site = Site(url, settings, keyring, database_urls, tokens)
        warm(site)
        site.close()
        with connected(site) as connection:
            connection.sendall(request(site, content("first")))
            answers(connection, 1)
            time.sleep(0.7)
            connection.sendall(request(site, b"{") + request(site, content("second")))
            with held(database_urls.admin):
                connection.sendall(request(site, content("third")))
                time.sleep(1.5)
            assert [each.status_code for each in answers(connection, 3)] == [400, 200, 200]
            started = time.monotonic()
            assert connection.recv(1) == b""
            assert time.monotonic() - started > 0.8
