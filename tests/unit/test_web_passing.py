"""Workers pass connections on: a few tickets meet in one, many spread."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from tiebreak.supervised import headcount, inboxes
from tiebreak.supervised.headcount import ABSENT, FRESH_SECONDS, Headcount
from tiebreak.supervised.inboxes import Inboxes
from tiebreak.web.passing import GATHER_UP_TO, SPREAD_FROM, Passing, Wish, wish


@contextmanager
def places(*told: tuple[int, int]) -> Generator[list[Headcount]]:
    """A place for each worker, where it told how many connections it has and what batches."""
    file = headcount.create(len(told))
    found = [Headcount(file, place) for place in range(len(told))]
    os.close(file)
    for place, (connections, batch) in zip(found, told, strict=True):
        place.tell(connections)
        place.tell_batch(batch)
    yield found


def wishes(*told: tuple[int, int]) -> list[Wish | None]:
    """What each of the workers wishes to pass on."""
    with places(*told) as found:
        return [wish(found[0].everybody(), mine) for mine in range(len(told))]


@pytest.mark.parametrize(
    ("told", "wished"),
    [
        ([(64, 30)], [None]),
        ([(64, 200)], [None]),
        ([(32, 8), (32, 8)], [None, Wish(0, 32)]),
        ([(5, 0), (32, 8)], [None, Wish(0, 32)]),
        ([(32, 8), (5, 0)], [None, None]),
        ([(32, 12), (32, GATHER_UP_TO - 12)], [None, Wish(0, 32)]),
        ([(32, 12), (32, GATHER_UP_TO - 11)], [None, None]),
        ([(16, 9), (16, 9), (16, 9), (0, 0)], [None, None, Wish(0, 16), None]),
        ([(30, 30), (16, 9), (16, 9)], [None, None, Wish(1, 16)]),
        ([(ABSENT, 0), (16, 9), (16, 9)], [None, None, Wish(1, 16)]),
        ([(64, SPREAD_FROM), (0, 0)], [Wish(1, 32), None]),
        ([(64, SPREAD_FROM - 1), (0, 0)], [None, None]),
        ([(30, 9), (64, SPREAD_FROM), (4, 0)], [None, Wish(2, 30), None]),
        ([(64, 64), (ABSENT, 0)], [None, None]),
        ([(33, 99), (32, 99)], [None, None]),
    ],
)
def test_who_passes_on_what_to_whom(told: list[tuple[int, int]], wished: list[Wish | None]) -> None:
    assert wishes(*told) == wished


def test_what_was_spread_is_not_gathered_again_nor_what_was_gathered_spread() -> None:
    assert GATHER_UP_TO < SPREAD_FROM


def test_nothing_goes_to_one_who_has_not_told_of_late(monkeypatch: pytest.MonkeyPatch) -> None:
    with places((32, 8), (32, 8)) as found:
        monkeypatch.setattr("tiebreak.supervised.headcount.FRESH_SECONDS", -FRESH_SECONDS)
        assert wish(found[1].everybody(), 1) is None


class _Server(asyncio.Protocol):
    """Answers each piece with the name of who serves, and passes the connection on if it shall."""

    def __init__(self, name: bytes, passing: Passing) -> None:
        self._name = name
        self._passing = passing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._name + data)
        if self._passing.pass_on(self._transport):
            self._transport.abort()


class _Workers:
    """Two workers in this process, of which the first serves the client."""

    def __init__(self, found: list[Headcount]) -> None:
        self.numbers = inboxes.create(2)
        self.passing = [
            Passing(found[place], Inboxes([os.dup(n) for n in self.numbers], place))
            for place in range(2)
        ]

    async def serve(self, name: bytes, connection: socket.socket, passing: Passing) -> None:
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: _Server(name, passing), connection)

    def inbox(self, place: int) -> Inboxes:
        """The inbox as a worker finds it that is started again."""
        return Inboxes([os.dup(number) for number in self.numbers], place)


async def test_a_connection_goes_on_where_it_was_passed_to() -> None:
    with places((2, 0), (1, 0)) as found, socket.create_server(("127.0.0.1", 0)) as door:
        workers = _Workers(found)
        reader, writer = await asyncio.open_connection(*door.getsockname())
        await workers.serve(b"second ", door.accept()[0], workers.passing[1])
        writer.write(b"one")
        assert await reader.read(99) == b"second one"
        workers.passing[0].look((0, 0))
        workers.passing[1].look((8, 4))
        writer.write(b"two")
        assert await reader.read(99) == b"second two"
        writer.write(b"three")
        await asyncio.sleep(0.05)
        (passed,) = workers.inbox(0).take()
        assert not os.get_inheritable(passed.fileno())
        await workers.serve(b"first ", passed, workers.passing[0])
        assert await reader.read(99) == b"first three"
        assert workers.inbox(0).take() == []
        writer.close()


async def test_only_as_many_are_passed_on_as_shall_be() -> None:
    with places((9, 0), (6, 0)) as found, socket.create_server(("127.0.0.1", 0)) as door:
        workers = _Workers(found)
        clients = [await asyncio.open_connection(*door.getsockname()) for _ in range(6)]
        for _ in clients:
            await workers.serve(b"first ", door.accept()[0], workers.passing[0])
        workers.passing[1].look((0, 0))
        workers.passing[0].look((SPREAD_FROM, 1))
        for reader, writer in clients:
            writer.write(b"x")
            await reader.readexactly(7)
        assert len(workers.inbox(1).take()) == 1  # and is closed, as nobody serves it
        workers.passing[0].stop()
        workers.passing[0].look((SPREAD_FROM * 9, 9))
        for reader, writer in clients[1:]:
            writer.write(b"y")
            assert await reader.readexactly(7) == b"first y"
        assert workers.inbox(1).take() == []


async def test_a_full_inbox_leaves_the_connection_where_it_is() -> None:
    numbers = inboxes.create(1)
    inbox = Inboxes(numbers, 0)
    with socket.create_server(("127.0.0.1", 0)) as door:
        given = 0
        while inbox.give(door.fileno(), 0):
            given += 1
            assert given < 100_000
        taken = inbox.take()
        assert len(taken) == given
        for each in taken:
            each.close()
        assert inbox.give(door.fileno(), 0)


def test_a_connection_that_no_file_is_left_for_is_told_of() -> None:
    inbox = Inboxes(inboxes.create(1), 0)
    with socket.create_server(("127.0.0.1", 0)) as door:
        assert inbox.give(door.fileno(), 0)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(door.fileno())
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        try:
            with capture_logs() as told:
                assert inbox.take() == []
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [line["event"] for line in told] == ["connection_lost"]
