"""What counts as a database that is away, and what as our own mistake."""

from __future__ import annotations

import asyncpg

from tiebreak.store.database import is_connection_failure

BUSY = "cannot perform operation: another operation is in progress"


def rolled_back_after(error: Exception | None) -> Exception:
    """What asyncpg says when it rolls back a connection that seems busy, after this error."""
    try:
        try:
            if error is not None:
                raise error
        finally:
            raise asyncpg.InterfaceError(BUSY)
    except asyncpg.InterfaceError as busy:
        return busy


def test_a_connection_lost_as_a_statement_began_is_a_database_away() -> None:
    lost = asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in")
    assert is_connection_failure(rolled_back_after(lost))
    assert is_connection_failure(rolled_back_after(ConnectionResetError()))


def test_two_statements_at_once_are_our_own_mistake() -> None:
    assert not is_connection_failure(rolled_back_after(None))
    assert not is_connection_failure(rolled_back_after(asyncpg.UniqueViolationError("twice")))
