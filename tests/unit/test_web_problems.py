"""One table from error to status, and the documents it makes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import asyncpg
import orjson
import pytest

import tiebreak.errors
from tiebreak.errors import (
    Conflict,
    IntegrityFailure,
    InvalidInput,
    NotAllowed,
    NotFound,
    Problem,
    TiebreakError,
    Unavailable,
)
from tiebreak.store.database import DatabaseUnavailable
from tiebreak.web import problems
from tiebreak.web.problems import STATUS, TITLES, document, known, problem_response, refused


def families() -> Iterator[type[TiebreakError]]:
    for _, kind in inspect.getmembers(tiebreak.errors, inspect.isclass):
        if issubclass(kind, TiebreakError):
            yield kind


@pytest.mark.parametrize(
    ("family", "status"),
    [
        (InvalidInput, 422),
        (NotFound, 404),
        (Conflict, 409),
        (NotAllowed, 403),
        (Unavailable, 503),
        (IntegrityFailure, 500),
        (TiebreakError, 500),
    ],
)
def test_each_family_has_its_status(family: type[TiebreakError], status: int) -> None:
    class Special(family):
        """Something special."""

        code = "special"

    assert problems.status_of(Special()) == status


def test_every_family_stands_in_the_table_itself() -> None:
    assert set(families()) <= STATUS.keys()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (asyncpg.DiskFullError("no space left on device"), "database_full"),
        (asyncpg.TooManyConnectionsError("sorry"), "database_unavailable"),
        (asyncpg.PostgresIOError("input/output error"), "database_unavailable"),
    ],
)
def test_a_server_that_cannot_work_is_a_503_that_names_it(error: Exception, code: str) -> None:
    found = known(error, "r")
    assert (found.code, problems.status_of(found)) == (code, 503)


def test_every_status_has_a_title() -> None:
    assert set(STATUS.values()) == TITLES.keys()


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in STATUS]
    assert len(codes) == len(set(codes))


def test_a_document_holds_message_hint_problems_and_fields() -> None:
    error = Conflict(
        "Revision 2 exists.", hint="Send 3.", problems=(Problem("a", "b", "c", "d"),), revision=2
    )
    assert document(error, "r1") == {
        "type": "urn:tiebreak:problem:conflict",
        "title": "Conflict",
        "status": 409,
        "detail": "Revision 2 exists.",
        "code": "conflict",
        "hint": "Send 3.",
        "problems": [{"where": "a", "code": "b", "message": "c", "hint": "d"}],
        "request_id": "r1",
        "fields": {"revision": 2},
    }


@pytest.mark.parametrize(
    ("error", "header", "value"),
    [
        (problems.Unauthenticated(), "www-authenticate", 'Bearer realm="tiebreak"'),
        (Unavailable(), "retry-after", "1"),
        (problems.BodyTooLarge(), "connection", "close"),
    ],
)
def test_statuses_bring_their_headers(error: TiebreakError, header: str, value: str) -> None:
    response = problem_response(error, "r")
    assert response.headers[header] == value
    assert response.media_type == "application/problem+json"
    assert orjson.loads(response.body)["status"] == response.status_code


@pytest.mark.parametrize(
    ("code", "status"), [("not_json", 400), ("invalid_utf8", 400), ("missing", 422)]
)
def test_what_cannot_be_read_is_malformed(code: str, status: int) -> None:
    found = refused((Problem("", "wrong_type", "m"), Problem("", code, "m")))
    assert problems.status_of(found) == status


def test_a_lost_connection_is_a_database_that_is_away() -> None:
    assert isinstance(known(ConnectionResetError("x"), "r"), DatabaseUnavailable)


def test_an_unexpected_error_tells_nothing_of_its_message() -> None:
    told = document(known(ValueError("secret-marker"), "r"), "r")
    assert told["status"] == 500
    assert "secret-marker" not in str(told)
