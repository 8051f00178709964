"""Answers leave in one piece, and nothing that was written is left behind."""

from __future__ import annotations

import asyncio

from tiebreak.web.protocol import Joined


class Recorded(asyncio.Transport):
    """The pieces that a transport was given to send."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.pieces.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


def joined() -> tuple[Joined, Recorded]:
    recorded = Recorded()
    return Joined(recorded, asyncio.get_running_loop()), recorded


async def test_head_and_body_leave_at_once_in_one_piece() -> None:
    transport, sent = joined()
    transport.write(b"head ")
    transport.write(b"body")
    assert sent.pieces == [b"head body"]
    await asyncio.sleep(0)
    assert sent.pieces == [b"head body"]


async def test_a_piece_that_is_alone_leaves_in_the_same_turn() -> None:
    transport, sent = joined()
    for piece in (b"a", b"b", b"c"):
        transport.write(piece)
    await asyncio.sleep(0)
    assert sent.pieces == [b"ab", b"c"]
    transport.write(b"d")
    await asyncio.sleep(0)
    assert sent.pieces == [b"ab", b"c", b"d"]


async def test_closing_sends_what_was_written_before() -> None:
    transport, sent = joined()
    transport.write(b"last")
    assert not transport.is_closing()
    transport.close()
    assert sent.pieces == [b"last"]
    assert transport.is_closing()


async def test_nothing_is_written_to_a_connection_that_was_lost() -> None:
    transport, sent = joined()
    transport.write(b"late")
    sent.close()
    await asyncio.sleep(0)
    assert sent.pieces == []
