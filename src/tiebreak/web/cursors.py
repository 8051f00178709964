"""Cursors: where the next page begins, as an opaque text."""

from __future__ import annotations

import base64
import uuid
from datetime import UTC, datetime, timedelta

from tiebreak.errors import InvalidInput

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class InvalidCursor(InvalidInput):
    """The cursor is not one that this list gave."""

    code = "cursor_invalid"


Position = tuple[datetime, uuid.UUID]


def write_cursor(position: Position) -> str:
    """The cursor after the decision with this `as_of` and id."""
    micros = (position[0] - _EPOCH) // _MICROSECOND
    return base64.urlsafe_b64encode(micros.to_bytes(8, "big") + position[1].bytes).decode()


def read_cursor(cursor: str) -> Position:
    """The position of a cursor. Raises InvalidCursor."""
    try:
        data = base64.b64decode(cursor, altchars=b"-_", validate=True)
        if len(data) != 24:
            raise ValueError
        moment = _EPOCH + int.from_bytes(data[:8], "big") * _MICROSECOND
    except (ValueError, OverflowError):
        raise InvalidCursor(hint="Start again without a cursor.") from None
    return moment, uuid.UUID(bytes=data[8:])
