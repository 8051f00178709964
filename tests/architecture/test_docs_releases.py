"""The table of addresses under `/v1/releases` says what the API has: methods, bodies and roles."""

from __future__ import annotations

import re
from pathlib import Path

from fastapi.routing import APIRoute

from tiebreak.access.acts import ACCESS, RELEASE_READERS
from tiebreak.access.roles import Role
from tiebreak.web.app import ROUTERS
from tiebreak.web.openapi import REQUESTS

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "release-a-change.md"
ROW = re.compile(r"^\| `(GET|POST) (/v1/releases\S*)` \| ?(.*?) ?\| (.*?) \|$", re.MULTILINE)
WORDS = {"ML engineer": Role.ML_ENGINEER, "readers": None}

Row = tuple[str, str, frozenset[str], frozenset[Role]]


def documented() -> list[Row]:
    """Method, address, fields of the body and roles of each row."""
    return [
        (method, path, frozenset(re.findall(r"`(\w+)`", body)), roles_of(roles))
        for method, path, body, roles in ROW.findall(PAGE.read_text())
    ]


def roles_of(text: str) -> frozenset[Role]:
    if text == "readers":
        return RELEASE_READERS
    return frozenset(WORDS.get(word) or Role(word) for word in text.split(", "))


def routed() -> list[Row]:
    return [
        (method, route.path, fields_of(route.name), ACCESS[route.name])
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and route.path.startswith("/v1/releases")
        for method in route.methods
    ]


def fields_of(name: str) -> frozenset[str]:
    model = REQUESTS.get(name)
    return frozenset() if model is None else frozenset(model.model_fields)


def test_the_table_of_addresses_is_that_of_the_api() -> None:
    assert sorted(documented(), key=str) == sorted(routed(), key=str)


def test_the_readers_are_named() -> None:
    (named,) = re.findall(r"^Readers are (.*?)\. ", PAGE.read_text(), re.MULTILINE)
    assert roles_of(named) == RELEASE_READERS
