"""Keys and roles over HTTP: the table of routes walked with every role, and revocation."""

from __future__ import annotations

import time

import httpx
import pytest
from fastapi.routing import APIRoute
from tests.databases import run
from tests.functional.serving import Site

from tiebreak.access.acts import ACCESS, PUBLIC
from tiebreak.access.keys import create_key, revoke_key
from tiebreak.access.roles import Role
from tiebreak.audit.lanes import Lane
from tiebreak.store.database import Database
from tiebreak.web.app import build_app

LISTED = "/v1/workflows"
DECIDED = "/v1/workflows/repairs/decisions"
PROMISED_SECONDS = 5  # in the description of the API


def routes() -> list[APIRoute]:
    found: list[APIRoute] = []
    for router in build_app().routes:
        nested = getattr(getattr(router, "original_router", None), "routes", None)
        found += [r for r in (nested or [router]) if isinstance(r, APIRoute)]
    return found


def filled(path: str) -> str:
    for name, value in {"workflow": "repairs", "ticket_id": "t1", "revision": "1"}.items():
        path = path.replace(f"{{{name}}}", value)
    path = path.replace("{decision_id}", "019d0000-0000-7000-8000-000000000000")
    return path.replace("{asset}", "favicon.png")


def test_every_route_is_in_the_table_and_the_table_has_no_others() -> None:
    assert {route.name for route in routes()} == ACCESS.keys()
    assert len(routes()) == len(ACCESS)


def test_only_these_routes_are_public() -> None:
    names = {name for name, roles in ACCESS.items() if roles == PUBLIC}
    assert names == {"livez", "readyz", "metrics", "docs", "docs_asset", "openapi"}


def test_every_route_takes_its_roles_and_refuses_all_others(site: Site) -> None:
    clients = {role: site.client(role) for role in Role}
    nobody = site.client(None)
    for route in routes():
        method, path, roles = min(route.methods), filled(route.path), ACCESS[route.name]
        status = nobody.request(method, path).status_code
        assert (status == 401) == bool(roles), route.name
        for role, client in clients.items():
            status = client.request(method, path).status_code
            assert (status == 403) == (bool(roles) and role not in roles), (route.name, role)
            assert status != 401, (route.name, role)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Basic YTpi",
        "Bearer tbk_000000000000_" + "0" * 64,
        "Bearer tbk_é",
        "tbk_000000000000_" + "0" * 64,
    ],
)
def test_other_headers_are_no_key(site: Site, header: str) -> None:
    response = httpx.get(site.url + LISTED, headers={"Authorization": header.encode()})
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert response.headers["content-type"] == "application/problem+json"


def test_a_wrong_secret_of_a_known_key_is_refused(site: Site) -> None:
    token = site.tokens[Role.ADMIN]
    wrong = token[:-1] + ("0" if token[-1] != "0" else "1")
    response = httpx.get(site.url + LISTED, headers={"Authorization": f"Bearer {wrong}"})
    assert response.status_code == 401
    assert token[-64:] not in response.text


@pytest.mark.parametrize(("method", "path"), [("GET", LISTED), ("POST", DECIDED)])
def test_a_revoked_key_is_refused_within_the_promised_time(
    site: Site, method: str, path: str
) -> None:
    async def work(revoked: str | None) -> str:
        db = await Database.open(site.urls.app, pool_size=2)
        lane = await Lane.open(db, "tests", site.keyring)
        try:
            if revoked is not None:
                await revoke_key(lane, db, revoked, actor="tests", reason="lost")
                return ""
            token = await create_key(
                lane, person="ann", roles=frozenset({Role.ADMIN}), actor="tests", expires_at=None
            )
            return str(token)
        finally:
            await db.close()

    token = run(work(None))
    client = site.client(None)

    def status() -> int:
        headers = {"Authorization": f"bearer {token}"}
        return client.request(method, path, headers=headers).status_code

    assert status() != 401
    run(work(token.split("_")[1]))
    deadline = time.monotonic() + PROMISED_SECONDS + 1
    while status() != 401:
        assert time.monotonic() < deadline, "the key still opens the door"
        time.sleep(0.2)
