"""The Arrow IPC stream format: messages one after the other, each of a bounded size.

Polars reads a stream only whole, so it is cut into its record batches here. Only what frames a
message is read (the Arrow columnar format, "Encapsulated message format"); columns are for Polars.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import BinaryIO

CONTINUATION = b"\xff\xff\xff\xff"
END = CONTINUATION + b"\0\0\0\0"
MAX_HEAD_BYTES = 4 << 20
MAX_BODY_BYTES = 128 << 20
MAX_DICTIONARY_BYTES = 128 << 20  # of all that are in use


class NotArrow(Exception):
    """These bytes are not an Arrow IPC stream."""


class TooLarge(NotArrow):
    """A message is larger than what is taken at once."""


class Header(IntEnum):
    """What a message holds."""

    SCHEMA = 1
    DICTIONARY = 2
    BATCH = 3


@dataclass(frozen=True, slots=True)
class Message:
    """One message: what it holds, the dictionary it defines, and its bytes."""

    header: Header
    dictionary_id: int
    content: bytes


def batches(source: BinaryIO) -> Iterator[bytes]:
    """Each record batch as a stream of its own, with the schema and dictionaries it needs.

    Raises `NotArrow`; never holds more than one batch and the dictionaries.
    """
    schema, dictionaries = b"", dict[int, bytes]()
    for message in _messages(source):
        match message.header:
            case Header.SCHEMA:
                if schema:
                    raise NotArrow("it has a second schema")
                schema = message.content
            case Header.DICTIONARY:
                dictionaries[message.dictionary_id] = message.content
                if sum(map(len, dictionaries.values())) > MAX_DICTIONARY_BYTES:
                    raise TooLarge(
                        f"its dictionaries have more than {MAX_DICTIONARY_BYTES:,} bytes"
                    )
            case Header.BATCH:
                if not schema:
                    raise NotArrow("it has no schema")
                yield b"".join((schema, *dictionaries.values(), message.content, END))
    if not schema:
        raise NotArrow("it has no schema")


def _messages(source: BinaryIO) -> Iterator[Message]:
    start = source.read(8)
    while start and start != END:  # a stream may also just end
        if len(start) < 8:
            raise NotArrow("it is cut off")
        if not start.startswith(CONTINUATION):
            raise NotArrow("it is no Arrow IPC stream of version 1.0 or newer")
        size = int.from_bytes(start[4:], "little", signed=True)
        if not 0 < size <= MAX_HEAD_BYTES:
            raise TooLarge(f"the head of a message has {size:,} bytes, at most {MAX_HEAD_BYTES:,}")
        head = _exactly(source, size)
        try:
            header, dictionary_id, body_bytes = _read_head(head)
        except (struct.error, ValueError):
            raise NotArrow("the head of a message cannot be read") from None
        if not 0 <= body_bytes <= MAX_BODY_BYTES:
            raise TooLarge(f"a record batch has {body_bytes:,} bytes, at most {MAX_BODY_BYTES:,}")
        body = _exactly(source, body_bytes)
        yield Message(header, dictionary_id, b"".join((start, head, body)))
        start = source.read(8)


def _exactly(source: BinaryIO, size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise NotArrow("it is cut off")
    return data


def _read_head(head: bytes) -> tuple[Header, int, int]:
    """Header, dictionary id and body length of a `Message` flatbuffer."""
    root = _number(head, "<I", 0)
    header = Header(_field(head, root, 1, "<B"))
    body_bytes = _field(head, root, 3, "<q")
    dictionary_id = 0
    if header is Header.DICTIONARY:
        offset = _offset(head, root, 2)
        if offset is None:
            raise ValueError("a dictionary without a header")
        table = offset + _number(head, "<I", offset)
        dictionary_id = _field(head, table, 0, "<q")
        if _field(head, table, 2, "<B"):
            raise NotArrow("its dictionaries come in parts, which is not read; write them whole")
    return header, dictionary_id, body_bytes


def _field(head: bytes, table: int, slot: int, kind: str) -> int:
    """A scalar field of a flatbuffer's table; 0 when it is left out."""
    offset = _offset(head, table, slot)
    return 0 if offset is None else _number(head, kind, offset)


def _offset(head: bytes, table: int, slot: int) -> int | None:
    vtable = table - _number(head, "<i", table)
    place = 4 + 2 * slot
    if place + 2 > _number(head, "<H", vtable):
        return None
    relative = _number(head, "<H", vtable + place)
    return table + relative if relative else None


def _number(head: bytes, kind: str, offset: int) -> int:
    if offset < 0:
        raise ValueError("an offset points before the start")
    value: int = struct.unpack_from(kind, head, offset)[0]
    return value
