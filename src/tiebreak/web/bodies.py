"""Request bodies: content type, size and time limits, chunks and lines of a stream."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import BinaryIO, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect, Request

from tiebreak.core.bodies import MAX_PROBLEMS, load_object
from tiebreak.core.suggestions import did_you_mean
from tiebreak.errors import Problem, Unavailable
from tiebreak.ingest.rows import Kind
from tiebreak.web.headers import Headers, header, headers_of
from tiebreak.web.problems import BodyTooLarge, BodyTooSlow, WrongContentType, refused

M = TypeVar("M", bound=BaseModel)

WHOLE = "body_is_whole"  # in a request's state: its body has arrived, reading it does not wait
BODY_SECONDS = 30.0  # for a whole body of one ticket, and between two chunks of a stream
JSON = ("application/json",)
LINES = (
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonlines",
)
TABLES = {
    "text/csv": Kind.CSV,
    "application/vnd.apache.arrow.stream": Kind.ARROW,
    "application/vnd.apache.parquet": Kind.PARQUET,
}


class Interrupted(Unavailable):
    """The server shuts down; lines from this one on were not read."""

    code = "interrupted"


def check_content_type(headers: Headers, accepted: Collection[str]) -> str:
    """The type of the body. Raises WrongContentType for other types, encodings, character sets."""
    kind, _, parameters = (header(headers, b"content-type") or "").partition(";")
    charset = parameters.partition("charset=")[2].strip().strip('"').lower()
    if kind.strip().lower() not in accepted or charset not in ("", "utf-8", "utf8"):
        advised = [each for each in accepted if each not in LINES[1:]]
        raise WrongContentType(hint=f"Send `Content-Type: {' or '.join(advised)}`, in UTF-8.")
    if header(headers, b"content-encoding") not in (None, "identity"):
        raise WrongContentType("Compressed bodies are not taken.", hint="Send the body as it is.")
    return kind.strip().lower()


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body. Raises BodyTooLarge, BodyTooSlow and ClientDisconnect."""
    check_length(headers_of(request), max_bytes)
    if request.scope["state"].get(WHOLE):
        return await _gathered(request, max_bytes)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _gathered(request, max_bytes)
    except TimeoutError:
        raise BodyTooSlow(hint="Send the body at once.") from None


def check_length(headers: Headers, max_bytes: int) -> None:
    """Raises BodyTooLarge when the body is said to be larger."""
    length = header(headers, b"content-length") or ""
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large(max_bytes)


async def _gathered(request: Request, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size, has_more = 0, True
    while has_more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > max_bytes:
            raise too_large(max_bytes)
        has_more = message.get("more_body", False)
    return b"".join(chunks)


async def read_model(request: Request, model: type[M], max_bytes: int) -> M:
    """The JSON body as this model. Raises MalformedBody, InvalidInput, and what reading raises."""
    check_content_type(headers_of(request), JSON)
    body = await read_body(request, max_bytes)
    loaded = load_object(body, depth=1)
    if isinstance(loaded, tuple):
        raise refused(loaded)
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        names = list(model.model_fields)
        raise refused(tuple(_problem(each, names) for each in found[:MAX_PROBLEMS])) from None


def _problem(error: ErrorDetails, names: Sequence[str]) -> Problem:
    where = ".".join(str(part)[:80] for part in error["loc"])
    hint = "" if where in names else did_you_mean(where, names)
    return Problem(where, error["type"], error["msg"], hint)


async def read_chunks(request: Request, draining: asyncio.Event) -> AsyncIterator[bytes]:
    """The body as it comes. Raises BodyTooSlow, ClientDisconnect, and Interrupted on draining."""
    stream = request.stream()
    stop = asyncio.create_task(draining.wait())
    try:
        while True:
            more = asyncio.ensure_future(anext(stream, None))
            await asyncio.wait(
                {more, stop}, timeout=BODY_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if not more.done():
                more.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await more
                raise Interrupted if stop.done() else BodyTooSlow
            chunk = more.result()
            if chunk is None:
                return
            if stop.done():
                raise Interrupted
            yield chunk
    finally:
        stop.cancel()


async def spooled(chunks: AsyncIterator[bytes], max_bytes: int) -> BinaryIO:
    """The whole body in a file without a name. Raises BodyTooLarge, and what `chunks` raises."""
    file = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - closed by who reads it
    try:
        async for chunk in chunks:
            if file.tell() + len(chunk) > max_bytes:
                raise BodyTooLarge(
                    f"A Parquet body may have {max_bytes} bytes at most.",
                    hint="Send it in parts, as an Arrow stream, or give the file to "
                    "`tiebreak decide`.",
                    max_bytes=max_bytes,
                )
            file.write(chunk)
        file.flush()
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a stream: its number from 1, and its bytes or None when it is too long."""

    number: int
    content: bytes | None


async def read_lines(chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[Line]:
    """The lines of a stream that are not blank, the last one with or without its line end.

    Never holds more than one line of `max_bytes` and one chunk.
    """
    number, rest, is_skipping = 1, bytearray(), False
    async for chunk in chunks:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            rest += chunk[start:end] if not is_skipping else b""
            start = end + 1
            if is_skipping or len(rest) > max_bytes:
                yield Line(number, None)
            elif rest.strip():
                yield Line(number, bytes(rest))
            number, is_skipping = number + 1, False
            rest.clear()
        if not is_skipping:
            rest += chunk[start:]
            if len(rest) > max_bytes:
                is_skipping = True
                rest.clear()
    if is_skipping:
        yield Line(number, None)
    elif rest.strip():
        yield Line(number, bytes(rest))


def too_large(max_bytes: int) -> BodyTooLarge:
    """The error for a body or a line of more than `max_bytes`."""
    return BodyTooLarge(
        f"A ticket may have {max_bytes} bytes at most.",
        hint="Shorten the ticket; send many to `decisions:batch`, or a file to `tiebreak decide`.",
        max_bytes=max_bytes,
    )
