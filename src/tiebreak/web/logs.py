"""Logs: JSON, one object a line, to standard error; ids of requests, decisions and keys only."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from io import BytesIO
from select import PIPE_BUF
from typing import Any, BinaryIO, cast

import orjson
import structlog

from tiebreak.settings import LogSettings

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

Event = MutableMapping[str, Any]


def configure(settings: LogSettings) -> None:
    """Send structlog and the standard library's loggers to standard error."""
    number = _LEVELS[settings.level]
    is_json = settings.format == "json"
    _lines.open(sys.stderr.fileno(), _json if is_json else _text, number)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            drop_exception_text,
            _rendered,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(cast("BinaryIO", _lines)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    if is_json:
        handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=max(number, logging.INFO), handlers=[handler], force=True)


def log_all(event: str, rows: Iterable[Event]) -> None:
    """Log an event that happened several times, each with what belongs to it, at level info."""
    if _lines.level > _LEVELS["info"]:
        return
    moment = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    rest = {"event": event, "level": "info", "timestamp": moment}
    for row in rows:
        _lines.write(_lines.render({**row, **rest}) + b"\n")
    _lines.flush()


def frames(error: BaseException) -> list[str]:
    """Where the error came from, outermost first: file, line and function, and no values.

    An error's message may quote what a caller sent, so no message is kept.
    """
    return [
        f"{frame.filename}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
    ]


def causes(error: BaseException) -> list[str]:
    """The types of the error and of what caused it."""
    found: list[str] = []
    current: BaseException | None = error
    while current is not None and len(found) < 10:
        found.append(f"{type(current).__module__}.{type(current).__qualname__}")
        current = current.__cause__ or current.__context__
    return found


def drop_exception_text(_logger: object, _method: str, event: Event) -> Event:
    """Replace a logged exception by its types and frames."""
    given = event.pop("exc_info", None)
    if given is None or given is False:
        return event
    error = given if isinstance(given, BaseException) else sys.exc_info()[1]
    if error is not None:
        event["causes"] = causes(error)
        event["frames"] = frames(error)
    return event


def _rendered(_logger: object, _method: str, event: Event) -> bytes:
    return _lines.render(event)


def _json(event: Event) -> bytes:
    return orjson.dumps(event, repr)


def _text(event: Event) -> bytes:
    """One line for people: time, level, event, then what belongs to it."""
    head = [str(event.pop(name, "")) for name in ("timestamp", "level", "event")]
    rest = [f"{name}={value}" for name, value in event.items() if value is not None]
    return " ".join([*head, *rest]).encode()


class _Lines:
    """Standard error, of which what cannot be written is dropped: a full disk fails no request.

    Lines are sent whole, and no more at once than a pipe keeps apart from those of other workers.
    """

    def __init__(self) -> None:
        self.level = sys.maxsize  # nothing is told before logs are configured
        self.render: Callable[[Event], bytes] = _json
        self._file: BinaryIO = BytesIO()

    def open(self, number: int, render: Callable[[Event], bytes], level: int) -> None:
        self.level, self.render = level, render
        self._file = open(number, "wb", PIPE_BUF, closefd=False)  # noqa: SIM115

    def write(self, data: bytes) -> None:
        try:  # noqa: SIM105 - `suppress` would cost more than the write
            self._file.write(data)
        except OSError:
            pass

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()


_lines = _Lines()


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "event": record.getMessage(),
            "logger": record.name,
            "level": record.levelname.lower(),
            "timestamp": self.formatTime(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["causes"] = causes(record.exc_info[1])
            line["frames"] = frames(record.exc_info[1])
        return orjson.dumps(line).decode()
